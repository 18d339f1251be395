"""A table's place in the database: its row in `tables`, and its SQL tables. Their statements are in statements.py.

t<id>_rev   one row per change, in the order of changes. id = revision << 24 | position within the revision.
            `kv` is the pair encoded as field 2 of etcd's RangeResponse, so that answers are concatenations; NULL is
            a tombstone. `prev` is the id of the same key's change before this one. `crc` is the CRC-32 of `kv`, or of
            a tombstone's key (NULL where a range was deleted), for the scrub.
t<id>_live  the newest change of each key that exists now. An index over those that have a lease, and no others, leads
            from a lease to its keys.
t<id>_dead  the tombstone of each key that does not exist now but did at a revision that can still be read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from shardworker.machine.checked_rows import CheckedRows, signed, unsigned
from shardworker.machine.statements import table_sql

if TYPE_CHECKING:
    import apsw

    from shardworker.machine.statements import TableSql

SUB_BITS = 24
CHANGES_MAX = 1 << SUB_BITS
"""Changes in one revision: more would run into the next revision's ids."""
REVISION_MAX = (1 << (63 - SUB_BITS)) - 1

_CATALOG_SQL = """
CREATE TABLE IF NOT EXISTS tables (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    history INTEGER NOT NULL,      -- -1 = all, 0 = none, n = the newest n revisions
    revision INTEGER NOT NULL,
    compacted INTEGER NOT NULL,    -- -1 = never
    keys INTEGER NOT NULL,
    checksum INTEGER NOT NULL,     -- as a signed 64-bit number
    written_bytes INTEGER NOT NULL,
    freed_bytes INTEGER NOT NULL,
    quota_bytes INTEGER NOT NULL,
    is_full INTEGER NOT NULL,
    swept_id INTEGER NOT NULL,     -- this replica's own: changes below it have been swept ...
    swept_floor INTEGER NOT NULL,  -- ... for this floor ...
    swept_bytes INTEGER NOT NULL,  -- ... and so much was removed since the table began
    alarms BLOB NOT NULL,          -- (member, alarm) of each
    crc INTEGER NOT NULL           -- of all that, checked whenever the row is read
) STRICT
"""


_ALARM: Final = struct.Struct("<QI")
_ROWS: Final = CheckedRows(
    "tables",
    {
        "id": int,
        "CAST(name AS BLOB)": bytes,
        "history": int,
        "revision": int,
        "compacted": int,
        "keys": int,
        "checksum": int,
        "written_bytes": int,
        "freed_bytes": int,
        "quota_bytes": int,
        "is_full": int,
        "swept_id": int,
        "swept_floor": int,
        "swept_bytes": int,
        "alarms": bytes,
    },
    "table id {0}",
)


@dataclass(slots=True)
class TableState:
    """A table's counters as of the last applied command."""

    id: int
    name: str
    history: int
    revision: int = 1
    """A table's creation is its first revision."""
    compacted: int = -1
    keys: int = 0
    checksum: int = 0
    """Rolling over every change; equal on replicas that applied the same commands."""
    written_bytes: int = 0
    """Of all changes ever made, but for those that the command which replaced them removed (quota.py)."""
    freed_bytes: int = 0
    """Of those, what a sweep has removed, as the leader last said."""
    quota_bytes: int = 0
    """0 = none."""
    full: bool = False
    swept_id: int = 0
    swept_floor: int = -1
    swept_bytes: int = 0
    """This replica's own: what its sweeps have removed; on all replicas the same once they are done."""
    alarms: tuple[tuple[int, int], ...] = ()
    """Raised by hand: (member, etcd's AlarmType), ascending."""
    sql: TableSql = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.sql = table_sql(self.id)

    @property
    def floor(self) -> int:
        """The oldest revision that can be read; -1 while nothing was ever given up."""
        if self.history < 0:
            return self.compacted
        oldest_kept = self.revision - max(self.history, 1) + 1
        return max(self.compacted, oldest_kept) if oldest_kept > 0 else self.compacted

    @property
    def size_bytes(self) -> int:
        """What the table holds, as its quota counts."""
        return self.written_bytes - self.freed_bytes

    def copy(self) -> TableState:
        return TableState(
            self.id, self.name, self.history, self.revision, self.compacted, self.keys, self.checksum,
            self.written_bytes, self.freed_bytes, self.quota_bytes, self.full,
            self.swept_id, self.swept_floor, self.swept_bytes, self.alarms,
        )  # fmt: skip


class Belonging(NamedTuple):
    """How the rows of one SQL table are walked when they are freed."""

    key: str
    """The primary key."""
    size: str
    """Bytes that a row holds, as SQL; cheap, since SQLite knows a blob's length without reading it."""


BELONGINGS: Final = {
    "rev": Belonging("id", "length(key) + coalesce(length(kv), 0)"),
    "live": Belonging("key", "length(key)"),
    "dead": Belonging("key", "length(key)"),
}
"""What belongs to a table, the one list of it: its SQL tables by what follows t<id>_. They begin in create_table(), and
are freed and dropped in this order when the table is deleted."""


def create_schema(connection: apsw.Connection) -> None:
    connection.execute(_CATALOG_SQL)


def create_table(connection: apsw.Connection, table: TableState) -> None:
    create_rows(connection, f"t{table.id}")
    insert_table(connection, table)


def insert_table(connection: apsw.Connection, table: TableState) -> None:
    """The row of a table whose rows are there."""
    id_, name, *rest = _row(table)
    connection.execute(
        "INSERT INTO tables VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (id_, name.decode(), *rest),
    )


def create_rows(connection: apsw.Connection, name: str) -> None:
    """The SQL tables of a table's rows, their names beginning with `name`."""
    connection.execute(
        f"CREATE TABLE {name}_rev (id INTEGER PRIMARY KEY, key BLOB NOT NULL, kv BLOB, prev INTEGER, crc INTEGER)"
        " STRICT"
    )
    connection.execute(
        f"CREATE TABLE {name}_live (key BLOB PRIMARY KEY, id INTEGER NOT NULL, create_revision INTEGER NOT NULL,"
        " version INTEGER NOT NULL, lease INTEGER NOT NULL) STRICT, WITHOUT ROWID"
    )
    _index_leased(connection, name)
    connection.execute(
        f"CREATE TABLE {name}_dead (key BLOB PRIMARY KEY, id INTEGER NOT NULL) STRICT, WITHOUT ROWID"
    )


def _index_leased(connection: apsw.Connection, name: str) -> None:
    connection.execute(f"CREATE INDEX {name}_leased ON {name}_live (lease) WHERE lease <> 0")


def drop_rows(connection: apsw.Connection, name: str) -> None:
    """The opposite of create_rows(); no harm if there are none."""
    for part in BELONGINGS:
        connection.execute(f"DROP TABLE IF EXISTS {name}_{part}")


def rename_rows(connection: apsw.Connection, name: str, new_name: str, *, indexed: bool = True) -> None:
    """Gives the SQL tables of a table's rows another name, which no others have. indexed: leases lead there."""
    for part in BELONGINGS:
        connection.execute(f"ALTER TABLE {name}_{part} RENAME TO {new_name}_{part}")
    # An index keeps its name, so it is made anew: statements ask for it by the table's.
    connection.execute(f"DROP INDEX {name}_leased")
    if indexed:
        _index_leased(connection, new_name)


def delete_table(connection: apsw.Connection, table_id: int) -> None:
    """The row alone: what belongs to the table is freed later (dead_tables.py)."""
    connection.execute("DELETE FROM tables WHERE id = ?", (table_id,))


def save_table(connection: apsw.Connection, table: TableState) -> None:
    _, _, _, *changing = _row(table)
    connection.execute(
        "UPDATE tables SET revision = ?, compacted = ?, keys = ?, checksum = ?, written_bytes = ?, freed_bytes = ?,"
        " quota_bytes = ?, is_full = ?, swept_id = ?, swept_floor = ?, swept_bytes = ?, alarms = ?, crc = ?"
        " WHERE id = ?",
        (*changing, table.id),
    )


def _row(table: TableState) -> tuple[Any, ...]:
    """As it is stored, but for the type of the name."""
    return _ROWS.sealed(
        table.id, table.name.encode(), table.history, table.revision, table.compacted, table.keys,
        signed(table.checksum), table.written_bytes, table.freed_bytes, table.quota_bytes, int(table.full),
        table.swept_id, table.swept_floor, table.swept_bytes, b"".join(_ALARM.pack(*one) for one in table.alarms),
    )  # fmt: skip


def load_tables(connection: apsw.Connection) -> dict[int, TableState]:
    """All of them, in order of their ids. Raises Corrupt."""
    return {row[0]: _table(row) for row in _ROWS.all(connection, "ORDER BY id")}


def load_table(connection: apsw.Connection, table_id: int) -> TableState | None:
    """Raises Corrupt."""
    row = _ROWS.find(connection, "WHERE id = ?", (table_id,))
    return None if row is None else _table(row)


def _table(row: tuple[Any, ...]) -> TableState:
    id_, name, *numbers, alarms = row
    table = TableState(id_, name.decode(), *numbers)
    table.checksum = unsigned(table.checksum)
    table.full = bool(table.full)
    table.alarms = tuple(_ALARM.iter_unpack(alarms))
    return table
