"""The shard's machine level in its database (proto/methods.py says what it is), with the life of the transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from zlib import crc32

from shardworker.machine.checked_rows import CheckedRows
from shardworker.machine.handler import TooNew

if TYPE_CHECKING:
    import apsw

FIRST: Final = 1
"""Of a new shard. Whoever leads it raises it at once."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS machine (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    level INTEGER NOT NULL,
    crc INTEGER NOT NULL           -- of the level, checked whenever it is read
) STRICT
"""


def _crc(level: int) -> int:
    return crc32(level.to_bytes(8, signed=True))


_ROWS: Final = CheckedRows("machine", {"level": int}, "the machine level", _crc)


class MachineLevel:
    """`current` is the level as of the last command."""

    def __init__(self, connection: apsw.Connection, build_level: int) -> None:
        """Takes over what the database holds. Raises TooNew if this build cannot go on from there, and Corrupt."""
        self._connection = connection
        self._build_level = build_level
        connection.execute(_SCHEMA)
        row = _ROWS.find(connection, "")
        if row is None:
            row = (FIRST,)
            connection.execute("INSERT INTO machine VALUES (1, ?, ?)", _ROWS.sealed(FIRST))
        self.current: int = row[0]
        self._before_turn: int | None = None
        self._check(self.current)

    def _check(self, level: int) -> None:
        if level > self._build_level:
            raise TooNew(
                f"the shard has gone on to machine level {level}, and this version can apply up to"
                f" {self._build_level}. Install the version of its other replicas, or a later one, and start again"
            )

    def rise(self, level: int) -> None:
        """The level is at least this from now on. Raises TooNew."""
        self._check(level)
        if level <= self.current:
            return
        if self._before_turn is None:
            self._before_turn = self.current
        self.current = level
        self._connection.execute("UPDATE machine SET level = ?, crc = ?", _ROWS.sealed(level))

    def committed(self) -> None:
        self._before_turn = None

    def rollback(self) -> None:
        if self._before_turn is not None:
            self.current, self._before_turn = self._before_turn, None
