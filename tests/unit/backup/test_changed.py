"""What has changed since an earlier backup: all of it, and only of the same past."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.backup import changed
from coordinator.backup.records import Compressor, RecordReader
from coordinator.catalog.source import Told
from proto import errors
from proto.catalog import TableEntry
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.regatta import maintenance_pb2 as maintenance
from shardworker.machine import history
from tests.unit.machine.copying import leader, position, told
from tests.unit.machine.shard import TABLE, Shard, delete, put, txn

if TYPE_CHECKING:
    from proto.regatta import mvcc_pb2 as mvcc

ENTRY = TableEntry("t", TABLE, ShardId(1))


class Source:
    """A table of the real state machine, told of a few revisions at a time."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    def changes(self, _table: TableEntry, first: int, *, seen: int) -> Changes:
        del seen  # it lags behind nothing
        return Changes(self._shard, first)


class Changes:
    """source.Changes of that table."""

    def __init__(self, shard: Shard, first: int) -> None:
        self._shard = shard
        self._first = first

    async def next(self) -> Told:
        first = self._first
        floor = self._shard.machine.table_status()[0].compacted_revision
        if first <= floor:
            return Told(b"", frames.TableChanges(first=first, through=first - 1, floor=floor), 0)
        some = [
            change for change in history(self._shard.connection, TABLE, first) if change.revision < first + 2
        ]
        message = told(some, first)
        self._first = message.through + 1
        return Told(b"", message, 0)


def facts(shard: Shard) -> frames.TableFacts:
    revision, checksum, keys = position(shard, TABLE)
    return frames.TableFacts(revision=revision, checksum=checksum, keys=keys)


def since(shard: Shard) -> maintenance.Facts:
    revision, checksum, _ = position(shard, TABLE)
    return maintenance.Facts(revision=revision, checksum=checksum)


def changed_since(shard: Shard, earlier: maintenance.Facts, now: frames.TableFacts) -> list[mvcc.Command]:
    async def gather() -> bytes:
        source: Any = Source(shard)
        return b"".join([piece async for piece, _ in changed.records(source, ENTRY, b"t", earlier, now)])

    out, reader = Compressor(), RecordReader()
    return list(reader.feed(out.feed(asyncio.run(gather())) + out.finish()))


def filled() -> Shard:
    shard = leader()
    shard.put(b"a", b"1")
    shard.put(b"b", b"1")
    return shard


def test_every_change_up_to_a_moment_is_told_in_order() -> None:
    shard = filled()
    earlier = since(shard)
    shard.put(b"a", b"2")
    shard.write(txn(put(b"c", b"1"), delete(b"b")))
    shard.put(b"d")
    now = facts(shard)
    shard.put(b"later")
    commands = changed_since(shard, earlier, now)
    assert [(one.kv.key, one.type) for one in commands] == [(b"a", 0), (b"c", 0), (b"b", 1), (b"d", 0)]
    assert changed_since(shard, since(shard), facts(shard)) == []


def test_another_past_is_noticed() -> None:
    shard, other = filled(), leader()
    other.put(b"a", b"1")
    other.put(b"b", b"another value")
    for one in (shard, other):
        one.put(b"c")
    earlier = filled()
    assert changed_since(shard, since(earlier), facts(shard))
    with pytest.raises(errors.BackupOutdated, match="not of this table's past"):
        changed_since(other, since(earlier), facts(other))


def test_what_is_ahead_or_no_longer_known_is_noticed() -> None:
    shard = filled()
    ahead, earlier = since(shard), maintenance.Facts(revision=1)
    ahead.revision += 1
    with pytest.raises(errors.BackupOutdated, match="it is of revision 4, and the table is at 3"):
        changed_since(shard, ahead, facts(shard))
    shard.write(etcd.CompactionRequest(revision=3))
    with pytest.raises(errors.BackupOutdated, match="what changed before 3 is no longer known"):
        changed_since(shard, earlier, facts(shard))
