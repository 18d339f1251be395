"""The counters of all tables in memory, with the life of the transaction that changes them.

The database is the truth and this a copy of it: what a command counts is seen by the next one at once, is written once
an entry, and is forgotten if the transaction is rolled back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.machine.tables import (
    TableState,
    create_table,
    delete_table,
    insert_table,
    load_tables,
    save_table,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, KeysView

    import apsw


class TableCache:
    """Every table of the shard."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Takes over what the database holds. Raises Corrupt."""
        self._connection = connection
        self._tables = load_tables(connection)
        self._before_turn: dict[int, TableState | None] = {}
        self._unsaved: set[int] = set()
        self.made_count = 0
        """Rises with each table that comes to be here, whatever becomes of its transaction."""

    def get(self, table_id: int) -> TableState | None:
        return self._tables.get(table_id)

    @property
    def ids(self) -> KeysView[int]:
        """Of all, in no order; goes on showing what is there."""
        return self._tables.keys()

    def __iter__(self) -> Iterator[TableState]:
        """In order of their ids."""
        return (table for _, table in sorted(self._tables.items()))

    def touch(self, table: TableState) -> None:
        """Says that a table is about to change: it is kept as it was, and saved with the next save()."""
        self.keep(table)
        self._unsaved.add(table.id)

    def keep(self, table: TableState) -> None:
        """Keeps what the table was before this turn, for one who saves it himself."""
        if table.id not in self._before_turn:
            self._before_turn[table.id] = table.copy()

    def create(self, table: TableState) -> None:
        create_table(self._connection, table)
        self._made(table)

    def adopt(self, table: TableState) -> None:
        """As create(), for a table whose rows are there."""
        insert_table(self._connection, table)
        self._made(table)

    def _made(self, table: TableState) -> None:
        self.made_count += 1
        self._tables[table.id] = table
        self._before_turn.setdefault(table.id, None)

    def drop(self, table: TableState) -> None:
        """The table is gone: nobody finds it any more, and what this entry has counted of it is not saved."""
        self.keep(table)
        delete_table(self._connection, table.id)
        del self._tables[table.id]
        self._unsaved.discard(table.id)

    def save(self) -> None:
        """Writes the rows of the tables that were touched, into the open transaction."""
        for table_id in sorted(self._unsaved):
            save_table(self._connection, self._tables[table_id])
        self._unsaved.clear()

    def committed(self) -> None:
        """The transaction is durable."""
        self._before_turn.clear()

    def rollback(self) -> None:
        """The transaction was rolled back: everything is what it was before it."""
        for table_id, before in self._before_turn.items():
            if before is None:
                self._tables.pop(table_id, None)  # made and dropped again perhaps
            else:
                self._tables[table_id] = before
        self._before_turn.clear()
        self._unsaved.clear()
