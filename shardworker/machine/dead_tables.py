"""Tables that were deleted: their ids, which are never given again, and the freeing of what belonged to them.

A deleted table is gone with the command that deletes it: no later command or read finds it. What it stored is freed
afterwards, a few rows at a time, because a large table's pages can't be let go within one turn. How far that is is this
replica's own business, as with the sweep of history; which ids are dead is replicated, and part of the checksum.

The ids stay for good, a few bytes each. A coordinator that died, or that was cut off, may still ask for a table that
the catalog gave up since: whatever the order in which its request and the deletion arrive, the table does not come
back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from zlib import crc32

from shardworker.machine.checked_rows import CheckedRows
from shardworker.machine.leftovers import free_rows
from shardworker.machine.statements import forget_table_sql
from shardworker.machine.tables import BELONGINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import apsw

_SCHEMA = """
CREATE TABLE IF NOT EXISTS dead_tables (
    id INTEGER PRIMARY KEY,
    freed INTEGER NOT NULL,        -- this replica's own: whether nothing is left of it
    crc INTEGER NOT NULL           -- of the id, checked when it is read
) STRICT
"""


def _crc(table_id: int) -> int:
    return crc32(table_id.to_bytes(8, signed=True))


_ROWS: Final = CheckedRows("dead_tables", {"id": int}, "deleted table id {0}", _crc)


class DeadTables:
    """The ids of a shard's deleted tables, with the life of the transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Takes over what the database holds. Raises Corrupt."""
        self._connection = connection
        connection.execute(_SCHEMA)
        self._ids: set[int] = {id_ for (id_,) in _ROWS.all(connection, "ORDER BY id")}
        self._unfreed: set[int] = {
            id_ for (id_,) in connection.execute("SELECT id FROM dead_tables WHERE freed IS NOT 1")
        }
        self._died: set[int] = set()
        """In this turn."""
        self._freed: set[int] = set()
        """In this turn, of those that died before it."""
        self._digest: int | None = None

    def __contains__(self, table_id: int) -> bool:
        return table_id in self._ids

    def __iter__(self) -> Iterator[int]:
        """Ascending."""
        return iter(sorted(self._ids))

    @property
    def highest(self) -> int:
        """0 if no table was ever deleted."""
        return max(self._ids, default=0)

    @property
    def unfreed(self) -> list[int]:
        """Those of which something is left on this replica, ascending."""
        return sorted(self._unfreed)

    @property
    def digest(self) -> int:
        """One number over the ids, for comparing replicas."""
        if self._digest is None:
            self._digest = crc32(b"".join(id_.to_bytes(8) for id_ in self))
        return self._digest

    def add(self, table_id: int) -> None:
        """This id is dead from now on, whether or not it was ever a table's."""
        if table_id in self._ids:
            return
        self._connection.execute("INSERT INTO dead_tables VALUES (?, 0, ?)", _ROWS.sealed(table_id))
        self._ids.add(table_id)
        self._unfreed.add(table_id)
        self._died.add(table_id)
        self._digest = None

    def free(self, table_id: int, rows_max: int) -> int:
        """One step: frees at most rows_max rows of a dead table, and returns how many it looked at, at least 1."""
        for part, row in BELONGINGS.items():
            name = f"t{table_id}_{part}"
            if self._connection.table_exists("main", name):
                visited = free_rows(self._connection, name, row.key, row.size, rows_max)
                if visited:
                    return visited
                self._connection.execute(f"DROP TABLE {name}")
        self._connection.execute("UPDATE dead_tables SET freed = 1 WHERE id = ?", (table_id,))
        self._unfreed.discard(table_id)
        if table_id not in self._died:
            self._freed.add(table_id)
        forget_table_sql(table_id)
        return 1

    def committed(self) -> None:
        """The transaction is durable."""
        self._died.clear()
        self._freed.clear()

    def rollback(self) -> None:
        """The transaction was rolled back: everything is what it was before it."""
        self._ids -= self._died
        self._unfreed = (self._unfreed | self._freed) - self._died
        self._digest = None
        self.committed()
