"""Physical removal of what lies below a table's floor, a few rows at a time; not of what is held for a cluster that
follows the table (replication/followers.py).

Rows are visited in the order of their ids, up to the floor. A row at or below the floor makes the one before it (of
the same key) unreachable, so that one goes. A tombstone goes too once its revision is below the floor: everything
older of its key has gone earlier in the same walk. A tombstone exactly at the floor stays, for a watch that starts
there, and is visited again when the floor rises.

Where the walk stands is stored in the table's row, with the rows it removed, so it survives a restart. It is this
replica's own business: no answer and no checksum depends on it, because nothing at or above the floor ever needs a
removed row.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import apsw

from shardworker.machine.tables import SUB_BITS, TableState, save_table

if TYPE_CHECKING:
    from collections.abc import Iterable


def is_swept(table: TableState, limit: int) -> bool:
    """Whether a walk up to the floor, or to `limit` if that is lower, has nothing left to do."""
    end = min(table.floor, limit)
    return end < 0 or is_swept_to(table, end)


def is_swept_to(table: TableState, revision: int) -> bool:
    """Whether a walk that knew a floor of `revision` or above has passed it."""
    return table.swept_floor >= revision and table.swept_id >= (revision + 1) << SUB_BITS


def whole_from(table: TableState) -> int:
    """Of this revision and all after it every single edit is still there, whatever may be read."""
    if table.history == 0:
        return table.floor + 1  # what is replaced is gone with the command that replaced it
    return -(-table.swept_id >> SUB_BITS)


def sweep(connection: apsw.Connection, table: TableState, rows_max: int, limit: int) -> int:
    """Visits at most rows_max rows, none after `limit`, and returns how many; 0 = nothing left. Saves the table's
    progress."""
    if is_swept(table, limit):
        return 0
    floor = min(table.floor, limit)
    start = table.swept_id
    if floor > table.swept_floor >= 0:
        start = min(start, table.swept_floor << SUB_BITS)
    walk = _sweep_tombstones if table.history == 0 else _sweep_all
    visited, table.swept_id = walk(connection, table, start, rows_max, floor)
    table.swept_floor = floor
    save_table(connection, table)
    return visited


def _sweep_all(
    connection: apsw.Connection, table: TableState, start: int, rows_max: int, floor: int
) -> tuple[int, int]:
    end = (floor + 1) << SUB_BITS
    rows: list[Any] = connection.execute(table.sql.sweep, (start, end, rows_max)).fetchall()
    gone = [prev for _, _, _, prev in rows if prev is not None]
    buried = [(key, id_) for id_, key, dead, _ in rows if dead and id_ >> SUB_BITS < floor]
    connection.executemany(table.sql.drop_dead, buried)
    # A tombstone may be both: too old, and replaced.
    _remove(connection, table, {*gone, *(id_ for _, id_ in buried)})
    return _progress(rows, rows_max, end)


def _sweep_tombstones(
    connection: apsw.Connection, table: TableState, start: int, rows_max: int, floor: int
) -> tuple[int, int]:
    """Without history each put removes what it replaces; only tombstones are left to do.

    The walk looks at a bounded number of revisions, since few of them may have one."""
    end = min((floor + 1) << SUB_BITS, start + (rows_max << SUB_BITS))
    rows: list[Any] = connection.execute(table.sql.sweep_tombstones, (start, end, rows_max)).fetchall()
    buried = [(key, id_) for id_, key in rows if id_ >> SUB_BITS < floor]
    connection.executemany(table.sql.drop_dead, buried)
    _remove(connection, table, [id_ for _, id_ in buried])
    visited, swept_id = _progress(rows, rows_max, end)
    return max(1, visited), swept_id


def _remove(connection: apsw.Connection, table: TableState, ids: Iterable[int]) -> None:
    """Removes these changes; those that an earlier visit has removed count no second time."""
    found = sorted(ids)
    if found:
        table.swept_bytes += connection.execute(
            table.sql.removed_bytes, (apsw.carray(array("q", found)),)
        ).get
        connection.executemany(table.sql.delete_change, [(id_,) for id_ in found])


def _progress(rows: list[Any], rows_max: int, end: int) -> tuple[int, int]:
    """How many rows were visited (a last look that found none counts as one), and where to go on."""
    return max(1, len(rows)), rows[-1][0] + 1 if len(rows) == rows_max else end
