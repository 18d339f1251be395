"""Applying the leader cluster's changes to the copy of a table: the same pairs at the same revisions, or nothing.

All of a batch is checked before any of it is applied. Each put has to be the next version of what the copy holds of its
key, and each deletion has to find its key; where the leader still knows its rolling checksum, the copy has to come to
the same one. So a copy that has diverged is found by the first change that touches the difference, and by the next
checksum in any case.

A batch that the copy has already is no error: whoever brings it may not know that it was applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

from proto import errors
from proto.checksums import rolled
from proto.internal import frames_pb2 as frames
from shardworker.machine.columns import read_pairs
from shardworker.machine.etcd.codec import LEASE_TTL_S_MAX
from shardworker.machine.ops import DeleteRange
from shardworker.machine.replication.followed_index import forget_index
from shardworker.machine.tables import CHANGES_MAX, SUB_BITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shardworker.machine.writer import Writer


@dataclass(frozen=True, slots=True)
class Pair:
    """What one edit of the leader's table left of a key."""

    key: bytes
    stored: bytes | None
    """As stored there; None = deleted."""
    create_revision: int = 0
    version: int = 0
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """A frames.ReplicatedChanges, read and found well-formed."""

    origin: int
    first: int
    through: int
    checksum: int | None
    compacted: int
    revisions: Sequence[tuple[int, Sequence[Pair]]]
    leases: Mapping[int, int]
    """Seconds that those were granted for which the pairs name."""


def read_changes(body: bytes) -> Changes:
    """Raises DecodeError, and MalformedRequest for what no table can have changed."""
    request = frames.ReplicatedChanges.FromString(body)
    told = request.changes
    revisions = [
        (each.revision, [_pair(each.revision, edit) for edit in each.keys]) for each in told.revisions
    ]
    for revision, pairs in revisions:
        if not told.first <= revision <= told.through or not 0 < len(pairs) <= CHANGES_MAX:
            raise errors.MalformedRequest(f"revision {revision} of [{told.first}, {told.through}]")
    checksum = told.checksum if told.HasField("checksum") else None
    leases = granted(told.leases)
    return Changes(request.origin, told.first, told.through, checksum, told.compacted, revisions, leases)


def granted(told: Iterable[frames.GrantedLease]) -> dict[int, int]:
    """Seconds by lease. Raises MalformedRequest for what no lease can be granted for."""
    leases = {lease.id: lease.ttl_s for lease in told}
    if not all(id_ and 0 < ttl_s <= LEASE_TTL_S_MAX for id_, ttl_s in leases.items()):
        raise errors.MalformedRequest("a lease was granted for longer than any may be, or for nothing")
    return leases


def _pair(revision: int, edit: frames.KeyChange) -> Pair:
    if not edit.key:
        raise errors.MalformedRequest("a change has no key")
    if not edit.kv:
        return Pair(edit.key, None)
    _, pairs = read_pairs(edit.kv)
    if len(pairs) != 1 or pairs[0].key != edit.key or pairs[0].mod_revision != revision:
        raise errors.MalformedRequest(f"a change of revision {revision} holds another pair than its own")
    (kv,) = pairs
    return Pair(edit.key, edit.kv, kv.create_revision, kv.version, kv.lease)


def add_keys(op: Changes, keys: set[bytes]) -> None:
    """Those whose newest rows apply_changes() asks for."""
    for _, pairs in op.revisions:
        keys.update([pair.key for pair in pairs])


def apply_changes(writer: Writer, op: Changes) -> bytes:
    """The changes that the table does not have yet. Raises ReplicationGap, Diverged, before the first change."""
    table = writer.table
    if op.first > table.revision + 1:
        raise errors.ReplicationGap(
            f"the copy ends at revision {table.revision}, and these begin at {op.first}"
        )
    fresh = [each for each in op.revisions if each[0] > table.revision]
    _check_follow(table.revision, op, fresh)
    checksum = _check_fit(writer, fresh)
    if op.checksum not in (None, checksum) and op.through >= table.revision:
        raise errors.Diverged(
            f"the checksum at revision {op.through} is {checksum:016x}, not {op.checksum:016x}"
        )
    for number, (_, pairs) in enumerate(fresh):
        if number:
            writer.end()
            writer.begin()
        for pair in pairs:
            if pair.stored is None:
                writer.delete_range(DeleteRange(pair.key, b"", prev_kv=False, prev_bytes_max=None))
            else:
                put_stored(writer, pair.key, pair.stored, (pair.create_revision, pair.version, pair.lease))
    note_leases(writer, op.leases)
    if op.compacted > table.compacted:
        table.compacted = min(op.compacted, writer.revision)
    return b""


def put_stored(writer: Writer, key: bytes, stored: bytes, row: tuple[int, int, int]) -> None:
    """Puts a pair as the table that this one copies has stored it. row: create revision, version and lease."""
    before = writer.newest(key)
    id_ = writer.take_id()
    if before[2] == 0:
        writer.table.keys += 1
    writer.store(key, before, (id_, *row), stored)
    writer.note_put(key, before, stored)


def note_leases(writer: Writer, ttls: Mapping[int, int]) -> None:
    """Keys of this copy name these leases, which were granted for so many seconds."""

    def attached() -> list[int]:
        rows: list[Any] = writer.execute(writer.sql.attached_leases).fetchall()
        return [lease_id for (lease_id,) in rows]

    if ttls:
        writer.leases.copied.note(writer.table.id, ttls, attached)


def reset(writer: Writer, _op: frames.CopyReset) -> bytes:
    """The copy goes on being read, and no longer passes for what its origin was at this revision: whoever compares the
    two finds them apart, and replaces it by a snapshot. So does who does not know how far it has come."""
    writer.table.checksum = rolled(writer.table.checksum, 1, 1)
    forget_index(writer.connection, writer.table.id)
    return b""


def _check_follow(revision: int, op: Changes, fresh: Sequence[tuple[int, Sequence[Pair]]]) -> None:
    """A table's revisions are without gap, so what is told of them has to be too."""
    for number, _ in fresh:
        revision += 1
        if number != revision:
            raise errors.ReplicationGap(f"revision {number} was told where {revision} comes next")
    if op.through > revision:
        raise errors.ReplicationGap(
            f"all up to revision {op.through} was promised, and {revision} is the last"
        )


def _check_fit(writer: Writer, fresh: Sequence[tuple[int, Sequence[Pair]]]) -> int:
    """The checksum that the table comes to. Raises Diverged."""
    checksum = writer.table.checksum
    newest: dict[bytes, tuple[int, int]] = {}
    for revision, pairs in fresh:
        for place, pair in enumerate(pairs):
            key = pair.key
            held = newest.get(key) or writer.newest(key)[1:3]
            if pair.stored is None:
                now = (0, 0)
                fits = held[1] > 0
            else:
                now = (pair.create_revision, pair.version)
                fits = now == ((held[0], held[1] + 1) if held[1] else (revision, 1))
            if not fits:
                raise errors.Diverged(
                    f"revision {revision} makes version {pair.version} of key {key!r}, of which the copy has version"
                    f" {held[1]}"
                )
            newest[key] = now
            checksum = rolled(checksum, (revision << SUB_BITS) + place, crc32(pair.stored or key))
    return checksum
