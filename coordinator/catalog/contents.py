"""What the catalog says, as it was at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from proto import catalog

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from coordinator.catalog.rows import Rows
    from proto.catalog import TableEntry, TableMove
    from proto.ids import ShardId

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Contents:
    """The catalog at one of its revisions."""

    revision: int
    entries: Mapping[str, TableEntry]
    """By name, the catalog itself included."""
    next_id: int
    next_id_revision: int
    """Of the counter's last change, which may be newer than `revision`: the two are read one after the other. Adding
    a table compares it, and loses then at worst once more than needed."""
    row_revisions: Mapping[str, int] = field(default_factory=dict)
    """When each table's row was last changed."""
    unread: Sequence[str] = ()
    """Tables whose rows this coordinator can't make sense of: there are more than `entries` says."""
    deletions: Sequence[TableEntry] = ()
    """Tables that have no row any more, and that their shards may still have."""
    deleted_names: frozenset[str] = frozenset()
    """Of tables that the cluster file names, and that were deleted by hand. Read after the rows: a name that is in
    neither was not deleted in between."""
    moves: Mapping[int, TableMove] = field(default_factory=dict)
    """Of tables on their way to another shard, by table id. Read after the rows."""
    move_revisions: Mapping[int, int] = field(default_factory=dict)
    """When the row of each was last changed."""


async def read_contents(rows: Rows, shards: Collection[ShardId], *, linearizable: bool) -> Contents:
    """What the catalog says now, or without linearizable what the nearest replica knows of it. shards are those that
    can hold tables."""
    tables = await rows.range(catalog.TABLES_PREFIX, catalog.TABLES_END, linearizable=linearizable)
    counter = await rows.range(catalog.NEXT_ID, b"", linearizable=linearizable)
    deleted = await rows.range(catalog.DELETED_PREFIX, catalog.DELETED_END, linearizable=linearizable)
    moving = await rows.range(catalog.MOVES_PREFIX, catalog.MOVES_END, linearizable=linearizable)
    entries = {catalog.CATALOG_NAME: catalog.CATALOG}
    row_revisions = {}
    unread = []
    for row in tables[1].kvs:
        entry = _parse(row.key, row.value, shards)
        if isinstance(entry, catalog.TableEntry):
            entries[entry.name], row_revisions[entry.name] = entry, row.mod_revision
        else:
            unread.append(row.key.removeprefix(catalog.TABLES_PREFIX).decode(errors="replace"))
    gone = [_parse(row.key, row.value, shards) for row in deleted[1].kvs]
    next_id, next_id_revision = catalog.FIRST_TABLE_ID, 0
    for row in counter[1].kvs:
        if row.value.isdigit():
            next_id, next_id_revision = int(row.value), row.mod_revision
    moves = {}
    move_revisions = {}
    for row in moving[1].kvs:
        move = _parse_move(row.key, row.value)
        if move is not None:
            moves[move.entry.id], move_revisions[move.entry.id] = move, row.mod_revision
    return Contents(
        tables[0],
        entries,
        next_id,
        next_id_revision,
        row_revisions,
        unread=unread,
        deletions=[entry for entry in gone if isinstance(entry, catalog.TableEntry)],
        deleted_names=frozenset(name for name in gone if isinstance(name, str)),
        moves=moves,
        move_revisions=move_revisions,
    )


def _parse(key: bytes, value: bytes, shards: Collection[ShardId]) -> TableEntry | str | None:
    """A table, or the name of a deleted one. None for a row that can't be read or is out of range: it must not
    take the others with it."""
    parse = catalog.parse_deleted if key.startswith(catalog.DELETED_PREFIX) else catalog.parse_row
    try:
        entry = parse(key, value)
    except catalog.UnreadableRow as error:
        log.warning("skipped an unreadable row of the catalog", key=key, value=value, detail=str(error))
        return None
    if isinstance(entry, catalog.TableEntry) and (entry.is_reserved or entry.shard not in shards):
        log.warning("skipped a row of the catalog that is out of range", key=key, value=value)
        return None
    return entry


def _parse_move(key: bytes, value: bytes) -> TableMove | None:
    try:
        return catalog.parse_move(value)
    except catalog.UnreadableRow as error:
        log.warning("skipped an unreadable row of the catalog", key=key, value=value, detail=str(error))
        return None
