"""Making a follower cluster lead, and having a cluster that led give way: as data, for who shows it.

An operator's program works on the cluster's own shards, as a replicator does, and on the leader cluster as a follower:
it needs what a node of this cluster has (its sockets or keys, certificates and token), and no client port has a method
for it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from config.tls_files import TlsUnusable
from config.token_files import BadTokenFile
from coordinator.replication.channels import LeaderChannels
from coordinator.replication.leader import Leader, LeaderFailed
from coordinator.replication.leading import OldEpoch
from coordinator.replication.local import LocalCluster
from coordinator.replication.report import parse
from proto import errors
from proto.internal.curve import BadKeyFile
from proto.regatta import replication_pb2 as replication

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from config import ClusterConfig
    from coordinator.replication.report import Report
    from proto.catalog import Lead, TableEntry

LEVEL_S: Final = 60.0
"""For copies to come level once the leader cluster has given way."""
LOOK_S: Final = 0.2


class NotPromoted(Exception):
    """It was not, or not wholly; says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A table that would become this cluster's own."""

    name: str
    revision: int
    lacks: int | None
    """Revisions that the leader cluster has, and this one has not; None: it could not be asked."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a promotion would be."""

    leader: str
    """The cluster that leads now."""
    epoch: int
    """That would begin; or that has begun, if this cluster leads already."""
    leads: bool
    copies: Sequence[Copy]
    unreachable: str
    """Why the leader cluster can't be asked to give way; "" if it can."""
    report: Report | None
    """What the replicating node said last."""


class Promotion:
    """Of one cluster. Use `opened()`."""

    def __init__(self, local: LocalCluster, leader: Leader | None, cluster: ClusterConfig) -> None:
        self._local = local
        self._leader = leader
        self._cluster = cluster

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, cluster: ClusterConfig) -> AsyncIterator[Promotion]:
        """Raises NotPromoted if this machine has not what it takes."""
        async with contextlib.AsyncExitStack() as stack:
            local = _local(cluster)
            stack.callback(local.close)
            leader = None
            if cluster.follows is not None:
                node = next(iter(cluster.nodes))
                try:
                    channels = LeaderChannels(cluster.follows.of_node(node), asyncio.get_running_loop().time)
                except (TlsUnusable, BadTokenFile) as error:
                    raise NotPromoted(str(error)) from None
                stack.push_async_callback(channels.close)
                leader = Leader(cluster.cluster, channels)
            yield cls(local, leader, cluster)

    # ---- promoting --------------------------------------------------------------------------------------------------

    async def prospect(self) -> Prospect:
        """Changes nothing. Raises NotPromoted."""
        assert self._leader is not None
        try:
            lead = await self._local.leading.now()
            contents = await self._local.contents()
            report = parse((await self._local.read_lease()).value)
            entries = [entry for entry in contents.entries.values() if entry.origin]
            revisions = [(await self._local.copies.status(entry)).revision for entry in entries]
        except errors.BoathouseError as error:
            raise NotPromoted(_words(error)) from None
        leads = self._local.leading.is_ours(lead)
        epoch, unreachable = lead.epoch + (not leads), ""
        newest: list[int | None] = [None] * len(entries)
        try:
            told = await self._leader.metadata()
            epoch = max(epoch, told.lead.epoch + (told.lead.cluster != self._cluster.cluster))
            if told.follows:
                unreachable = f"cluster {told.cluster} follows another one itself, and does not give way"
            newest = [
                await self._leader.newest(entry.name, revision)
                for entry, revision in zip(entries, revisions, strict=True)
            ]
        except LeaderFailed as error:
            unreachable = str(error)
        return Prospect(
            leader=lead.cluster,
            epoch=epoch,
            leads=leads,
            copies=[
                Copy(entry.name, revision, None if there is None else max(0, there - revision))
                for entry, revision, there in zip(entries, revisions, newest, strict=True)
            ],
            unreachable=unreachable,
            report=report,
        )

    async def promote(
        self, prospect: Prospect, *, wait: bool, say: Callable[[str], object]
    ) -> Sequence[TableEntry]:
        """This cluster leads. What its copies were. wait: until they have all that the leader cluster has, if that
        answers. Raises NotPromoted."""
        try:
            if not prospect.unreachable:
                await self._ask_to_give_way(prospect, say)
                if wait:
                    await self._wait_level()
            say("waiting until no write is passed on any more")
            return await self._local.leading.take_over(prospect.epoch)
        except OldEpoch as error:
            raise NotPromoted(f"somebody else was faster: {error}") from None
        except errors.BoathouseError as error:
            raise NotPromoted(f"{_words(error)}; run it again") from None
        except LeaderFailed as error:
            raise NotPromoted(f"cluster {prospect.leader}: {error}; run it again, or with --force") from None

    async def _ask_to_give_way(self, prospect: Prospect, say: Callable[[str], object]) -> None:
        """Raises LeaderFailed, NotPromoted."""
        assert self._leader is not None
        contents = await self._local.contents()
        copies = [entry for entry in contents.entries.values() if entry.origin]
        lead = replication.Lead(epoch=prospect.epoch, cluster=self._cluster.cluster)
        for entry in copies:
            lead.tables.add(name=entry.name, id=entry.id)
        told = await self._leader.metadata(lead)
        if told.lead.cluster != self._cluster.cluster:
            raise NotPromoted(
                f"cluster {told.cluster} has not given way: by what it knows cluster {told.lead.cluster} leads in epoch"
                f" {told.lead.epoch}"
            )
        say(f"cluster {told.cluster} has given way, and takes no writes any more")

    async def _wait_level(self) -> None:
        """Raises LeaderFailed, NotPromoted."""
        deadline = asyncio.get_running_loop().time() + LEVEL_S
        contents = await self._local.contents()
        for entry in [entry for entry in contents.entries.values() if entry.origin]:
            while (lacks := await self._lacks(entry)) != 0:
                if asyncio.get_running_loop().time() >= deadline:
                    raise NotPromoted(
                        f"table {entry.name} is {lacks} revisions behind and does not come level within {LEVEL_S:g} s;"
                        " run it again, or with --force, which loses them"
                    )
                await asyncio.sleep(LOOK_S)

    async def _lacks(self, entry: TableEntry) -> int:
        assert self._leader is not None
        revision = (await self._local.copies.status(entry)).revision
        return max(0, await self._leader.newest(entry.name, revision) - revision)

    # ---- giving way -------------------------------------------------------------------------------------------------

    async def give_way(self, lead: Lead) -> None:
        """This cluster's replicated tables take no writes any more: that cluster leads. Raises NotPromoted."""

        async def anybodys(_: TableEntry) -> None:
            """An operator's word is enough."""

        ids: Mapping[str, int] = {}
        try:
            await self._local.leading.give_way(lead, ids, anybodys)
        except OldEpoch as error:
            raise NotPromoted(f"{error}: an epoch has to be higher") from None
        except errors.BoathouseError as error:
            raise NotPromoted(f"{_words(error)}; run it again") from None


def _local(cluster: ClusterConfig) -> LocalCluster:
    why = ""
    for node in cluster.nodes.values():
        try:
            return LocalCluster(cluster, node)
        except BadKeyFile as error:
            why = str(error)
    raise NotPromoted(why)


def _words(error: errors.BoathouseError) -> str:
    return f"{type(error).__name__}: {error.detail}" if error.detail else type(error).__name__
