"""Pages are glued together, and are what message objects would have come to."""

from __future__ import annotations

import itertools

import pytest

from proto.regatta import mvcc_pb2, regatta_pb2
from shardworker.machine.ops import Page, Paged
from shardworker.machine.pairs import pair_bytes
from shardworker.machine.regatta import codec
from shardworker.machine.regatta.pages import Pairs
from tests.unit.machine.shard import Shard, put

LENGTHS = (1, 127, 128, 300, 16_199, 16_200, 16_384)


def test_a_page_is_encoded_as_its_message() -> None:
    pairs = [(bytes(key), b"v" * value) for key, value in itertools.product(LENGTHS, (0, *LENGTHS))]
    message = regatta_pb2.RangeResponse(
        kvs=[mvcc_pb2.KeyValue(key=key, value=value) for key, value in pairs], count=len(pairs), more=True
    )
    assert codec.page_body(Paged(pairs, len(pairs), False), more=True) == message.SerializeToString()
    assert codec.page_body(Paged([], 0, False), more=False) == b""


@pytest.mark.parametrize("lengths", [(200,), (0,), (200, 0, 20_000), (16_200,)])
def test_many_at_once_count_what_they_take_one_by_one(lengths: tuple[int, ...]) -> None:
    shard = Shard()
    for number, length in enumerate(lengths):
        shard.put(b"k%d" % number, b"v" * length)
    _, found = shard.range(b"k", b"l")
    pairs = Pairs(Page(b"k", b"l", 0, False, False, 1 << 30))
    assert pairs.take(list(found.kvs))
    assert pairs.size_bytes == sum(pair_bytes(kv.key, kv.value) for kv in found.kvs)


def test_a_page_ends_at_the_same_pair_whichever_way_it_is_filled() -> None:
    shard = Shard()
    for number in range(40):
        shard.write(put(b"k%02d" % number, b"v" * 200))
    _, found = shard.range(b"k", b"l")
    for bytes_max in range(1, 41 * 211, 97):
        op = Page(b"k", b"l", 0, False, False, bytes_max)
        at_once, one_by_one = Pairs(op), Pairs(op)
        at_once.take(list(found.kvs))
        for kv in found.kvs:
            if not one_by_one.take([kv]):
                break
        assert at_once.done() == one_by_one.done()
