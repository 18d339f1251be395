"""Pages are glued together, and are what message objects would have come to."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from proto.regatta import mvcc_pb2, regatta_pb2
from shardworker.machine.ops import Page, Paged
from shardworker.machine.pairs import pair_bytes
from shardworker.machine.regatta import codec, kvs
from shardworker.machine.regatta.pages import Pairs
from tests.unit.machine.shard import Shard, put

if TYPE_CHECKING:
    from proto.etcd import rpc_pb2

LENGTHS = (1, 127, 128, 300, 16_199, 16_200, 16_384)


def columns(found: rpc_pb2.RangeResponse) -> tuple[list[bytes], list[bytes]]:
    return [kv.key for kv in found.kvs], [kv.value for kv in found.kvs]


def test_a_page_is_encoded_as_its_message() -> None:
    lengths = list(itertools.product(LENGTHS, (0, *LENGTHS)))
    keys, values = [bytes(key) for key, _ in lengths], [b"v" * value for _, value in lengths]
    message = regatta_pb2.RangeResponse(
        kvs=[mvcc_pb2.KeyValue(key=key, value=value) for key, value in zip(keys, values, strict=True)],
        count=len(keys),
        more=True,
    )
    paged = Paged([kvs.encode(keys, values)], keys[-1], len(keys), False)
    assert codec.page_body(paged, more=True) == message.SerializeToString()
    assert codec.page_body(Paged([], b"", 0, False), more=False) == b""


@pytest.mark.parametrize("lengths", [(200,), (0,), (200, 0, 20_000), (16_200,)])
def test_many_at_once_count_what_they_take_one_by_one(lengths: tuple[int, ...]) -> None:
    shard = Shard()
    for number, length in enumerate(lengths):
        shard.put(b"k%d" % number, b"v" * length)
    _, found = shard.range(b"k", b"l")
    pairs = Pairs(Page(b"k", b"l", 0, False, False, 1 << 30))
    assert pairs.take(*columns(found))
    assert pairs.size_bytes == sum(pair_bytes(kv.key, kv.value) for kv in found.kvs)


def test_a_page_ends_at_the_same_pair_whichever_way_it_is_filled() -> None:
    shard = Shard()
    for number in range(40):
        shard.write(put(b"k%02d" % number, b"v" * 200))
    _, found = shard.range(b"k", b"l")
    for bytes_max in range(1, 41 * 211, 97):
        op = Page(b"k", b"l", 0, False, False, bytes_max)
        at_once, one_by_one = Pairs(op), Pairs(op)
        at_once.take(*columns(found))
        for kv in found.kvs:
            if not one_by_one.take([kv.key], [kv.value]):
                break
        assert codec.page_body(at_once.done(), more=False) == codec.page_body(one_by_one.done(), more=False)
        assert at_once.done().last_key == one_by_one.done().last_key
