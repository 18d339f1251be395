"""Rows that nobody reads any more, because others took their place: they are freed a few at a time.

To drop a large table takes SQLite a second a gigabyte, and nobody may wait for that. So its SQL tables are put aside
under another name, within the command that has no use for them, and emptied later. How far that is is this replica's
own business, as with the sweep of history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from shardworker.machine.tables import BELONGINGS, drop_rows, rename_rows

if TYPE_CHECKING:
    import apsw

FREE_BYTES_MAX: Final = 4 << 20
"""Of keys and values freed in one step; one larger value still goes."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS leftovers (
    number INTEGER PRIMARY KEY     -- the SQL tables are x<number>_rev and so on
) STRICT
"""


def create_schema(connection: apsw.Connection) -> None:
    """What is put aside."""
    connection.execute(_SCHEMA)


def put_aside(connection: apsw.Connection, name: str) -> None:
    """The SQL tables of rows whose names begin with `name` are nobody's from now on. No harm if there are none."""
    if not connection.table_exists("main", f"{name}_rev"):
        return
    connection.execute("INSERT INTO leftovers DEFAULT VALUES")
    rename_rows(connection, name, f"x{connection.last_insert_rowid()}", indexed=False)


def is_any(connection: apsw.Connection) -> bool:
    """Whether anything is put aside."""
    return connection.execute("SELECT 1 FROM leftovers LIMIT 1").fetchone() is not None


def free(connection: apsw.Connection, rows_max: int) -> int:
    """One step: frees at most rows_max rows; returns how many it looked at, at least 1. There has to be something."""
    number: int = connection.execute("SELECT min(number) FROM leftovers").get
    for part, row in BELONGINGS.items():
        name = f"x{number}_{part}"
        visited = free_rows(connection, name, row.key, row.size, rows_max)
        if visited:
            return visited
    drop_rows(connection, f"x{number}")
    connection.execute("DELETE FROM leftovers WHERE number = ?", (number,))
    return 1


def free_rows(connection: apsw.Connection, name: str, key: str, size: str, rows_max: int) -> int:
    """Removes the first rows by primary key, and returns how many those are."""
    rows = size_bytes = 0
    last = None
    found: Any = connection.execute(f"SELECT {key}, {size} FROM {name} ORDER BY {key} LIMIT ?", (rows_max,))
    for row_key, row_bytes in found:
        rows, last = rows + 1, row_key
        size_bytes += row_bytes
        if size_bytes >= FREE_BYTES_MAX:
            found.close()
            break
    if rows:
        connection.execute(f"DELETE FROM {name} WHERE {key} <= ?", (last,))
    return rows
