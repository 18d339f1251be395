"""etcd's hash of a table, against a slow one over what the requests should have left behind."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import google_crc32c
import pytest

from proto import errors
from proto.etcd import kv_pb2
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.machine.etcd import hashing
from tests.unit.machine.shard import TABLE, Shard

if TYPE_CHECKING:
    from shardworker.machine import Result

NOTHING = 1084519789
"""Of no change at all, as real etcd answers it."""


def parts(shard: Shard, revision: int) -> list[Result]:
    body = etcd.HashKVRequest(revision=revision).SerializeToString()
    request = shard.machine.parse(frames.ETCD_HASH_KV, TABLE, body)
    return list(shard.machine.iterate(shard.connection, request))


def answer(shard: Shard, revision: int = 0) -> etcd.HashKVResponse:
    *before, last = parts(shard, revision)
    assert all(part.more and not part.body for part in before)
    if last.error is not None:
        raise last.error
    return etcd.HashKVResponse.FromString(last.body)


def expected(*changes: tuple[int, int, kv_pb2.KeyValue]) -> int:
    """Of (revision, place, pair), a deleted one being its key alone."""
    data = b"key"
    for revision, place, kv in changes:
        data += struct.pack(">qcq", revision, b"_", place) + (b"" if kv.version else b"t")
        data += kv.SerializeToString()
    return int(google_crc32c.value(data))


def pair(key: bytes, value: bytes, create: int, mod: int, version: int) -> kv_pb2.KeyValue:
    return kv_pb2.KeyValue(key=key, value=value, create_revision=create, mod_revision=mod, version=version)


def test_an_empty_table_and_a_negative_revision_hash_to_nothing() -> None:
    shard = Shard()
    assert answer(shard) == etcd.HashKVResponse(hash=NOTHING, compact_revision=-1)
    shard.put(b"a", b"1")
    assert answer(shard, -1).hash == NOTHING


def changed() -> tuple[Shard, list[tuple[int, int, kv_pb2.KeyValue]]]:
    shard = Shard()
    shard.put(b"a", b"1")
    shard.put(b"a", b"")
    puts = [etcd.RequestOp(request_put=etcd.PutRequest(key=key, value=b"2")) for key in (b"b", b"c")]
    shard.write(etcd.TxnRequest(success=puts))
    shard.write(etcd.DeleteRangeRequest(key=b"a"))
    shard.put(b"b", b"3")
    return shard, [
        (2, 0, pair(b"a", b"1", 2, 2, 1)),
        (3, 0, pair(b"a", b"", 2, 3, 2)),
        (4, 0, pair(b"b", b"2", 4, 4, 1)),
        (4, 1, pair(b"c", b"2", 4, 4, 1)),
        (5, 0, kv_pb2.KeyValue(key=b"a")),
        (6, 0, pair(b"b", b"3", 4, 6, 2)),
    ]


def test_the_hash_covers_every_change_up_to_its_revision() -> None:
    shard, changes = changed()
    for revision in range(2, 7):
        upto = [change for change in changes if change[0] <= revision]
        assert answer(shard, revision) == etcd.HashKVResponse(hash=expected(*upto), compact_revision=-1)
    assert answer(shard) == answer(shard, 6)
    with pytest.raises(errors.FutureRevision):
        answer(shard, 7)


@pytest.mark.parametrize("swept", [False, True])
def test_below_the_compacted_revision_only_what_can_be_seen_counts(*, swept: bool) -> None:
    shard, (_, _, b2, c2, _, b3) = changed()
    shard.write(etcd.CompactionRequest(revision=5))
    if swept:
        shard.sweep()
    assert answer(shard, 6) == etcd.HashKVResponse(hash=expected(c2, b3), compact_revision=5)
    assert answer(shard, 5) == etcd.HashKVResponse(hash=expected(b2, c2), compact_revision=5)
    with pytest.raises(errors.Compacted):
        answer(shard, 4)


@pytest.mark.parametrize(("rows", "size_bytes"), [(1, 1 << 20), (2, 1 << 20), (100, 1)])
def test_it_is_the_same_in_small_parts(monkeypatch: pytest.MonkeyPatch, rows: int, size_bytes: int) -> None:
    shard, changes = changed()
    monkeypatch.setattr(hashing, "PART_ROWS", rows)
    monkeypatch.setattr(hashing, "PART_BYTES", size_bytes)
    assert len(parts(shard, 0)) >= 3
    assert answer(shard).hash == expected(*changes)
