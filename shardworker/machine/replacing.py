"""Rows that were built beside a table's come in their place: the end of a snapshot from elsewhere, or of a restore."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.machine.leftovers import put_aside
from shardworker.machine.tables import SUB_BITS, rename_rows

if TYPE_CHECKING:
    from shardworker.machine.writer import Writer


def replace_rows(
    writer: Writer, name: str, *, revision: int, checksum: int, keys: int, rows_bytes: int
) -> None:
    """The table has the rows of that name (tables.create_rows) from now on, at this revision; nothing older can be
    read. Its own are freed later. rows_bytes: what the new ones count."""
    table = writer.table
    writer.give_up_rows()
    put_aside(writer.connection, f"t{table.id}")
    rename_rows(writer.connection, name, f"t{table.id}")
    table.revision, table.checksum, table.keys = revision, checksum, keys
    table.written_bytes = table.freed_bytes + rows_bytes
    table.swept_bytes = table.freed_bytes  # what a sweep had not come to yet is gone
    table.compacted = table.swept_floor = revision
    table.swept_id = (revision + 1) << SUB_BITS
    writer.note_unkept()
