"""One node's replicator: whether it is the one that works (lease.py), which tables there are to be (plan.py), and a
Copier for each."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Final

import structlog

from coordinator.replication.carry_out import carry_out
from coordinator.replication.channels import LeaderChannels
from coordinator.replication.clock import LOOP_CLOCK
from coordinator.replication.copier import Copier
from coordinator.replication.handed_on import HandedOn
from coordinator.replication.leader import (
    Leader,
    LeaderFailed,
    Unfit,
    check_identity,
    check_no_circle,
    reason_of,
)
from coordinator.replication.leading import OldEpoch
from coordinator.replication.lease import Lease
from coordinator.replication.local import LocalCluster
from coordinator.replication.plan import copies_of, make_plan
from coordinator.replication.regatta_copier import RegattaCopier
from coordinator.replication.regatta_tables import by_name, check_new
from coordinator.replication.report import Report, is_free
from proto import errors
from proto.catalog import REGATTA, Lead

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from config import ClusterConfig, NodeConfig
    from coordinator.replication.plan import Plan
    from coordinator.replication.report import Rows
    from proto.catalog import TableEntry
    from proto.regatta import replication_pb2 as replication

RECONCILE_S: Final = 0.5
"""Between looks at which tables the leader cluster has."""
ALARM_S: Final = 30.0
"""Between two words about the same trouble."""

log = structlog.get_logger()


class Replicator:
    """Must be made on the running event loop."""

    def __init__(self, cluster: ClusterConfig, node: NodeConfig) -> None:
        """Raises TlsUnusable, BadTokenFile, BadKeyFile."""
        assert cluster.follows is not None
        self._follows = cluster.follows
        self._node = node.name
        self._loop = asyncio.get_running_loop()
        self._channels = LeaderChannels(cluster.follows.of_node(node.name), self._loop.time)
        self._leader = Leader(cluster.cluster, self._channels)
        self._local = LocalCluster(cluster, node)
        self._rng = random.Random()
        self._lease = Lease()
        self._work: asyncio.Task[None] | None = None
        self._copiers: dict[TableEntry, tuple[Copier, asyncio.Task[None]]] = {}
        self._handed_on = HandedOn()
        self._said: dict[str, float] = {}
        self._trouble = ""
        """Why the leader cluster's tables are not known; "" if they are."""
        self._refused: Mapping[str, str] = {}
        self._lead = Lead()
        """Which cluster leads, as last heard."""
        self._announced = 0
        """The epoch in which the cluster that led before has given way to this one."""
        self._runs: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Replicate from now on, if it is this node's turn."""
        self._runs = asyncio.create_task(self._run())

    def check(self) -> None:
        """Raises what the work has ended with: a bug."""
        for task in (self._runs, self._work):
            if task is not None and task.done():
                task.result()

    async def stop(self) -> None:
        """Let go of the lease, so that another node goes on at once, and of everything else."""
        await _end(self._runs)
        last_word = self._lease_value(node="")
        await self._stop_work()
        if self._lease.is_held(self._loop.time()):
            with contextlib.suppress(errors.BoathouseError):
                await self._local.swap_lease(last_word, seen=self._lease.row_revision)
        await self._channels.close()
        self._local.close()

    # ---- whose turn it is -------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        made = False
        while True:
            try:
                if not made:
                    await self._local.make_lease_table()
                    made = True
                await self._renew()
            except errors.BoathouseError as error:
                self._say(
                    "the lease of replication can't be renewed", f"{type(error).__name__}: {error.detail}"
                )
            await self._turn()
            await asyncio.sleep(self._lease.pause_s(self._loop.time()))

    async def _renew(self) -> None:
        row = await self._local.read_lease()
        before = self._loop.time()
        self._lease.see(row.revision, is_free=is_free(row.value.lease), now=before)
        if not self._lease.may_write(before):
            return
        if not self._lease.is_held(before):
            self._handed_on.take_up(row.value, now=before, wall_s=time.time())
        revision = await self._local.swap_lease(self._lease_value(self._node), seen=row.revision)
        if revision:
            self._lease.written(revision, before)
        else:
            self._lease.lost()

    def _lease_value(self, node: str) -> Rows:
        now = self._loop.time()
        copies = self._handed_on.reports(now, [copier.report(now) for copier, _ in self._copiers.values()])
        report = Report.of(
            node,
            round(time.time(), 1),
            copies,
            epoch=self._lead.epoch,
            leads=self._local.leading.is_ours(self._lead),
            trouble=self._trouble,
            refused=self._refused,
        )
        return report.encode()

    async def _turn(self) -> None:
        held = self._lease.is_held(self._loop.time())
        if held and self._work is None:
            log.info("this node replicates", leader_cluster=self._follows.cluster)
            self._work = asyncio.create_task(self._reconcile_always())
        elif not held and self._work is not None:
            log.warning("this node replicates no longer", leader_cluster=self._follows.cluster)
            await self._stop_work()

    async def _stop_work(self) -> None:
        await _end(self._work)
        self._work = None
        await self._stop_copiers(list(self._copiers))

    # ---- which tables -----------------------------------------------------------------------------------------------

    async def _reconcile_always(self) -> None:
        while True:
            try:
                await self._reconcile()
                self._trouble = ""
            except (errors.BoathouseError, LeaderFailed) as error:
                if isinstance(error, Unfit):
                    await self._stop_copiers(list(self._copiers))
                self._trouble = reason_of(error)
                self._say("the tables of the leader cluster are not known", self._trouble)
            self._raise_alarms()
            await asyncio.sleep(RECONCILE_S)

    async def _reconcile(self) -> None:
        self._lead = await self._local.leading.now()
        if self._local.leading.is_ours(self._lead):
            await self._stop_copiers(list(self._copiers))
            self._handed_on.clear()
            await self._announce()
            return
        told = await self._leader.metadata()
        await self._check(told)
        entries = (await self._local.contents()).entries.values()
        plan = make_plan(told.tables if told.cluster else by_name(told.tables, entries), entries)
        await self._stop_copiers([copy for copy in self._copiers if copy not in plan.copy])
        self._start_copiers(plan.copy)
        self._handed_on.clear()
        await self._change(plan)

    async def _check(self, told: replication.MetadataResponse) -> None:
        """Raises Unfit unless this cluster is to copy what that one has."""
        identities = self._local.identities
        if not told.cluster:
            check_new(self._follows, await identities.followed(self._follows.cluster))
            self._leader.identity, self._leader.epoch = "", 0
            return
        known = await identities.followed(told.cluster)
        check_identity(told, self._follows, known)
        if told.identity and told.identity != known:
            log.info("follows a cluster", cluster=told.cluster, identity=told.identity, before=known)
            await identities.remember(told.cluster, told.identity)
        self._leader.identity, self._leader.epoch = told.identity or known, told.lead.epoch
        lead = Lead(told.lead.epoch, told.lead.cluster)
        if self._local.leading.is_ours(lead):
            check_no_circle(told, self._lead)
            return  # it gave way, and this cluster is about to take over what it still lacks
        if lead.cluster != told.cluster and not told.follows:
            raise Unfit(
                f"cluster {told.cluster} leads no longer, cluster {lead.cluster} does since epoch {lead.epoch}:"
                " name that one as the one to follow"
            )
        try:
            await self._local.leading.hear(lead)
        except OldEpoch as error:
            raise Unfit(f"cluster {told.cluster} is of epoch {lead.epoch}, and {error}") from None

    async def _announce(self) -> None:
        """This cluster was promoted: the one that led before is told so, until it gives way."""
        if self._announced == self._lead.epoch:
            return
        self._refused = {}
        contents = await self._local.contents()
        told = await self._leader.metadata(
            self._local.leading.announcement(self._lead, contents.entries.values())
        )
        if not told.cluster:
            log.warning(
                "the cluster that led before speaks Regatta's replication, and can't give way: stop it"
            )
            self._announced = self._lead.epoch
        elif told.lead.epoch > self._lead.epoch:
            log.warning(
                "another cluster was promoted since", cluster=told.lead.cluster, epoch=told.lead.epoch
            )
            # Only a cluster that leads itself knows what took over which table, and an earlier version does not.
            heirs = [table for table in told.tables if table.origin and told.lead.cluster == told.cluster]
            await self._local.leading.give_way(Lead(told.lead.epoch, told.lead.cluster), heirs, _anybodys)
        elif (told.lead.epoch, told.lead.cluster) != (self._lead.epoch, self._lead.cluster):
            raise Unfit(f"cluster {told.cluster} has not given way: it goes by cluster {told.lead.cluster}")
        else:
            log.info(
                "the cluster that led before has given way", cluster=told.cluster, epoch=self._lead.epoch
            )
            self._announced = self._lead.epoch

    async def _change(self, plan: Plan) -> None:
        held_up = await carry_out(plan, self._local)
        if plan.create:
            entries = (await self._local.contents()).entries.values()
            self._start_copiers(copies_of(plan.create, entries))
        self._refuse({**plan.refuse, **held_up})

    def _refuse(self, refused: Mapping[str, str]) -> None:
        self._refused = refused
        for name, why in refused.items():
            self._say(f"table {name} is not replicated", why)

    def _start_copiers(self, copies: Sequence[TableEntry]) -> None:
        for copy in copies:
            if copy not in self._copiers:
                local, since = self._local, self._handed_on.take(copy.name)
                copier = (RegattaCopier if copy.origin == REGATTA else Copier)(
                    copy,
                    self._leader,
                    local.copies,
                    local.prefixes,
                    local.aside,
                    self._rng,
                    LOOP_CLOCK,
                    since,
                )
                self._copiers[copy] = (copier, asyncio.create_task(copier.run()))

    async def _stop_copiers(self, copies: Sequence[TableEntry]) -> None:
        for copy in copies:
            copier, task = self._copiers.pop(copy)
            now = self._loop.time()
            self._handed_on.put(copier.report(now), now)
            await _end(task)

    def _raise_alarms(self) -> None:
        now = self._loop.time()
        for copy, (copier, task) in self._copiers.items():
            if task.done():
                task.result()
            if copier.tail.is_stalled(now):
                lag = copier.tail.lag(now)
                self._say(
                    f"table {copy.name} makes no progress",
                    f"at position {copier.tail.revision}, {lag.entries} behind, not level for {lag.seconds:.0f} s",
                )

    def _say(self, what: str, why: str) -> None:
        """Once in a while, however often it happens."""
        now = self._loop.time()
        if now - self._said.get(what, -ALARM_S) >= ALARM_S:
            self._said[what] = now
            log.error(what, reason=why)


async def _anybodys(_: TableEntry) -> None:
    """Who was promoted over this cluster takes all of its tables."""


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is None:
        return
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result()
