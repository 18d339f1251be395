"""The catalog's rows: the tables of a cluster, as they stand in the table `_catalog` on shard 1.

`tables/<name>` holds a JSON object with the table's id, shard and settings, `next_id` the id that the next table gets.
A deletion replaces the row by `deleted/id/<id>`, which stays until the table's shard has deleted it too. `deleted/name/
<name>` says of a table that the cluster file names that it was deleted by hand: no restart makes it again. `lead` says
which cluster takes the writes of replicated tables, if that is not as the cluster file has it. `moves/<id>` stays while
a table is on its way to another shard. `identity` is a number drawn for this catalog alone, and `followed/<cluster>`
that of a cluster whose tables were copied.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from proto.ids import ShardId

if TYPE_CHECKING:
    from collections.abc import Callable

CATALOG_NAME: Final = "_catalog"
CATALOG_ID: Final = 1
CATALOG_SHARD: Final = ShardId(1)
FIRST_TABLE_ID: Final = 10_001
"""As in Regatta; ids below are reserved."""

TABLES_PREFIX: Final = b"tables/"
TABLES_END: Final = b"tables0"  # "/" + 1
NEXT_ID: Final = b"next_id"
LEAD: Final = b"lead"
IDENTITY: Final = b"identity"
_FOLLOWED: Final = b"followed/"
MOVES_PREFIX: Final = b"moves/"
MOVES_END: Final = b"moves0"
DELETED_PREFIX: Final = b"deleted/"
DELETED_END: Final = b"deleted0"
_DELETED_ID: Final = DELETED_PREFIX + b"id/"
_DELETED_NAME: Final = DELETED_PREFIX + b"name/"

WITHOUT_QUOTA: Final = -1
"""In frames.TableQuotas, of a table that was made without one."""

HistoryWord = int | Literal["all", "none"]

REPLICATED: Final = "replicated"
LOCAL: Final = "local"

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
    is_local: bool = False
    """Whether follower clusters leave it alone."""
    owner: str = ""
    """Whose it is, for people."""
    origin: int = 0
    """The id of the leader cluster's table that it copies, and that alone changes it; 0 = it is this cluster's own."""
    copied: int = 0
    """The origin that it had when this cluster was promoted; 0 = none."""
    copied_from: str = ""
    """The cluster that had that. It may make that table alone a copy of this one."""
    quota: int | None = None
    """Bytes that it was made to hold, 0 = as much as the disk; None = nothing was said. The cluster file may say
    otherwise later."""
    term_before: int = field(default=0, compare=False)
    """The highest term of the shards that it has left: clients are told of none lower."""

    @property
    def type(self) -> str:
        """As people write it."""
        return LOCAL if self.is_local else REPLICATED

    @property
    def is_reserved(self) -> bool:
        """Whether clients may only read it."""
        return self.id < FIRST_TABLE_ID

    @property
    def history_word(self) -> HistoryWord:
        """The history as people write it."""
        return history_word(self.history)


@dataclass(frozen=True, slots=True)
class TableMove:
    """A table is on its way to another shard."""

    entry: TableEntry
    """As it was when the move began: in the source."""
    target: ShardId
    number: int
    """Higher than that of any earlier move of the table."""
    cancelled: bool = False
    """Whether it is to stay in the source."""

    @property
    def source(self) -> ShardId:
        """Where it comes from."""
        return self.entry.shard


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSettings:
    """What a table is made with; see TableEntry."""

    shard: ShardId | None = None
    """None = the shard with the least to do."""
    history: int = -1
    is_local: bool = False
    owner: str = ""
    origin: int = 0
    quota: int | None = None


@dataclass(frozen=True, slots=True)
class Lead:
    """Which cluster takes the writes of replicated tables. Of two, that of the higher epoch is right."""

    epoch: int = 1
    """Raised by each promotion."""
    cluster: str = ""
    """Its name; empty: as the cluster file has it, which is the cluster that it follows, or else itself."""


ELSEWHERE: Final = (1 << 39) - 1
"""TableEntry.origin of a table that the cluster that leads now has no copy of: it takes no writes, and stays as it is
until somebody deletes it, or this cluster is promoted."""

REGATTA: Final = ELSEWHERE - 1
"""TableEntry.origin of a copy of a table whose cluster speaks no replication but Regatta's, which knows tables by their
names alone."""

CATALOG: Final = TableEntry(CATALOG_NAME, CATALOG_ID, CATALOG_SHARD)

REPLICATION: Final = TableEntry("_replication", 2, CATALOG_SHARD, history=0)
"""Which node of a follower cluster replicates, in a table of its own: the row is written all the time, and the catalog
keeps its history. The replicator makes it."""


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
    return json.dumps(_row(entry)).encode()


def _row(entry: TableEntry) -> dict[str, Any]:
    row: dict[str, Any] = {"id": entry.id, "shard": entry.shard, "history": entry.history_word}
    if entry.is_local:
        row["type"] = LOCAL
    if entry.owner:
        row["owner"] = entry.owner
    if entry.origin:
        row["origin"] = entry.origin
    if entry.copied:
        row |= {"copied": entry.copied, "copied_from": entry.copied_from}
    if entry.quota is not None:
        row["quota"] = entry.quota
    if entry.term_before:
        row["term_before"] = entry.term_before
    return row


def encode_lead(lead: Lead) -> bytes:
    """The value of the row LEAD."""
    return json.dumps({"epoch": lead.epoch, "cluster": lead.cluster}).encode()


def parse_lead(value: bytes) -> Lead:
    """What it says. Raises UnreadableRow."""
    try:
        row: Any = json.loads(value)
        return Lead(int(row["epoch"]), str(row["cluster"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableRow(f"{type(error).__name__}: {error}") from None


def parse_row(key: bytes, value: bytes) -> TableEntry:
    """The table of a row. Raises UnreadableRow."""
    return _parse(value, lambda _: key.removeprefix(TABLES_PREFIX).decode())


def move_key(table_id: int) -> bytes:
    """The key of the row of a move."""
    return b"%s%d" % (MOVES_PREFIX, table_id)


def encode_move(move: TableMove) -> bytes:
    """The value of the row of a move."""
    row = _row(move.entry) | {"name": move.entry.name, "target": move.target, "number": move.number}
    return json.dumps(row | {"cancelled": move.cancelled}).encode()


def parse_move(value: bytes) -> TableMove:
    """The move of a row. Raises UnreadableRow."""
    entry = _parse(value, lambda row: str(row["name"]))
    try:
        row: Any = json.loads(value)
        return TableMove(entry, ShardId(int(row["target"])), int(row["number"]), bool(row["cancelled"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableRow(f"{type(error).__name__}: {error}") from None


def followed_key(cluster: str) -> bytes:
    """The key of the identity of a cluster whose tables were copied."""
    return _FOLLOWED + cluster.encode()


def deleted_id_key(table_id: int) -> bytes:
    """The key of the row of a deletion that is not finished."""
    return b"%s%d" % (_DELETED_ID, table_id)


def deleted_name_key(name: str) -> bytes:
    """The key that says that the table of this name was deleted by hand."""
    return _DELETED_NAME + name.encode()


def encode_deletion(entry: TableEntry) -> bytes:
    """The value of the row of a deletion."""
    return json.dumps(_row(entry) | {"name": entry.name}).encode()


def parse_deleted(key: bytes, value: bytes) -> TableEntry | str:
    """What a key below DELETED_PREFIX says: the table of an unfinished deletion, or a deleted name. Raises
    UnreadableRow."""
    if key.startswith(_DELETED_ID):
        return _parse(value, lambda row: str(row["name"]))
    if key.startswith(_DELETED_NAME):
        return key.removeprefix(_DELETED_NAME).decode()
    raise UnreadableRow(f"{key!r} is no key of this version")


def _parse(value: bytes, name_of: Callable[[Any], str]) -> TableEntry:
    try:
        row: Any = json.loads(value)
        return TableEntry(
            name_of(row),
            int(row["id"]),
            ShardId(int(row["shard"])),
            int(history_number(row.get("history", "all"))),
            is_local=row.get("type") == LOCAL,
            owner=str(row.get("owner", "")),
            origin=int(row.get("origin", 0)),
            copied=int(row.get("copied", 0)),
            copied_from=str(row.get("copied_from", "")),
            quota=None if row.get("quota") is None else int(row["quota"]),
            term_before=int(row.get("term_before", 0)),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableRow(f"{type(error).__name__}: {error}") from None
