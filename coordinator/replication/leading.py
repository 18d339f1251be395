"""Which of the clusters that have the same tables takes their writes, and how that changes.

Each promotion begins an epoch, which is written into the catalogs of the clusters that hear of it. A cluster that hears
of a higher epoch than its own gives way: its tables become copies of those of the cluster that leads now, so its shards
refuse writes of clients, whichever coordinator brings them. A follower cluster takes no changes of an epoch that is
lower than the highest it has heard of. Nobody has to be reached for a promotion; but then two clusters take writes
until the old one hears of it, and what is written there meanwhile is lost once it copies from the new one.

    follower of harbour, epoch 1 --promoted--> leads, epoch 2
    harbour leads, epoch 1 --hears of 2--> its tables are copies, epoch 2; it copies once its file says from where

Each step is written down before the next, and done twice it is done: whoever dies in between begins again.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING, Any, Final

import structlog

from coordinator.replication.clock import LOOP_CLOCK, together
from proto import errors
from proto.catalog import ELSEWHERE, Lead
from proto.regatta import replication_pb2 as replication

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence

    from config import ClusterConfig
    from coordinator.catalog.cache import Catalog
    from coordinator.catalog.contents import Contents
    from coordinator.catalog.lead import LeadRow
    from coordinator.catalog.tables import Tables
    from coordinator.replication.clock import Loop
    from proto.catalog import TableEntry

log = structlog.get_logger()

TRIES_MAX: Final = 20
"""Lost tries to change the catalog against others who do so just then."""

LOOK_S: Final = 0.5
"""Between looks of a coordinator at who leads."""
TRUSTED_S: Final = 2.5
"""A coordinator passes writes on for so long after it has begun to look; so none goes to the cluster that led before
once SETTLE_S have passed since the catalog says who leads now, by any clocks that go about equally fast."""
SETTLE_S: Final = 3.0


class OldEpoch(Exception):
    """A cluster of a higher epoch is known; says which."""


class Leading:
    """As the catalog of this cluster has it."""

    def __init__(
        self,
        cluster: ClusterConfig,
        catalog: Catalog,
        tables: Tables,
        row: LeadRow,
        clock: Loop = LOOP_CLOCK,
    ) -> None:
        self._name = cluster.cluster
        self._leader = cluster.cluster if cluster.follows is None else cluster.follows.cluster
        self._catalog = catalog
        self._tables = tables
        self._row = row
        self._clock = clock

    async def now(self) -> Lead:
        """Which cluster takes the writes. Raises what a linearizable read may."""
        lead, _ = await self._row.read()
        return self._resolved(lead)

    def _resolved(self, lead: Lead) -> Lead:
        return lead if lead.cluster else replace(lead, cluster=self._leader)

    def is_ours(self, lead: Lead) -> bool:
        """Whether this cluster takes them."""
        return lead.cluster == self._name

    async def hear(self, lead: Lead) -> None:
        """Somebody says so. Raises OldEpoch, and what a write may."""
        for _ in range(TRIES_MAX):
            known, changed = await self._row.read()
            if lead.epoch < known.epoch or (
                lead.epoch == known.epoch and known.cluster not in ("", lead.cluster)
            ):
                raise OldEpoch(f"cluster {self._resolved(known).cluster} leads since epoch {known.epoch}")
            if lead == self._resolved(known) or await self._row.write(lead, seen=changed):
                return
        raise errors.NoLeader("others kept changing which cluster leads")

    # ---- changing it ------------------------------------------------------------------------------------------------

    async def give_way(
        self,
        lead: Lead,
        tables: Iterable[replication.Table],
        check: Callable[[TableEntry], Coroutine[Any, Any, object]],
    ) -> None:
        """That cluster leads, and has these tables. check: raises for a table that is not the caller's to take away;
        it is asked of those that take writes, or may. Raises OldEpoch, and what reads and writes may; then it gave way
        in part, and this is to be repeated."""
        told = list(tables)
        contents = await self._catalog.load(linearizable=True)
        entries = _replicated(contents)
        ours = list(compress(entries, await together(self._clock, map(self._may_take_writes, entries))))
        await together(self._clock, map(check, ours))
        await self.hear(lead)
        await self._change_origins(lambda entry: entry.origin or _heir_of(entry, told))
        if ours:
            log.warning(
                "another cluster leads: writes are refused",
                cluster=lead.cluster,
                epoch=lead.epoch,
                tables=len(ours),
            )

    async def finish_giving_way(
        self, tables: Iterable[replication.Table], check: Callable[[TableEntry], Awaitable[object]]
    ) -> None:
        """Whoever had this cluster give way may have died at it. Only those of its tables become copies that these say
        they take the place of: it follows since, and may have made others of its own. check: as for `give_way`. Raises
        what reads and writes may."""
        told = {table.origin: table.id for table in tables if table.origin}
        contents = await self._catalog.load(linearizable=True)
        # Decided now and not when a table's turn comes: this cluster may be promoted again meanwhile.
        unfinished: dict[int, int] = {}
        for entry, held in await self._held(_replicated(contents)):
            origin = held or told.get(entry.id, 0)
            if origin != held:
                await check(entry)
            if origin != held or origin != entry.origin:
                unfinished[entry.id] = origin
        if unfinished:
            await self._change_origins(lambda entry: entry.origin or unfinished.get(entry.id, 0))

    async def take_over(self, epoch: int) -> list[TableEntry]:
        """This cluster leads in that epoch: its copies are tables of its own, and take writes. What they were. Raises
        OldEpoch, and what reads and writes may; then it leads in part, and this is to be repeated."""
        await self.hear(Lead(epoch, self._name))
        await self._clock.sleep(SETTLE_S)
        return await self._change_origins(lambda entry: 0)

    async def adopt(self, entry: TableEntry, origin: int) -> None:
        """A table that gave way becomes a copy of the one that took it over. Raises what reads and writes may."""
        await self._change_origins(lambda one: origin if one.id == entry.id else one.origin)

    async def _change_origins(self, wanted: Callable[[TableEntry], int]) -> list[TableEntry]:
        """wanted: is asked of each table, with the origin that counts, which is its shard's. Returns what the changed
        ones were. The catalog may have another origin, if whoever changed it last died in between; that one may have
        been on the way to something else."""
        changed: list[TableEntry] = []
        for _ in range(TRIES_MAX):
            contents = await self._catalog.load(linearizable=True)
            entries = _replicated(contents)
            lost = 0
            failed: list[errors.BoathouseError] = []
            work = (self._brought_to(wanted, entry, contents) for entry in entries)
            for entry, outcome in zip(entries, await together(self._clock, work), strict=True):
                if isinstance(outcome, errors.BoathouseError):
                    failed.append(outcome)
                elif outcome:
                    changed.append(entry)
                elif outcome is not None:
                    lost += 1
            if failed:
                raise failed[0]
            if not lost:
                await self._catalog.load(linearizable=True)
                return changed
        raise errors.NoLeader("others kept changing the catalog")

    async def _brought_to(
        self, wanted: Callable[[TableEntry], int], entry: TableEntry, seen: Contents
    ) -> bool | errors.BoathouseError | None:
        """Whether its row, as it was seen, says now what is wanted; None if all did. What keeps one table from that is
        returned: it is no reason for others to take writes, or none."""
        try:
            held = await self._tables.origin_in_shard(entry)
            origin = wanted(replace(entry, origin=held))
            if origin == held == entry.origin:
                return None
            return await self._change_origin(entry, held, origin, seen)
        except errors.BoathouseError as error:
            return error

    async def _may_take_writes(self, entry: TableEntry) -> bool:
        """Unless its shard says that it copies another. One that does not answer is no reason not to write down who
        leads."""
        try:
            return not await self._tables.origin_in_shard(entry)
        except errors.BoathouseError:
            return True

    async def _held(self, entries: Sequence[TableEntry]) -> Iterable[tuple[TableEntry, int]]:
        """The origin that each has in its shard, beside it."""
        origins = await together(self._clock, map(self._tables.origin_in_shard, entries))
        return zip(entries, origins, strict=True)

    async def _change_origin(self, entry: TableEntry, held: int, origin: int, seen: Contents) -> bool:
        changed = replace(entry, origin=origin)
        if not origin and entry.origin:
            was = 0 if entry.origin == ELSEWHERE else entry.origin
            changed = replace(changed, copied=was, copied_from=self._leader if was else "")
        try:
            return await self._tables.change_origin(entry, held, changed, seen=seen)
        except errors.TableNotFound:
            # It is deleted just now: the next look at the catalog says so. Or whoever was to make it died at it, and
            # nobody else comes to it before a client asks for it.
            with contextlib.suppress(errors.TableDeleted):
                await self._tables.make_in_shard(entry)
            return False

    # ---- whose table became whose -----------------------------------------------------------------------------------

    def counterpart(self, entry: TableEntry, cluster: str) -> int:
        """The id of that cluster's table that this one copies, or did until this cluster was promoted; 0 = none."""
        if entry.origin:
            return entry.origin if cluster == self._leader and entry.origin != ELSEWHERE else 0
        return entry.copied if cluster == entry.copied_from else 0

    def announcement(self, lead: Lead, entries: Iterable[TableEntry]) -> replication.Lead:
        """What the cluster that led before is told of a promotion: only tables that it had, so that no other takes the
        place of one of its own."""
        told = replication.Lead(epoch=lead.epoch, cluster=lead.cluster)
        for entry in entries:
            origin = self.counterpart(entry, self._leader) if _is_replicated(entry) else 0
            if origin:
                told.tables.add(name=entry.name, id=entry.id, origin=origin)
        return told


def _replicated(contents: Contents) -> list[TableEntry]:
    """All tables that are."""
    return [entry for entry in contents.entries.values() if _is_replicated(entry)]


def _heir_of(entry: TableEntry, tables: Iterable[replication.Table]) -> int:
    """The id of that one of another cluster's tables that copies this very table, or ELSEWHERE, whatever has its name
    there. Earlier versions tell names alone."""
    for table in tables:
        if table.name == entry.name and table.origin in (0, entry.id):
            return table.id
    return ELSEWHERE


def _is_replicated(entry: TableEntry) -> bool:
    return not entry.is_reserved and not entry.is_local


class LeadWatch:
    """A follower cluster's coordinator: whether it passes writes of copied tables on, or takes them itself."""

    def __init__(
        self, leading: Leading, changed: Callable[[], Awaitable[object]], clock: Callable[[], float]
    ) -> None:
        """changed: is called when another cluster leads than before."""
        self._leading = leading
        self._changed = changed
        self._clock = clock
        self._lead: Lead | None = None
        self._trusted_until = 0.0

    async def run(self) -> None:
        """For ever."""
        while True:
            began = self._clock()
            try:
                lead = await self._leading.now()
                if self._lead not in (None, lead):
                    log.warning("another cluster leads", cluster=lead.cluster, epoch=lead.epoch)
                    await self._changed()
                self._lead, self._trusted_until = lead, began + TRUSTED_S
            except errors.BoathouseError as error:
                log.warning("who leads is not known", reason=f"{type(error).__name__}: {error.detail}")
            await asyncio.sleep(LOOK_S)

    async def passes_on(self, deadline: float) -> bool:
        """Whether the cluster that is followed takes writes. Waits until that is known. Raises NoLeader if it is not by
        the deadline."""
        while self._lead is None or self._clock() >= self._trusted_until:
            if self._clock() >= deadline:
                raise errors.NoLeader("which cluster leads is not known: the catalog can't be read")
            await asyncio.sleep(min(LOOK_S, max(0.0, deadline - self._clock())))
        return not self._leading.is_ours(self._lead)
