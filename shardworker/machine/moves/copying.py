"""A table in parts, on its way from one shard to another, and taking it over beside what the target serves.

A table's changes are a log in the order of their ids. The copy appends them as they come, part by part, also while the
table is written: each part begins behind the last change of the one before, in whatever state the source is by then. So
copying what there was and catching up with what is new are the same, and nobody has to keep a state of the source.

Of what lies at or below the floor that the table had when it departed (`Move.floor`) the copy gets what can be read
there, and of what lies above all changes, whatever is compacted meanwhile: the source sweeps no further until the copy
is done. Without history a put removes at once what it replaces, which the copy does as well when it gets that put.

Where a copy stands tells, too, after how many recoveries of the source that was (recoveries.py): one that was begun
before the last of them holds what the source may have lost, and is given no further part.

Behind the changes come the results of requests (results.py), and with the last part, once the source takes no more
writes, everything else that a table has. That part opens it at the target, in the one transaction that applies it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine.appending import append, keys_with
from shardworker.machine.internal.loading import read_changes
from shardworker.machine.leases import read_leases
from shardworker.machine.moves.results import Arrived, arrived_after
from shardworker.machine.moves.states import Move, Position, State, read_move
from shardworker.machine.recoveries import entry_number, parts_of, read_recoveries
from shardworker.machine.replication.copied_leases import read_copied_leases
from shardworker.machine.replication.followers import read_followers
from shardworker.machine.replication.origins import read_origin
from shardworker.machine.stored_results import read_age_clock_ms, stored_entries
from shardworker.machine.tables import SUB_BITS, TableState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shardworker.machine.handler import Shard
    from shardworker.machine.ops import LoadedChange
    from shardworker.machine.view import View

PART_ROWS_MAX: Final = 1_000
PART_BYTES_MAX: Final = 256 << 10
"""A part ends behind so many changes or bytes, whichever come first: applying it holds up the target's other tables for
some ten milliseconds."""
ANSWERS_BYTES_MAX: Final = 64 << 10
"""Of one log entry's answers; larger ones are not taken along, and their repeat is told so."""


# ---- giving -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Export:
    """A frames.ExportRequest."""

    number: int
    after: Position


def read_export(body: bytes) -> Export:
    """Raises DecodeError."""
    request = frames.ExportRequest.FromString(body)
    return Export(request.number, position_of(request.after))


def export(view: View, op: Export) -> bytes:
    """The part of a departing table that follows. Raises MoveRefused if it does not depart, as far as this replica
    knows, or what was copied of it is of a past that was lost; Corrupt."""
    move = read_move(view.connection, view.table.id)
    if move is None or move.number != op.number or move.state not in (State.COPYING, State.FENCED):
        raise errors.MoveRefused(f"table {view.table.name} is not departing by move {op.number}")
    recoveries = read_recoveries(view.connection)
    _check_goes_on(view.table, op.after, recoveries)
    part = frames.MovePart(after=told_position(op.after))
    change, is_whole = _add_changes(view, move, op.after.change, part)
    _, result = parts_of(op.after.result)
    through = Position(change, entry_number(recoveries, result), op.after.arrived)
    if is_whole:
        through, is_whole = _add_results(view, through, recoveries, part)
    if is_whole and move.state is State.FENCED:
        _add_rest(view, move, part)
    part.through.CopyFrom(told_position(through))
    part.whole = is_whole
    return part.SerializeToString()


def _check_goes_on(table: TableState, after: Position, recoveries: int) -> None:
    """Raises MoveRefused."""
    if after != Position() and parts_of(after.result)[0] != recoveries:
        raise errors.MoveRefused(
            f"table {table.name} was copied in part before the majority of its shard was lost: what was copied may be"
            " of what was lost"
        )


def _add_changes(view: View, move: Move, after: int, part: frames.MovePart) -> tuple[int, bool]:
    """The id of the last change that was looked at, and whether that is all there are."""
    last, rows, size_bytes = after, 0, 0
    for id_, key, kv, is_wanted in _changes(view, move, after):
        rows, last = rows + 1, id_
        if is_wanted:
            part.changes.add(id=id_, key=key, kv=kv or b"")
            size_bytes += len(key) + len(kv or b"")
        if rows >= PART_ROWS_MAX or size_bytes >= PART_BYTES_MAX:
            return last, False
    return last, True


def _changes(view: View, move: Move, after: int) -> Iterator[tuple[int, bytes, bytes | None, bool]]:
    """(id, key, pair, whether the copy needs it) of what follows."""
    end = (view.table.revision + 1) << SUB_BITS
    above_floor = (move.floor + 1) << SUB_BITS
    old: Any = view.execute(view.sql.exported_old, (after + 1, above_floor, PART_ROWS_MAX))
    for id_, key, kv, crc, head in old:
        _check_sound(view.table, id_, key, kv, crc)
        is_wanted = kv is not None or id_ >> SUB_BITS == move.floor
        yield id_, key, kv, is_wanted and view.newest_before(head, above_floor) == id_
    new: Any = view.execute(view.sql.exported, (max(after + 1, above_floor), end, PART_ROWS_MAX))
    for id_, key, kv, crc, _ in new:
        _check_sound(view.table, id_, key, kv, crc)
        yield id_, key, kv, True


def _check_sound(table: TableState, id_: int, key: bytes, kv: bytes | None, crc: int | None) -> None:
    """What is damaged must not get a new checksum elsewhere."""
    sound = crc is None or crc32(key) == crc if kv is None else crc32(kv) == crc
    if not sound:
        raise errors.Corrupt(f"change {id_} of table {table.name} fails its checksum")


def _add_results(
    view: View, through: Position, recoveries: int, part: frames.MovePart
) -> tuple[Position, bool]:
    size_bytes = sum(len(change.key) + len(change.kv) for change in part.changes)
    now_ms = read_age_clock_ms(view.connection)
    for came in arrived_after(view.connection, through.arrived):
        size_bytes += _add_entry(
            part,
            came.shard,
            came.log_index,
            now_ms - came.age_clock_ms,
            came.commands,
            came.data,
            came.answers,
        )
        through = through._replace(arrived=came.number)
        if size_bytes >= PART_BYTES_MAX:
            return through, False
    for entry in stored_entries(view.connection, parts_of(through.result)[1]):
        number = entry_number(recoveries, entry.log_index)
        size_bytes += _add_entry(part, 0, number, *entry[1:])
        through = through._replace(result=number)
        if size_bytes >= PART_BYTES_MAX:
            return through, False
    return through, True


def _add_entry(
    part: frames.MovePart, shard: int, number: int, age_ms: int, commands: int, data: bytes, answers: bytes
) -> int:
    """shard: 0 = the source itself. number: of the entry, for other shards. Returns the bytes added."""
    kept = answers if len(answers) <= ANSWERS_BYTES_MAX else b""
    part.results.add(shard=shard, log_index=number, age_ms=age_ms, commands=commands, data=data, answers=kept)
    return len(data) + len(kept)


def _add_rest(view: View, move: Move, part: frames.MovePart) -> None:
    table, rest, execute = view.table, part.rest, view.connection.execute
    rest.floor = move.floor
    rest.origin = read_origin(view.connection, table.id)
    rest.revision, rest.compacted, rest.keys = table.revision, table.compacted, table.keys
    rest.checksum, rest.quota_bytes, rest.full = table.checksum, table.quota_bytes, table.full
    for member, alarm in table.alarms:
        rest.alarms.add(member=member, alarm=alarm)
    # Both in the order of their keys: equal states have equal parts.
    for lease in read_leases(view.connection, table.id):
        rest.leases.add(id=lease.id, ttl_s=lease.ttl_s, left_ms=lease.left_ms)
    for lease_id, ttl_s in read_copied_leases(view.connection, table.id):
        rest.copied_leases.add(id=lease_id, ttl_s=ttl_s)
    for name, revision in read_followers(view.connection, table.id):
        rest.followers.add(follower=name, revision=revision)
    auth = "SELECT kind, name, data FROM auth WHERE table_id = ? ORDER BY kind, name"
    for kind, name, data in execute(auth, (table.id,)):
        rest.auth.add(kind=kind, name=name, data=data)


# ---- taking over --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Import:
    """A frames.MoveImport, read and found well-formed."""

    table_id: int
    number: int
    part: frames.MovePart
    changes: Sequence[LoadedChange]


def read_import(body: bytes) -> Import:
    """Raises DecodeError, InvalidRequest."""
    request = frames.MoveImport.FromString(body)
    changes = read_changes(request.part.changes)
    if changes and changes[0].id <= request.part.after.change:
        raise errors.InvalidRequest("the changes are not in the order of their ids")
    return Import(request.table_id, request.number, request.part, changes)


def take_part(shard: Shard, move: Move, op: Import) -> None:
    """Appends the part, if it is the next one; else nothing is changed, and who brought it sees where the copy stands.
    The last one opens the table. Raises InvariantBroken, before any change, if the copy is not what it should be."""
    arrival, part = move.arrival, op.part
    assert arrival is not None
    if position_of(part.after) != arrival.position:
        return
    table = TableState(op.table_id, arrival.name, arrival.history, arrival.revision, keys=arrival.keys)
    table.written_bytes = arrival.written_bytes
    writer = shard.arriving_writer(table)
    keys = keys_with(writer, op.changes)
    if part.HasField("rest") and keys != part.rest.keys:
        raise errors.InvariantBroken(f"table {table.name} has {part.rest.keys} keys, and its copy {keys}")
    append(writer, op.changes)
    table.keys = keys
    writer.finish()
    shard.take_results(
        Arrived(
            0, told.shard or move.shard, told.log_index, told.age_ms, told.commands, told.data, told.answers
        )
        for told in part.results
    )
    if part.HasField("rest"):
        _open(shard, table, move, part.rest)
        return
    arrival = arrival._replace(
        revision=table.revision,
        keys=table.keys,
        written_bytes=table.written_bytes,
        position=position_of(part.through),
    )
    shard.moves.put(table.id, replace(move, arrival=arrival))


def _left_ms(lease: frames.MovedLease) -> int:
    """Whoever does not tell has not written it down."""
    return lease.left_ms if lease.HasField("left_ms") else 1000 * lease.ttl_s


def _open(shard: Shard, table: TableState, move: Move, rest: frames.MoveRest) -> None:
    table.revision, table.compacted, table.checksum = rest.revision, rest.compacted, rest.checksum
    table.quota_bytes, table.full = rest.quota_bytes, rest.full
    table.swept_floor, table.swept_id = rest.floor, (rest.floor + 1) << SUB_BITS
    table.alarms = tuple((alarm.member, alarm.alarm) for alarm in rest.alarms)
    shard.moves.put(table.id, Move(State.HERE, move.number, move.shard))
    shard.open_table(
        table,
        rest.origin,
        leases=[(lease.id, lease.ttl_s, _left_ms(lease)) for lease in rest.leases],
        auth=[(row.kind, row.name, row.data) for row in rest.auth],
        copied_leases={lease.id: lease.ttl_s for lease in rest.copied_leases},
    )
    for each in rest.followers:
        shard.followers.note(table, each.follower, each.revision)


def position_of(told: frames.MovePosition) -> Position:
    """As it is kept."""
    return Position(told.change, told.result, told.arrived)


def told_position(position: Position) -> frames.MovePosition:
    """As it is told."""
    return frames.MovePosition(change=position.change, result=position.result, arrived=position.arrived)
