"""The catalog's rows: the tables of a cluster, as they stand in the table `_catalog` on shard 1.

`tables/<name>` holds a JSON object with the table's id, shard and history, `next_id` the id that the next table gets.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from proto.ids import ShardId

CATALOG_NAME: Final = "_catalog"
CATALOG_ID: Final = 1
CATALOG_SHARD: Final = ShardId(1)
FIRST_TABLE_ID: Final = 10_001
"""As in Regatta; ids below are reserved."""

TABLES_PREFIX: Final = b"tables/"
TABLES_END: Final = b"tables0"  # "/" + 1
NEXT_ID: Final = b"next_id"

HistoryWord = int | Literal["all", "none"]

_NUMBERS: Final = {"all": -1, "none": 0}
_WORDS: Final[dict[int, HistoryWord]] = {-1: "all", 0: "none"}


class UnreadableRow(Exception):
    """A row that this version can't make sense of."""


@dataclass(frozen=True, slots=True)
class TableEntry:
    """Where a named keyspace lives."""

    name: str
    id: int
    shard: ShardId
    history: int = -1
    """-1 = all revisions, 0 = only the newest, n = the newest n."""

    @property
    def is_reserved(self) -> bool:
        """Whether clients may only read it."""
        return self.id < FIRST_TABLE_ID

    @property
    def history_word(self) -> HistoryWord:
        """The history as people write it."""
        return history_word(self.history)


CATALOG: Final = TableEntry(CATALOG_NAME, CATALOG_ID, CATALOG_SHARD)


def history_number(word: HistoryWord) -> int:
    """TableEntry.history for what people write."""
    return _NUMBERS[word] if isinstance(word, str) else word


def history_word(number: int) -> HistoryWord:
    """What people write for TableEntry.history."""
    return _WORDS.get(number, number)


def row_key(name: str) -> bytes:
    """The key of a table's row."""
    return TABLES_PREFIX + name.encode()


def encode_row(entry: TableEntry) -> bytes:
    """The value of a table's row."""
    return json.dumps({"id": entry.id, "shard": entry.shard, "history": entry.history_word}).encode()


def parse_row(key: bytes, value: bytes) -> TableEntry:
    """The table of a row. Raises UnreadableRow."""
    try:
        row: Any = json.loads(value)
        return TableEntry(
            key.removeprefix(TABLES_PREFIX).decode(),
            int(row["id"]),
            ShardId(int(row["shard"])),
            int(history_number(row.get("history", "all"))),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableRow(f"{type(error).__name__}: {error}") from None
