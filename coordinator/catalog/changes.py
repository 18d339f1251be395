"""Creating and deleting tables while the cluster runs, and finishing what a coordinator that died has begun."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import structlog

from proto import errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coordinator.catalog.cache import Catalog
    from coordinator.catalog.contents import Contents
    from coordinator.catalog.tables import Tables
    from proto.catalog import TableEntry, TableSettings

LOST_TRIES_MAX: Final = 20
"""Lost tries to change the catalog against other coordinators that do so just then."""

CHECK_INTERVAL_S: Final = 5.0
"""Between looks for deletions that nobody finishes. A look costs the nearest replica three small reads."""

log = structlog.get_logger()


class TableChanges:
    """What the Tables API does."""

    def __init__(self, catalog: Catalog, tables: Tables) -> None:
        self._catalog = catalog
        self._tables = tables

    async def newest(self) -> list[TableEntry]:
        """All tables by name, as the catalog has them now."""
        contents = await self._catalog.load(linearizable=True)
        return sorted(contents.entries.values(), key=lambda entry: entry.name)

    async def contents(self) -> Contents:
        """The catalog as it is now, restored if it was lost."""
        while True:
            seen = await self._catalog.load(linearizable=True)
            if not await self._tables.restore(seen):
                return seen

    async def create(self, name: str, settings: TableSettings) -> TableEntry:
        """The new table, usable when this returns. Raises TableExists, and what the shards have to say; then the table
        may exist nevertheless."""
        for _ in range(LOST_TRIES_MAX):
            seen = await self.contents()
            if name in seen.entries:
                raise errors.TableExists(name)
            await self._finish(seen, name)
            entry = await self._tables.add(name, settings, seen=seen, again=True)
            if entry is not None:
                await self._tables.make_in_shard(entry)
                await self._catalog.load(linearizable=True)
                return entry
        raise errors.NoLeader("other coordinators kept changing the catalog")

    async def delete(self, name: str, check: Callable[[TableEntry], Awaitable[object]]) -> None:
        """The table is gone when this returns. check: raises if a table, which its shard has, is not the caller's to
        delete.

        Raises TableNotFound, InvalidSettings for one of boathouse's own, and what the shards have to say; then the
        table may be deleted nevertheless, now or soon."""
        for _ in range(LOST_TRIES_MAX):
            seen = await self.contents()
            await self._finish(seen, name)
            entry = seen.entries.get(name)
            if entry is None:
                raise errors.TableNotFound(name)
            if entry.is_reserved:
                raise errors.InvalidSettings(f"table {name} is boathouse's own, and stays")
            if entry.id in seen.moves:
                raise errors.InvalidSettings(
                    f"table {name} is on its way to shard {seen.moves[entry.id].target}; wait, or cancel that move"
                )
            if await self._tables.is_in_shard(entry, linearizable=True):
                await check(entry)
            if await self._tables.remove(entry, seen=seen):
                await self._tables.finish_deletion(entry)
                await self._catalog.load(linearizable=True)
                return
        raise errors.NoLeader("other coordinators kept changing the catalog")

    async def _finish(self, seen: Contents, name: str) -> None:
        """What an earlier deletion of this name has left to do."""
        for deletion in seen.deletions:
            if deletion.name == name:
                await self._tables.finish_deletion(deletion)


async def finish_deletions(catalog: Catalog, tables: Tables) -> None:
    """For ever: finish the deletions that somebody has begun, here or elsewhere, and is not there to finish."""
    while True:
        with contextlib.suppress(errors.BoathouseError):  # no replica of the catalog answers: others say so
            seen = await catalog.load(linearizable=False)
            for deletion in seen.deletions:
                await _try_to_finish(tables, deletion)
        await asyncio.sleep(CHECK_INTERVAL_S)


async def _try_to_finish(tables: Tables, deletion: TableEntry) -> None:
    try:
        await tables.finish_deletion(deletion)
    except errors.BoathouseError as error:
        log.warning(
            "a deletion is not finished yet",
            table=deletion.name,
            error=type(error).__name__,
            detail=error.detail,
        )
