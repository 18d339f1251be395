"""Changes that another table made, appended under their own ids: to one that is restored, or comes from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.machine.tables import SUB_BITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardworker.machine.ops import LoadedChange
    from shardworker.machine.writer import Writer


def keys_with(writer: Writer, changes: Sequence[LoadedChange]) -> int:
    """How many keys the table has after these."""
    is_there: dict[bytes, bool] = {}
    keys = writer.table.keys
    writer.fetch([change.key for change in changes])
    for change in changes:
        before = is_there.get(change.key)
        if before is None:
            before = writer.newest(change.key)[2] > 0
        now = is_there[change.key] = change.kv is not None
        keys += now - before
    return keys


def append(writer: Writer, changes: Sequence[LoadedChange]) -> None:
    """Makes the changes here. How many keys there are then, keys_with() has counted; it has also looked all of them
    up."""
    for change in changes:
        before = writer.newest(change.key)
        if change.kv is None:
            writer.store_deletion(change.key, before, change.id)
        else:
            now = (change.id, change.create_revision, change.version, change.lease)
            writer.store(change.key, before, now, change.kv)
        writer.table.revision = change.id >> SUB_BITS
