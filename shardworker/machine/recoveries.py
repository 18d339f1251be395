"""How often a shard went on with what one replica had, because the majority of its voters was lost.

What that replica never got is no part of the shard any more, but others may know of it: another shard may have copied
changes from it, and results by the index of their log entry. That index is then another entry's, and those revisions
are other changes'. So whoever tells another shard of an entry says after how many recoveries the shard had it
(entry_number), and who asks on from what was told before one is refused.

Written beside the log, while the replica is stopped (shardworker/recovery.py); all other replicas get it with the
snapshot that they begin with. So it is the same on all of them, and no command reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shardworker.machine.checked_rows import CheckedRows

if TYPE_CHECKING:
    import apsw

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS recoveries (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    number INTEGER NOT NULL,
    crc INTEGER NOT NULL           -- of the number, checked whenever it is read
) STRICT
"""

_ROWS: Final = CheckedRows("recoveries", {"number": int}, "how often the shard was recovered")

_INDEX_BITS: Final = 48
"""Of a log index: at a million entries a second, enough for nine years."""


def create_schema(connection: apsw.Connection) -> None:
    """Unless it is there."""
    connection.execute(_SCHEMA)


def note_recovery(connection: apsw.Connection) -> None:
    """One more, in the open transaction. Raises Corrupt."""
    create_schema(connection)
    row = _ROWS.sealed(read_recoveries(connection) + 1)
    connection.execute("REPLACE INTO recoveries VALUES (1, ?, ?)", row)


def read_recoveries(connection: apsw.Connection) -> int:
    """How often, as this connection sees it. Raises Corrupt."""
    row = _ROWS.find(connection, "")
    number: int = 0 if row is None else row[0]
    return number


def entry_number(recoveries: int, log_index: int) -> int:
    """What names an entry of a shard's log to other shards: equal to its index in a shard that was never recovered."""
    return recoveries << _INDEX_BITS | log_index


def parts_of(number: int) -> tuple[int, int]:
    """(recoveries, log index) of an entry_number()."""
    return number >> _INDEX_BITS, number & ((1 << _INDEX_BITS) - 1)
