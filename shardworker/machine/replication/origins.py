"""Which tables copy one of the leader cluster, with the life of the transaction.

Such a table takes changes of its origin and no others: what a client writes would make it another table, with the same
revisions for different things. Its position needs no place of its own. It is the table's revision and checksum, since
both tables count the same changes, and so it is always as old as the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shardworker.machine.checked_rows import CheckedRows

if TYPE_CHECKING:
    import apsw

_SCHEMA = """
CREATE TABLE IF NOT EXISTS origins (
    table_id INTEGER PRIMARY KEY,
    origin INTEGER NOT NULL,       -- the table's id in the leader cluster
    crc INTEGER NOT NULL           -- of both, checked whenever they are read
) STRICT
"""

_ROWS: Final = CheckedRows("origins", {"table_id": int, "origin": int}, "the origin of table id {0}")


class Origins:
    """By table id; a table that is its own has none."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Takes over what the database holds. Raises Corrupt."""
        self._connection = connection
        connection.execute(_SCHEMA)
        # Below that there is where some of them stand: followed_index.
        self._origins: dict[int, int] = dict(_ROWS.all(connection, "WHERE table_id > 0 ORDER BY table_id"))
        self._before_turn: dict[int, int] | None = None

    def of(self, table_id: int) -> int:
        """The id of what the table copies; 0 = it is its own."""
        return self._origins.get(table_id, 0)

    def add(self, table_id: int, origin: int) -> None:
        """A new table copies this one."""
        self._keep()
        self._origins[table_id] = origin
        self._connection.execute("INSERT INTO origins VALUES (?, ?, ?)", _ROWS.sealed(table_id, origin))

    def change(self, table_id: int, origin: int) -> None:
        """The table copies another one from now on, or with 0 none."""
        self.remove(table_id)
        if origin:
            self.add(table_id, origin)

    def remove(self, table_id: int) -> None:
        """The table is gone."""
        if table_id in self._origins:
            self._keep()
            del self._origins[table_id]
            self._connection.execute("DELETE FROM origins WHERE table_id = ?", (table_id,))

    def _keep(self) -> None:
        if self._before_turn is None:
            self._before_turn = dict(self._origins)

    def committed(self) -> None:
        """The transaction is durable."""
        self._before_turn = None

    def rollback(self) -> None:
        """The transaction was rolled back."""
        if self._before_turn is not None:
            self._origins, self._before_turn = self._before_turn, None


def read_origin(connection: apsw.Connection, table_id: int) -> int:
    """Origins.of() as this connection sees it. Raises Corrupt."""
    row = _ROWS.find(connection, "WHERE table_id = ?", (table_id,))
    return 0 if row is None else row[1]
