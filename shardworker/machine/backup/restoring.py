"""Putting a backup in the place of what a table holds, in bounded steps.

    begin --> parts, in any order --> edits, in theirs --> end

The parts build up the new rows beside the old ones, which go on being read and written. The end puts them in their
place, in the transaction that applies it: nobody ever sees a half of it, and who dies before leaves the table as it
was. Where the building stands is in the database with what was built. One that is given up is replaced by the next
that begins.

**Pairs keep their revisions and versions, and the table's own revision goes on rising**: it is afterwards what the
backup's was, or more if the table had come further. Nothing older than that can be read, so whoever watches or copies
the table is told that he has to look at all of it. Pairs of a backup that knows no revisions all get new ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from proto import errors
from proto.checksums import rolled
from proto.internal import frames_pb2 as frames
from shardworker.machine.backup.extras import Extras, read_extras, take_extras
from shardworker.machine.checked_rows import CheckedRows, signed, unsigned
from shardworker.machine.columns import Columns, all_or_nothing, insert_columns, read_columns
from shardworker.machine.internal.loading import read_change
from shardworker.machine.leftovers import put_aside
from shardworker.machine.replacing import replace_rows
from shardworker.machine.statements import CHANGE_BYTES
from shardworker.machine.tables import REVISION_MAX, SUB_BITS, create_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

    from shardworker.machine.ops import LoadedChange
    from shardworker.machine.writer import Writer

_SCHEMA = """
CREATE TABLE IF NOT EXISTS restores_begun (
    table_id INTEGER PRIMARY KEY,
    attempt INTEGER NOT NULL,        -- as a signed 64-bit number
    parts INTEGER NOT NULL,          -- that have come ...
    keys INTEGER NOT NULL,           -- ... and what they come to
    size_bytes INTEGER NOT NULL,
    checksum INTEGER NOT NULL,       -- as a signed 64-bit number
    newest_id INTEGER NOT NULL,
    crc INTEGER NOT NULL             -- of all that, checked whenever it is read
) STRICT
"""

_ROWS: Final = CheckedRows(
    "restores_begun",
    {
        "table_id": int,
        "attempt": int,
        "parts": int,
        "keys": int,
        "size_bytes": int,
        "checksum": int,
        "newest_id": int,
    },
    "the restore begun of table id {0}",
)


def create_schema(connection: apsw.Connection) -> None:
    """What is remembered of restores that are under way."""
    connection.execute(_SCHEMA)


@dataclass(frozen=True, slots=True)
class Part:
    """A frames.RestoredPart, read and found well-formed."""

    told: frames.RestoredPart
    columns: Columns
    edits: Sequence[LoadedChange]
    extras: Extras | None


@dataclass(slots=True)
class _Begun:
    attempt: int
    parts: int = 0
    keys: int = 0
    size_bytes: int = 0
    checksum: int = 0
    """Over all parts, whatever their order."""
    newest_id: int = 0


def read_part(body: bytes) -> Part:
    """Raises DecodeError, MalformedRequest, and InvalidRequest for what no table can have held."""
    told = frames.RestoredPart.FromString(body)
    columns, fits = read_columns(told.pairs, told.ids, told.crc)
    _check(columns, fits=fits)
    edits = [read_change(edit.id, edit.key, edit.kv) for edit in told.edits]
    is_end = told.HasField("end")
    if is_end + bool(columns.ids) + bool(edits) + told.begin + told.give_up > 1:
        raise errors.MalformedRequest("a part is of one kind")
    extras = read_extras(told.end.extras) if is_end and told.end.HasField("extras") else None
    return Part(told, columns, edits, extras)


def _check(columns: Columns, *, fits: bool) -> None:
    """Raises InvalidRequest for what no table can hold."""
    if not columns.keys_ascend():
        raise errors.InvalidRequest("the keys do not ascend")
    if not fits:
        raise errors.InvalidRequest("a key is not of its revision")
    for id_, created, version in zip(columns.ids, columns.created, columns.versions, strict=True):
        if not 0 < created <= id_ >> SUB_BITS <= REVISION_MAX or version < 1:
            raise errors.InvalidRequest(f"no key is of revision {id_ >> SUB_BITS} and version {version}")


def take_part(writer: Writer, op: Part) -> bytes:
    """The next part, or the end, which replaces the table's contents. Raises RestoreInterrupted, RestoreRefused,
    QuotaExceeded; then the table is as it was, and so is what was built."""
    told, table = op.told, writer.table
    if told.begin:
        give_up(writer.connection, table.id)
        create_rows(writer.connection, _name(table.id))
        begun = _Begun(told.attempt)
        _save(writer.connection, table.id, begun)
        return _answer(table.revision, begun)
    begun = _find(writer.connection, table.id, told.attempt)
    if told.give_up:
        give_up(writer.connection, table.id)
        return _answer(table.revision, begun)
    if told.HasField("end"):
        _end(writer, op, begun)
        return _answer(table.revision, begun)
    _check_quota(writer, op, begun)
    with all_or_nothing(writer.connection, errors.RestoreRefused("a key or a change comes twice")):
        if op.edits:
            _edit(writer.connection, _name(table.id), op.edits, begun)
        else:
            _insert(writer.connection, _name(table.id), op, begun)
    begun.parts += 1
    _save(writer.connection, table.id, begun)
    return _answer(table.revision, begun)


def give_up(connection: apsw.Connection, table_id: int) -> None:
    """What was built so far is of no use. No harm if there is nothing."""
    put_aside(connection, _name(table_id))
    connection.execute("DELETE FROM restores_begun WHERE table_id = ?", (table_id,))


def _name(table_id: int) -> str:
    return f"r{table_id}"


def _answer(revision: int, begun: _Begun) -> bytes:
    return frames.RestoredTable(revision=revision, keys=begun.keys).SerializeToString()


def _check_quota(writer: Writer, op: Part, begun: _Begun) -> None:
    quota_bytes = writer.table.quota_bytes
    if quota_bytes and begun.size_bytes + len(op.told.pairs) >= quota_bytes:
        raise errors.QuotaExceeded(
            f"the backup comes to more than the {quota_bytes} bytes that table {writer.table.name} may hold"
        )


def _insert(connection: apsw.Connection, name: str, op: Part, begun: _Begun) -> None:
    ids, keys = op.columns.ids, op.columns.keys
    insert_columns(connection, name, op.columns)
    begun.keys += len(keys)
    begun.size_bytes += op.columns.size_bytes
    begun.newest_id = max(begun.newest_id, max(ids, default=0))
    begun.checksum = unsigned(begun.checksum + rolled(op.told.crc, sum(ids), len(ids)))


def _edit(connection: apsw.Connection, name: str, edits: Sequence[LoadedChange], begun: _Begun) -> None:
    for edit in edits:
        held: Any = connection.execute(
            f"SELECT id, length(kv) FROM {name}_live CROSS JOIN {name}_rev USING (id) WHERE {name}_live.key = ?",
            (edit.key,),
        ).fetchone()
        size_bytes = len(edit.key) + CHANGE_BYTES
        if held is not None:
            connection.execute(f"DELETE FROM {name}_rev WHERE id = ?", (held[0],))
            connection.execute(f"DELETE FROM {name}_live WHERE key = ?", (edit.key,))
            begun.keys -= 1
            begun.size_bytes -= held[1] + size_bytes
        if edit.kv is not None:
            row = (edit.id, edit.key, edit.kv, crc32(edit.kv))
            connection.execute(
                f"INSERT INTO {name}_rev (id, key, kv, prev, crc) VALUES (?, ?, ?, NULL, ?)", row
            )
            live = (edit.key, edit.id, edit.create_revision, edit.version, edit.lease)
            connection.execute(f"INSERT INTO {name}_live VALUES (?, ?, ?, ?, ?)", live)
            begun.keys += 1
            begun.size_bytes += len(edit.kv) + size_bytes
        begun.newest_id = max(begun.newest_id, edit.id)
        begun.checksum = rolled(begun.checksum, edit.id, crc32(edit.kv or edit.key))


def _end(writer: Writer, op: Part, begun: _Begun) -> None:
    end, table = op.told.end, writer.table
    if end.parts != begun.parts:
        raise errors.RestoreInterrupted(f"{begun.parts} of {end.parts} parts came")
    if end.HasField("keys") and end.keys != begun.keys:
        raise errors.RestoreRefused(
            f"the backup comes to {begun.keys} keys, and when it was made there were {end.keys}"
        )
    if end.fresh_revision and table.revision >= end.fresh_revision:
        raise errors.RestoreInterrupted("the table was written to too often meanwhile")
    revision = max(begun.newest_id >> SUB_BITS, end.revision, table.revision + 1)
    if revision > REVISION_MAX:
        raise errors.RestoreRefused(f"revision {revision} is beyond what a table can have")
    writer.connection.execute("DELETE FROM restores_begun WHERE table_id = ?", (table.id,))
    checksum = rolled(begun.checksum, revision << SUB_BITS, begun.keys)
    replace_rows(
        writer,
        _name(table.id),
        revision=revision,
        checksum=checksum,
        keys=begun.keys,
        rows_bytes=begun.size_bytes,
    )
    writer.leases.drop_table(table.id)  # none of them has keys any more
    if op.extras is not None:
        take_extras(writer, op.extras)


# ---- where it stands ------------------------------------------------------------------------------------------------


def _find(connection: apsw.Connection, table_id: int, attempt: int) -> _Begun:
    """Raises RestoreInterrupted if that is not what is under way, and Corrupt."""
    row = _ROWS.find(connection, "WHERE table_id = ?", (table_id,))
    if row is None:
        raise errors.RestoreInterrupted("no restore of this table is under way")
    _, began, parts, keys, size_bytes, checksum, newest_id = row
    if unsigned(began) != attempt:
        raise errors.RestoreInterrupted("another restore of this table has begun")
    return _Begun(attempt, parts, keys, size_bytes, unsigned(checksum), newest_id)


def _save(connection: apsw.Connection, table_id: int, begun: _Begun) -> None:
    row = _ROWS.sealed(
        table_id, signed(begun.attempt), begun.parts, begun.keys, begun.size_bytes, signed(begun.checksum),
        begun.newest_id,
    )  # fmt: skip
    connection.execute("REPLACE INTO restores_begun VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
