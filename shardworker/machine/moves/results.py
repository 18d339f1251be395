"""Results of commands that other shards applied, for tables that came from there: so that a request which is repeated
across a move is still applied once.

They are kept apart from the shard's own (window.py), which they must not push out, and leave by age alone: with the
shard's own clock of ages, as if their entries had been applied here. A shard's window does not say which table an id
belongs to, so a move brings all of it: an id costs about a hundred bytes of memory, and means nothing to other tables.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zlib import crc32

from proto import errors
from shardworker.machine.checked_rows import CheckedRows
from shardworker.machine.stored_results import Remembered, ids_of, remembered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import apsw

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS arrived_results (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    shard INTEGER NOT NULL,        -- whose log it was
    log_index INTEGER NOT NULL,    -- in that log, as entry_number() tells it
    age_clock_ms INTEGER NOT NULL, -- by this shard's clock of ages
    commands INTEGER NOT NULL,
    data BLOB NOT NULL,            -- as in `results`
    answers BLOB NOT NULL,         -- as in `answers`; empty: none is kept
    crc INTEGER NOT NULL,          -- of all but the number, checked whenever the row is read
    UNIQUE (shard, log_index)
) STRICT
"""

_NUMBERS: Final = struct.Struct("<4q")

SLACK_MS: Final = 30_000
"""What is too old leaves in so few steps, not one by one."""


class Arrived(NamedTuple):
    """The results of one entry of another shard's log."""

    number: int
    """Of the order in which they came here; never given again."""
    shard: int
    log_index: int
    """As that shard tells it (recoveries.py)."""
    age_clock_ms: int
    commands: int
    data: bytes
    answers: bytes


def _crc(_number: int, *values: Any) -> int:
    *numbers, data, answers = values
    return crc32(answers, crc32(data, crc32(_NUMBERS.pack(*numbers))))


_ROWS: Final = CheckedRows(
    "arrived_results",
    {
        "number": int,
        "shard": int,
        "log_index": int,
        "age_clock_ms": int,
        "commands": int,
        "data": bytes,
        "answers": bytes,
    },
    "arrived results {0}",
    _crc,
)


class ArrivedResults:
    """All of a shard, with the life of the transaction."""

    def __init__(self, connection: apsw.Connection, age_ms_max: int) -> None:
        """Takes over what the database holds. Raises Corrupt."""
        self._connection = connection
        self._age_ms_max = age_ms_max
        connection.execute(_SCHEMA)
        self._numbers: dict[bytes, int] = {}
        self._oldest_ms: int | None = None
        self._load()
        self._changed = False

    def _load(self) -> None:
        self._numbers.clear()
        self._oldest_ms = None
        for row in _ROWS.all(self._connection, "ORDER BY number"):
            self._enter(Arrived(*row))

    def _enter(self, arrived: Arrived) -> None:
        self._numbers.update(dict.fromkeys(ids_of(arrived.data, arrived.commands), arrived.number))
        if self._oldest_ms is None or arrived.age_clock_ms < self._oldest_ms:
            self._oldest_ms = arrived.age_clock_ms

    def known(self, request_ids: Iterable[bytes]) -> set[bytes]:
        """Those of these ids that are remembered."""
        return self._numbers.keys() & request_ids if self._numbers else set()

    def find(self, request_id: bytes) -> Remembered | None:
        """What is remembered of a request. Raises Corrupt."""
        number = self._numbers.get(request_id)
        if number is None:
            return None
        row = _ROWS.find(self._connection, "WHERE number = ?", (number,))
        if row is None:
            raise errors.Corrupt(f"the arrived results of number {number} are missing")
        arrived = Arrived(*row)
        return remembered(arrived.data, arrived.commands, request_id, lambda: arrived.answers or None)

    def add(self, coming: Iterable[Arrived]) -> None:
        """Takes these over, unless they are here already; their own numbers count for nothing."""
        for told in coming:
            _, *row = _ROWS.sealed(*told)
            self._connection.execute(
                "INSERT OR IGNORE INTO arrived_results VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row
            )
            if self._connection.changes():
                self._changed = True
                self._enter(told._replace(number=self._connection.last_insert_rowid()))

    def prune(self, age_clock_ms: int) -> None:
        """The shard's clock of ages stands here: what is too old leaves."""
        kept_from = age_clock_ms - self._age_ms_max
        if self._oldest_ms is None or self._oldest_ms >= kept_from - SLACK_MS:
            return
        self._changed = True
        for row in _ROWS.all(self._connection, "WHERE age_clock_ms < ?", (kept_from,)):
            arrived = Arrived(*row)
            for request_id in ids_of(arrived.data, arrived.commands):
                if self._numbers.get(request_id) == arrived.number:
                    del self._numbers[request_id]
        self._connection.execute("DELETE FROM arrived_results WHERE age_clock_ms < ?", (kept_from,))
        self._oldest_ms = self._connection.execute("SELECT min(age_clock_ms) FROM arrived_results").get

    def __len__(self) -> int:
        """How many requests are remembered."""
        return len(self._numbers)

    def committed(self) -> None:
        """The transaction is durable."""
        self._changed = False

    def rollback(self) -> None:
        """The transaction was rolled back: everything is what it was before it."""
        if self._changed:
            self._changed = False
            self._load()


def arrived_after(connection: apsw.Connection, number: int) -> Iterator[Arrived]:
    """Those that came behind this one, in their order, of a connection's own state. Raises Corrupt."""
    for row in _ROWS.all(connection, "WHERE number > ? ORDER BY number", (number,)):
        yield Arrived(*row)
