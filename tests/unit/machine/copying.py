"""A table and its copy in two machines, and what travels between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.internal import frames_pb2 as frames
from shardworker.machine import Listen, history
from tests.unit.machine.shard import TABLE, Shard

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardworker.machine import Change, Result

COPY = 20_001


def leader(*, history: int = -1) -> Shard:
    """With a table whose changes are taken down."""
    shard = Shard(history=history)
    shard.machine.listen({TABLE: Listen.CHANGES})
    return shard


def follower(path: str = ":memory:", *, history: int = -1) -> Shard:
    """With a copy of that table."""
    shard = Shard(path, create=False)
    made = shard.write(frames.TableSpec(id=COPY, name="t", history=history, origin=TABLE))
    assert made.error is None
    return shard


def told(changes: Iterable[Change], first: int, *, with_checksum: bool = True) -> frames.TableChanges:
    """As a replica tells of changes, which must be all from `first` on."""
    message = frames.TableChanges(first=first, through=first - 1)
    for change in changes:
        revision = message.revisions.add(revision=change.revision)
        for edit in change.edits:
            revision.keys.add(key=edit.key, kv=edit.kv or b"")
        message.through = change.revision
        if with_checksum and change.checksum is not None:
            message.checksum = change.checksum
    return message


def replicate(shard: Shard, changes: frames.TableChanges, *, origin: int = TABLE) -> Result:
    return shard.write(frames.ReplicatedChanges(origin=origin, changes=changes), table=COPY)


def snapshot_of(shard: Shard) -> list[frames.TablePairs]:
    """The parts of a snapshot of the leader's table."""
    request = shard.machine.parse(frames.TABLE_PAIRS, TABLE, b"")
    parts = [result.body for result in shard.machine.iterate(shard.connection, request)]
    return [frames.TablePairs.FromString(body) for body in parts]


def take_part(shard: Shard, part: frames.TablePairs, *, origin: int = TABLE) -> Result:
    return shard.write(frames.ReplicatedPairs(origin=origin, part=part), table=COPY)


def position(shard: Shard, table: int) -> tuple[int, int, int]:
    """Revision, checksum and number of keys."""
    (status,) = [one for one in shard.machine.table_status() if one.id == table]
    return status.revision, status.checksum, status.keys


def contents(shard: Shard, table: int) -> bytes:
    """The newest pairs as stored."""
    body = shard.read_as(frames.ETCD_RANGE, b"\x0a\x01\x00\x12\x01\x00", table).body
    return body


def past(shard: Shard, table: int, revision: int) -> list[tuple[int, tuple[tuple[bytes, bytes | None], ...]]]:
    """What the table's log says from this revision on."""
    return [
        (change.revision, tuple((edit.key, edit.kv) for edit in change.edits))
        for change in history(shard.connection, table, revision)
    ]
