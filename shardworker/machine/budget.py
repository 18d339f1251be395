"""How much a command may make its replicas do.

A command is applied between two heartbeats, on every replica, and again after a restart: one that visits millions of
rows would stop its shard. So each has a budget of rows, and one over it is refused before it changes anything. What is
refused on one replica must be refused on all: the numbers here are part of the replicated behaviour, and changing one
is a change of the machine level.
"""

from __future__ import annotations

from typing import Final

from proto import errors

ROWS_MAX: Final = 200_000
"""Of one command, in rows that cost about a microsecond each: 0.2 s, where followers wait a second for their leader."""

ROWS_FREE: Final = 1_000
"""Of each command, whatever the others of its entry need: no ordinary request is refused for a neighbour's sake."""

ENTRY_ROWS_MAX: Final = 2 * ROWS_MAX
"""Of all commands of one log entry together, beyond what each has free."""

ENTRY_ANSWERS_BYTES_MAX: Final = 256 << 20
"""Of all commands of one log entry: their answers are in memory at once, and are stored together, in a row, which
SQLite ends at a billion bytes."""

COUNTED_PER_ROW: Final = 16
"""Rows that SQLite only counts, for the price of one that is looked at."""

BYTES_PER_ROW: Final = 1024
"""Bytes that are read, for the price of a row."""

DELETED_ROWS: Final = 2
"""What deleting a row within a range costs, in rows that are looked at: 1.6 to 3.5 us, where a comparison takes 1.0."""


OPERATION_ROWS: Final = 10
"""What each comparison and operation of a transaction costs, whatever it is about: 5 to 15 us."""

KEPT_BYTES: Final = 4
"""What a byte costs that is stored once more, because a put keeps its key's value, in bytes that are read."""

COUNTS_KEYS_SINCE: Final = 2
"""The machine level that counts what is done key by key: operations of a transaction, and the bytes of pairs that are
looked up. Until then only ranges counted."""


class EntryBudget:
    """What the commands of one log entry share."""

    def __init__(self, answer_bytes_max: int, *, level: int) -> None:
        """level: the shard's machine level as the entry begins."""
        self.counts_keys = level >= COUNTS_KEYS_SINCE
        self.answer_bytes_left = answer_bytes_max
        self._pool = ENTRY_ROWS_MAX
        self.rows = 0
        """Visited so far by all commands."""
        self.rows_for_next = min(ROWS_MAX, ROWS_FREE + self._pool)
        """What the next command may visit."""

    def spend(self, rows: int) -> None:
        """A command has ended that visited so many."""
        self.rows += rows
        if rows > ROWS_FREE:
            self._pool = max(0, self._pool - (rows - ROWS_FREE))
            self.rows_for_next = min(ROWS_MAX, ROWS_FREE + self._pool)


def too_much(rows_max: int) -> errors.BoathouseError:
    """The refusal of a command that went over its budget."""
    if rows_max < ROWS_MAX:
        return errors.ShardBusy("other requests of the same moment visit too many keys already; try again")
    return errors.TooManyRows(
        f"a write may visit about {ROWS_MAX:,} keys ({ROWS_MAX // DELETED_ROWS:,} if it deletes them), and a"
        f" transaction {ROWS_MAX // OPERATION_ROWS:,} one by one; split the range and send several requests"
    )
