"""How far each follower cluster has copied each table, with the life of the transaction.

The sweep of a table's history leaves standing what such a cluster has not copied yet, although it is compacted, as long
as no more was written since the cluster last came further than a bound says: one that is gone for good holds nothing up
for long. What bound that is, is each replica's own business, as the sweep is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proto.errors import InvalidRequest
from shardworker.machine.checked_rows import CheckedRows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import apsw

    from shardworker.machine.tables import TableState

FOLLOWERS_MAX: Final = 64
"""Of one table."""
NAME_BYTES_MAX: Final = 64
"""Of a cluster."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS followers (
    table_id INTEGER NOT NULL,
    follower BLOB NOT NULL,
    revision INTEGER NOT NULL,       -- it has everything up to here
    written_bytes INTEGER NOT NULL,  -- of the table, when it came here
    crc INTEGER NOT NULL,            -- of all that, checked whenever it is read
    PRIMARY KEY (table_id, follower)
) STRICT, WITHOUT ROWID
"""

_ROWS: Final = CheckedRows(
    "followers",
    {"table_id": int, "follower": bytes, "revision": int, "written_bytes": int},
    "follower {1} of table id {0}",
)


class Position(NamedTuple):
    """Of one follower cluster in one table."""

    revision: int
    written_bytes: int


class Followers:
    """By table id and name."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Takes over what the database holds. Raises Corrupt."""
        self._connection = connection
        connection.execute(_SCHEMA)
        self._positions: dict[int, dict[str, Position]] = {}
        for table_id, name, *numbers in _ROWS.all(connection, "ORDER BY table_id, follower"):
            self._positions.setdefault(table_id, {})[name.decode()] = Position(*numbers)
        self._before_turn: dict[int, dict[str, Position]] | None = None

    def of(self, table_id: int) -> Mapping[str, Position]:
        """By the follower cluster's name, in order."""
        return self._positions.get(table_id, {})

    def note(self, table: TableState, name: str, revision: int) -> None:
        """It has copied the table up to here. Raises InvalidRequest."""
        known = self._positions.get(table.id, {})
        size_bytes = len(name.encode())
        if not 0 < size_bytes <= NAME_BYTES_MAX or not 0 <= revision <= table.revision:
            raise InvalidRequest(f"cluster {name!r} can't be at revision {revision} of table {table.name}")
        if name not in known and len(known) >= FOLLOWERS_MAX:
            raise InvalidRequest(f"{len(known)} clusters follow table {table.name} already")
        if name in known and known[name].revision == revision:
            return
        self._keep()
        position = Position(revision, table.written_bytes)
        self._positions[table.id] = dict(sorted({**known, name: position}.items()))
        row = _ROWS.sealed(table.id, name.encode(), *position)
        self._connection.execute("REPLACE INTO followers VALUES (?, ?, ?, ?, ?)", row)

    def forget(self, table: TableState, name: str) -> None:
        """It follows the table no longer. Raises InvalidRequest if it did not."""
        known = self._positions.get(table.id, {})
        if name not in known:
            raise InvalidRequest(f"no cluster {name!r} follows table {table.name}")
        self._keep()
        self._positions[table.id] = {other: at for other, at in known.items() if other != name}
        self._connection.execute(
            "DELETE FROM followers WHERE table_id = ? AND follower = ?", (table.id, name.encode())
        )

    def drop_table(self, table_id: int) -> None:
        """The table is gone."""
        if table_id in self._positions:
            self._keep()
            del self._positions[table_id]
            self._connection.execute("DELETE FROM followers WHERE table_id = ?", (table_id,))

    def held_at(self, table: TableState, keep_bytes: int) -> int | None:
        """The revision after which everything is kept for somebody who follows the table; None: nothing is."""
        return min(
            (
                position.revision
                for position in self.of(table.id).values()
                if table.written_bytes - position.written_bytes < keep_bytes
            ),
            default=None,
        )

    def _keep(self) -> None:
        if self._before_turn is None:
            self._before_turn = {table_id: dict(known) for table_id, known in self._positions.items()}

    def committed(self) -> None:
        """The transaction is durable."""
        self._before_turn = None

    def rollback(self) -> None:
        """The transaction was rolled back."""
        if self._before_turn is not None:
            self._positions, self._before_turn = self._before_turn, None


def read_followers(connection: apsw.Connection, table_id: int) -> Iterator[tuple[str, int]]:
    """Clusters and their revisions as this connection sees them, by name. Raises Corrupt."""
    rows = _ROWS.all(connection, "WHERE table_id = ? ORDER BY follower", (table_id,))
    for _, name, revision, _ in rows:
        yield name.decode(), revision
