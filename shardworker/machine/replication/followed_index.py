"""Where copies stand in the log of a cluster that speaks no replication but Regatta's, beside their data and changed
with it. There a position is an index of that log, which says nothing of revisions here.

It is a row of `origins` under the table's id with the other sign, so that no database has to change its form for it.
Builds that would take the row for an origin know no machine level at which there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shardworker.machine.checked_rows import CheckedRows

if TYPE_CHECKING:
    import apsw

_ROWS: Final = CheckedRows("origins", {"table_id": int, "origin": int}, "the leader index of table id -({0})")


def read_index(connection: apsw.Connection, table_id: int) -> int:
    """Of the last command that a copy has; 0 = that is not known, or there was none. Raises Corrupt."""
    row = _ROWS.find(connection, "WHERE table_id = ?", (-table_id,))
    return 0 if row is None else row[1]


def save_index(connection: apsw.Connection, table_id: int, leader_index: int) -> None:
    """It has come so far."""
    connection.execute("REPLACE INTO origins VALUES (?, ?, ?)", _ROWS.sealed(-table_id, leader_index))


def forget_index(connection: apsw.Connection, table_id: int) -> None:
    """Nobody knows how far it has come. No harm if nobody did."""
    connection.execute("DELETE FROM origins WHERE table_id = ?", (-table_id,))
