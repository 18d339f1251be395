"""Reading stored rows for no other reason than to see whether they are still what was written.

The tables' rolling checksums cover changes as they are made: equal ones say that two replicas applied the same, not
that their disks still hold it. So every change carries a CRC of its own, and every live key says which change it is. A
scrub walks both, in small steps, on any connection, and finds what a disk changed or lost without telling SQLite.

What it cannot find: a `prev` that points to the wrong change, and a history row that vanished whole, if it was not the
newest of its key.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from shardworker.machine.pairs import parse
from shardworker.machine.tables import SUB_BITS, load_tables

if TYPE_CHECKING:
    import apsw

    from shardworker.machine.tables import TableState

STEP_BYTES_MAX: Final = 8 << 20
"""Value bytes read in one step; one larger value still goes."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far the walk is: behind a change, then behind a live key. The default is the beginning."""

    table_id: int = 0
    change: int = 0
    changes_done: bool = False
    key: bytes = b""


@dataclass(frozen=True, slots=True)
class Step:
    """What came of one step."""

    next: Position
    rows: int
    problem: str = ""
    """The first thing found wrong; empty if nothing was."""


def scrub(connection: apsw.Connection, at: Position, rows_max: int) -> Step:
    """Look at up to rows_max rows behind `at`; at the end of the last table it stops, to begin again.

    `connection` is in no transaction, or in one that shows a whole turn. Raises Corrupt, apsw.CorruptError."""
    ours = not connection.in_transaction
    if ours:
        connection.execute("BEGIN")
    try:
        return _walk(connection, at, rows_max)
    finally:
        if ours and connection.in_transaction:  # a failed read may have ended it
            connection.execute("ROLLBACK")


def _walk(connection: apsw.Connection, at: Position, rows_max: int) -> Step:
    tables = load_tables(connection)
    rows = 0
    while True:
        table = next((table for number, table in sorted(tables.items()) if number >= at.table_id), None)
        if table is None:
            return Step(Position(), rows)
        if table.id != at.table_id:
            at = Position(table.id)
        look = _live if at.changes_done else _changes
        step = look(connection, table, at, rows_max - rows)
        rows += step.rows
        same_part = (step.next.table_id, step.next.changes_done) == (at.table_id, at.changes_done)
        if step.problem or same_part or rows >= rows_max:
            return Step(step.next, rows, step.problem)
        at = step.next


def _changes(connection: apsw.Connection, table: TableState, at: Position, rows_max: int) -> Step:
    rows = size_bytes = 0
    sql = f"SELECT id, key, kv, crc FROM {_changes_of(table)} WHERE id > ? ORDER BY id LIMIT ?"
    found: Any = connection.execute(sql, (at.change, rows_max))
    for id_, key, kv, crc in found:
        rows += 1
        at = Position(table.id, id_)
        if not _change_is_sound(key, kv, crc):
            found.close()
            where = f"change {id_ & ((1 << SUB_BITS) - 1)} of revision {id_ >> SUB_BITS}"
            return Step(at, rows, f"{where} of table {table.name} fails its checksum")
        size_bytes += len(kv or b"")
        if size_bytes > STEP_BYTES_MAX:
            found.close()
            return Step(at, rows)
    if rows < rows_max:
        at = Position(table.id, at.change, changes_done=True)
    return Step(at, rows)


def _changes_of(table: TableState) -> str:
    return f"t{table.id}_rev"


def _change_is_sound(key: bytes, kv: bytes | None, crc: int | None) -> bool:
    if kv is None:
        return crc is None or zlib.crc32(key) == crc
    return zlib.crc32(kv) == crc and key in kv


def _live(connection: apsw.Connection, table: TableState, at: Position, rows_max: int) -> Step:
    rows = size_bytes = 0
    sql = (
        f"SELECT l.key, l.id, l.create_revision, l.version, l.lease, r.kv FROM {table.sql.live_name} l"
        f" LEFT JOIN {_changes_of(table)} r ON r.id = l.id WHERE l.key > ? ORDER BY l.key LIMIT ?"
    )
    found: Any = connection.execute(sql, (at.key, rows_max))
    for key, id_, create_revision, version, lease, kv in found:
        rows += 1
        at = Position(table.id, at.change, changes_done=True, key=key)
        if not _says(kv, (key, create_revision, id_ >> SUB_BITS, version, lease)):
            found.close()
            return Step(at, rows, f"key {key!r} of table {table.name} does not match its newest change")
        size_bytes += len(kv)
        if size_bytes > STEP_BYTES_MAX:
            found.close()
            return Step(at, rows)
    if rows == rows_max:
        return Step(at, rows)
    stored: Any = connection.execute(f"SELECT count(*) FROM {table.sql.live_name}").get
    wrong = (
        f"table {table.name} counts {table.keys} keys, but {stored} are stored"
        if stored != table.keys
        else ""
    )
    return Step(Position(table.id + 1), rows, wrong)


def _says(kv: bytes | None, expected: tuple[bytes, int, int, int, int]) -> bool:
    """Whether a stored pair is the one that its live row describes. Its own checksum is the other walk's business."""
    if kv is None:
        return False
    try:
        (pair,) = parse(kv)
    except (DecodeError, ValueError):
        return False
    return (pair.key, pair.create_revision, pair.mod_revision, pair.version, pair.lease) == expected
