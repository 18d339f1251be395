"""Making a follower cluster lead, and having a cluster that led give way: as data, for who shows it.

An operator's program works on the cluster's own shards, as a replicator does, and on the leader cluster as a follower:
it needs what a node of this cluster has (its sockets or keys, certificates and token), and no client port has a method
for it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from config.tls_files import TlsUnusable
from config.token_files import BadTokenFile
from coordinator.replication.channels import LeaderChannels
from coordinator.replication.clock import LOOP_CLOCK, together
from coordinator.replication.leader import Leader, LeaderFailed, check_identity
from coordinator.replication.leading import OldEpoch
from coordinator.replication.local import LocalCluster
from coordinator.replication.report import parse
from proto import errors
from proto.catalog import Lead
from proto.internal import frames_pb2 as frames
from proto.internal.curve import BadKeyFile
from tools.admin.standings import behind, compare, unknown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from config import ClusterConfig
    from coordinator.catalog.contents import Contents
    from coordinator.catalog.identities import Identities
    from coordinator.replication.clock import Loop
    from coordinator.replication.copies import Copies
    from coordinator.replication.leading import Leading
    from coordinator.replication.local import LeaseRow
    from coordinator.replication.report import Report
    from proto.catalog import TableEntry
    from proto.regatta import replication_pb2 as replication
    from tools.admin.standings import Standing

NEAR_S: Final = 10.0
"""For the copies to come to where the leader cluster's tables were when it was asked, before it gives way."""
LEVEL_S: Final = 60.0
"""For them to come level once it has given way."""
LOOK_S: Final = 0.2


class NotPromoted(Exception):
    """It was not, or not wholly; says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a promotion would be."""

    leader: str
    """The cluster that leads now."""
    epoch: int
    """That would begin; or that has begun, if this cluster leads already."""
    leads: bool
    copies: int
    """Tables that take no writes of clients here; as long as there are any, the promotion is not finished."""
    standings: Sequence[Standing]
    """What would be lost of each table; none if this cluster leads already."""
    unreachable: str
    """Why the leader cluster can't be asked to give way; "" if it can."""
    report: Report | None
    """What the replicating node said last."""


class Local(Protocol):
    """The cluster that is to lead: replication.local.LocalCluster."""

    @property
    def leading(self) -> Leading: ...
    @property
    def copies(self) -> Copies: ...
    @property
    def identities(self) -> Identities: ...
    async def contents(self) -> Contents: ...
    async def read_lease(self) -> LeaseRow: ...


class Promotion:
    """Of one cluster. Use `opened()`."""

    def __init__(
        self,
        local: Local,
        leader: Leader | None,
        cluster: ClusterConfig,
        clock: Loop = LOOP_CLOCK,
        *,
        no_leader: str = "the cluster file names none to follow",
    ) -> None:
        """leader: None if it can't be called, and no_leader says why."""
        self._local = local
        self._leader = leader
        self._no_leader = no_leader
        self._name = cluster.cluster
        self._follows = cluster.follows
        self._clock = clock

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, cluster: ClusterConfig) -> AsyncIterator[Promotion]:
        """Raises NotPromoted if this machine has not what it takes."""
        async with contextlib.AsyncExitStack() as stack:
            local = _local(cluster)
            stack.callback(local.close)
            if cluster.follows is None:
                yield cls(local, None, cluster)
                return
            try:
                channels = LeaderChannels.of_any_node(cluster, asyncio.get_running_loop().time)
            except (TlsUnusable, BadTokenFile) as error:
                # Whoever promotes by force may have lost the machines that have them.
                yield cls(local, None, cluster, no_leader=str(error))
                return
            stack.push_async_callback(channels.close)
            yield cls(local, Leader(cluster.cluster, channels), cluster)

    # ---- promoting --------------------------------------------------------------------------------------------------

    async def prospect(self) -> Prospect:
        """Changes nothing. Raises NotPromoted."""
        try:
            lead = await self._local.leading.now()
            report = parse((await self._local.read_lease()).value) if self._follows is not None else None
            copies = await self._copies()
        except errors.BoathouseError as error:
            raise NotPromoted(_words(error)) from None
        leads = self._local.leading.is_ours(lead)
        epoch, unreachable = lead.epoch + (not leads), ""
        standings = unknown(copies)
        if self._leader is None:
            unreachable = self._no_leader
        else:
            try:
                told = await self._leader.metadata(positions=True)
                assert self._follows is not None
                check_identity(told, self._follows, await self._local.identities.followed(told.cluster))
                # A promotion that was interrupted had it give way already: in the epoch that would begin, or later.
                gave_way = told.lead.cluster == self._name and told.lead.epoch >= epoch
                epoch = max(epoch, told.lead.epoch + (told.lead.cluster != self._name))
                if told.follows and not gave_way:
                    unreachable = f"cluster {told.cluster} follows another one itself, and does not give way"
                # Asked again: what was copied meanwhile is no past of its own.
                standings = compare(told.tables, await self._copies(), went_on=True)
            except LeaderFailed as error:
                unreachable = str(error)
            except errors.BoathouseError as error:
                raise NotPromoted(_words(error)) from None
        return Prospect(
            leader=lead.cluster,
            epoch=epoch,
            leads=leads,
            copies=len(copies),
            standings=[] if leads else standings,
            unreachable=unreachable,
            report=report,
        )

    async def promote(
        self, prospect: Prospect, *, wait: bool, say: Callable[[str], object]
    ) -> Sequence[TableEntry]:
        """This cluster leads. What its copies were. wait: only once they have all that the leader cluster has, if that
        answers; it is not asked to give way before they are near. Raises NotPromoted."""
        try:
            if not prospect.unreachable:
                if wait and not prospect.leads:
                    await self._wait_near()
                await self._ask_to_give_way(prospect, say)
                if wait and not prospect.leads:
                    await self._wait_level(prospect)
            say("waiting until no write is passed on any more")
            return await self._local.leading.take_over(prospect.epoch)
        except OldEpoch as error:
            raise NotPromoted(f"somebody else was faster: {error}") from None
        except errors.BoathouseError as error:
            raise NotPromoted(f"{_words(error)}; run it again") from None
        except LeaderFailed as error:
            raise NotPromoted(f"cluster {prospect.leader}: {error}; run it again, or with --force") from None

    async def _copies(self) -> dict[TableEntry, frames.TableStatus]:
        """Where each stands."""
        contents = await self._local.contents()
        copies = [entry for entry in contents.entries.values() if entry.origin]
        return dict(zip(copies, await together(self._clock, map(self._status, copies)), strict=True))

    async def _status(self, copy: TableEntry) -> frames.TableStatus:
        try:
            return await self._local.copies.status(copy)
        except errors.TableNotFound:
            return frames.TableStatus(id=copy.id)  # it was to be made, and is not yet

    async def _wait_near(self) -> None:
        """Raises LeaderFailed, NotPromoted."""
        assert self._leader is not None
        told = await self._leader.metadata(positions=True)
        far = await self._wait_for(lambda: self._far(told.tables), NEAR_S)
        if far:
            raise NotPromoted(
                f"table {far[0].name} does not come level within {NEAR_S:g} s (would lose: {far[0].why}). Nothing was"
                " changed, and the leader cluster takes writes. Run it again once `boathouse status` shows that the"
                " copies follow; or with --force, which loses that"
            )

    async def _far(self, tables: Sequence[replication.Table]) -> list[Standing]:
        return behind(compare(tables, await self._copies(), went_on=True))

    async def _ask_to_give_way(self, prospect: Prospect, say: Callable[[str], object]) -> None:
        """Raises LeaderFailed, NotPromoted."""
        assert self._leader is not None
        contents = await self._local.contents()
        lead = Lead(prospect.epoch, self._name)
        told = await self._leader.metadata(self._local.leading.announcement(lead, contents.entries.values()))
        if told.lead.cluster != self._name:
            raise NotPromoted(
                f"cluster {told.cluster} has not given way: by what it knows cluster {told.lead.cluster} leads in epoch"
                f" {told.lead.epoch}"
            )
        say(f"cluster {told.cluster} has given way, and takes no writes any more")

    async def _wait_level(self, prospect: Prospect) -> None:
        """Raises LeaderFailed, NotPromoted."""
        missing = await self._wait_for(self._missing, LEVEL_S)
        if missing:
            raise NotPromoted(
                f"table {missing[0].name} does not come level within {LEVEL_S:g} s (would lose: {missing[0].why})."
                " No cluster takes writes of it now. Run it again; or with --force, which loses that; or have cluster"
                f" {prospect.leader} take writes again, by `boathouse promote --force` with its own file"
            )

    async def _missing(self) -> list[Standing]:
        assert self._leader is not None
        told = await self._leader.metadata(positions=True)
        return behind(compare(told.tables, await self._copies()))

    async def _wait_for(self, look: Callable[[], Awaitable[list[Standing]]], time_s: float) -> list[Standing]:
        """What is behind still after so long."""
        deadline = self._clock.time() + time_s
        while (found := await look()) and self._clock.time() < deadline:
            await self._clock.sleep(LOOK_S)
        return found

    # ---- giving way -------------------------------------------------------------------------------------------------

    async def give_way(self, lead: Lead) -> None:
        """This cluster's replicated tables take no writes any more: that cluster leads. Raises NotPromoted."""

        async def anybodys(_: TableEntry) -> None:
            """An operator's word is enough."""

        try:
            await self._local.leading.give_way(lead, (), anybodys)
        except OldEpoch as error:
            raise NotPromoted(f"{error}: an epoch has to be higher") from None
        except errors.BoathouseError as error:
            raise NotPromoted(f"{_words(error)}; run it again") from None


def _local(cluster: ClusterConfig) -> LocalCluster:
    try:
        return LocalCluster.of_any_node(cluster)
    except BadKeyFile as error:
        raise NotPromoted(str(error)) from None


def _words(error: errors.BoathouseError) -> str:
    return f"{type(error).__name__}: {error.detail}" if error.detail else type(error).__name__
