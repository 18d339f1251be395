"""The tables of the cluster, by name, as far as this coordinator knows them.

A name that is not cached is looked up anew before it is called unknown: by a linearizable read that starts after the
question was asked, shared by everybody who asks meanwhile, and never more often than REFRESH_INTERVAL_S. A table is
handed out once its shard is known to have it, so nobody who uses one has to care how it came to be.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from proto import catalog, errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from coordinator.catalog.contents import Contents
    from proto.catalog import TableEntry
    from proto.ids import ShardId

REFRESH_INTERVAL_S: Final = 0.1
LIST_TIMEOUT_S: Final = 1.0

log = structlog.get_logger()


class Source(Protocol):
    """The catalog's own shard, and those of the tables."""

    async def load(self, *, linearizable: bool) -> Contents: ...
    async def is_in_shard(self, entry: TableEntry, *, linearizable: bool) -> bool: ...
    async def make_in_shard(self, entry: TableEntry) -> None: ...


class Catalog:
    """The cached catalog of one coordinator."""

    def __init__(
        self,
        source: Source,
        *,
        promised: Collection[str],
        heard: Callable[[Collection[TableEntry]], object] = lambda _: None,
    ) -> None:
        """promised: names that a bootstrap is about to make; keep_promises() says that it has. heard: is told of all
        tables whenever the catalog was read."""
        self._source = source
        self._promised = promised
        self._heard = heard
        self._promises_kept = asyncio.Event()
        self._revision = 0
        self._lock = asyncio.Lock()
        self._waiting: asyncio.Task[None] | None = None
        self._refresh_not_before = 0.0
        self._entries: dict[str, TableEntry] = {catalog.CATALOG_NAME: catalog.CATALOG}
        """What the catalog said last."""
        self._confirming: dict[TableEntry, asyncio.Task[None]] = {}
        self.tables: dict[str, TableEntry] = dict(self._entries)
        """Those that their shards have. A stale entry does no harm: the shard refuses an id that it no longer holds,
        and renewed() looks again."""

    async def find(self, name: str, deadline: float) -> TableEntry:
        """The table of that name: cached, about to be made, or read now. Raises TableNotFound, ReadTimedOut."""
        if name not in self._entries and name in self._promised and not self._promises_kept.is_set():
            # At a cluster's first start clients may be faster than the tables that its file promises them.
            await _wait_until(deadline, self._promises_kept.wait())
        if name not in self._entries:
            await self._refresh(deadline)
        return self.tables.get(name) or await self._confirmed(self._entry(name), deadline)

    async def newest(self, deadline: float) -> list[TableEntry]:
        """All tables by name, read now if that is possible soon, else as cached."""
        soon = min(deadline, asyncio.get_running_loop().time() + LIST_TIMEOUT_S)
        with contextlib.suppress(errors.BoathouseError):
            await self._refresh(soon)
        return sorted(self._entries.values(), key=lambda entry: entry.name)

    async def renewed(self, stale: TableEntry, deadline: float) -> TableEntry:
        """Its shard does not know this table: the table of that name as it is now.

        Raises TableNotFound if the catalog has it no longer."""
        if stale.is_reserved:
            raise errors.TableNotFound(stale.name)
        if self.tables.get(stale.name) == stale:
            del self.tables[stale.name]
        await self._refresh(deadline)
        return self.tables.get(stale.name) or await self._confirmed(self._entry(stale.name), deadline)

    def moved(self, entry: TableEntry, shard: ShardId) -> TableEntry:
        """The table was found in this shard: what the catalog says of that may be older."""
        found = replace(entry, shard=shard)
        if self.tables.get(entry.name) == entry:
            self._entries[entry.name] = self.tables[entry.name] = found
        return found

    def _entry(self, name: str) -> TableEntry:
        entry = self._entries.get(name)
        if entry is None:
            raise errors.TableNotFound(name)
        return entry

    def keep_promises(self) -> None:
        """All promised tables exist."""
        self._promises_kept.set()

    # ---- reading ----------------------------------------------------------------------------------------------------

    @property
    def is_read(self) -> bool:
        """Whether it has been, be it from a replica that lags."""
        return self._revision > 0

    async def load(self, *, linearizable: bool) -> Contents:
        """Read the catalog now, after whoever is reading it already.

        Without linearizable a replica may answer that lags: what it says never takes the place of something newer."""
        async with self._lock:
            contents = await self._source.load(linearizable=linearizable)
            if linearizable or contents.revision >= self._revision:
                self._install(contents)
            return contents

    def _install(self, contents: Contents) -> None:
        self._revision = contents.revision
        self._entries = dict(contents.entries)
        confirmed = [entry for entry in self._entries.values() if self._is_confirmed(entry)]
        self.tables.clear()
        self.tables.update((entry.name, entry) for entry in confirmed)
        self._heard(self._entries.values())

    def _is_confirmed(self, entry: TableEntry) -> bool:
        known = self.tables.get(entry.name)
        return known == entry

    async def _refresh(self, deadline: float) -> None:
        """Wait for a linearizable read of the catalog that begins after this call."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._refresh_next())
            self._waiting.add_done_callback(_retrieve)
        await _wait_until(deadline, asyncio.shield(self._waiting))

    async def _refresh_next(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._refresh_not_before - loop.time()))
        async with self._lock:
            self._waiting = None  # whoever asks from now on may ask about something newer
            self._refresh_not_before = loop.time() + REFRESH_INTERVAL_S
            self._install(await self._source.load(linearizable=True))

    # ---- tables in their shards -------------------------------------------------------------------------------------

    async def confirm_all(self) -> None:
        """Make whatever the catalog names and its shard does not have."""
        for entry in list(self._entries.values()):
            if not self._is_confirmed(entry):
                try:
                    await self._confirm(entry)
                except (errors.TableContradicted, errors.TableDeleted) as error:
                    log.error("a table is not served", table=entry.name, reason=error.detail)
                except errors.TableNotFound:
                    continue  # it was deleted meanwhile

    async def _confirmed(self, entry: TableEntry, deadline: float) -> TableEntry:
        """The entry, once its shard has the table; everybody who waits for the same one waits together."""
        task = self._confirming.get(entry)
        if task is None:
            task = self._confirming[entry] = asyncio.create_task(self._confirm(entry))
            task.add_done_callback(_retrieve)
            task.add_done_callback(lambda _: self._confirming.pop(entry))
        await _wait_until(deadline, asyncio.shield(task))
        return entry

    async def _confirm(self, entry: TableEntry) -> None:
        if not await self._source.is_in_shard(entry, linearizable=False):
            # Not to bring back what was deleted since, only what the catalog still names is made.
            await self.load(linearizable=True)
            if self._entries.get(entry.name) != entry:
                raise errors.TableNotFound(entry.name)
            if not await self._source.is_in_shard(entry, linearizable=True):
                await self._source.make_in_shard(entry)
        if self._entries.get(entry.name) == entry:
            self.tables[entry.name] = entry


async def _wait_until(deadline: float, event: Awaitable[object]) -> None:
    try:
        async with asyncio.timeout_at(deadline):
            await event
    except TimeoutError:
        raise errors.ReadTimedOut("the catalog") from None


def _retrieve(task: asyncio.Task[None]) -> None:
    """Everybody who waited may have gone; the error is then nobody's."""
    if not task.cancelled():
        task.exception()
