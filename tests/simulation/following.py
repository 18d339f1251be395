"""Two simulated clusters, of which one follows the other: production's replication between them, in one virtual time.

What runs is the leader cluster's service, the follower's copiers and their plan, over routers and replicas as
everywhere; simulated are the connection between the clusters, the catalogs (a table made in the simulation is in no
other), and the process around the copiers, of which each node has one that dies now and then. Usually two of them
replicate at once, which is to do no harm.

Judged all the time: whatever a copy holds at a revision is what its origin held at that revision (checksum, and now and
then all pairs), and no copy is ever ahead of its origin. In the end every copy is level, and equal to the last row and
to the oldest change that can still be read.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from config.access import ReplicationConfig
from coordinator.api.credentials import NOBODY
from coordinator.catalog.source import TableSource
from coordinator.catalog.table_calls import TableCalls
from coordinator.replication.copier import Copier
from coordinator.replication.copies import Copies
from coordinator.replication.gate import Gate
from coordinator.replication.leader import Leader, LeaderFailed
from coordinator.replication.plan import make_plan
from coordinator.services.regatta_replication import RegattaReplication
from coordinator.shards.own_calls import OwnCalls
from coordinator.shards.request_ids import RequestIds
from proto import errors
from proto.catalog import CATALOG, ELSEWHERE, Lead, TableEntry
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import Access
from tests.simulation.clients import TABLE_ID
from tests.simulation.cluster import SHARD, Cluster
from tests.simulation.tasks import Promise, Task, WorldClock
from tests.simulation.way import WayCalls
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from random import Random

    from coordinator.api.call import Handler
    from coordinator.auth.authenticator import Authenticator
    from coordinator.catalog.cache import Catalog
    from coordinator.catalog.changes import TableChanges
    from coordinator.catalog.identities import Identities
    from coordinator.replication.leading import Leading
    from coordinator.replication.plan import Plan as TablesPlan
    from coordinator.shards.driver import Driver
    from coordinator.shards.routing import ShardRoutes
    from coordinator.shards.shard_call import ShardCall
    from proto.ids import NodeId
    from tests.simulation.build import Build
    from tests.simulation.coordinator import Coordinator
    from tests.simulation.plan import Plan
    from tests.simulation.way import Way

MAIN: Final = "table"
"""The simulation's own clients write to it."""
BRIEF: Final = "brief"
"""It is deleted and made again all the time."""
RECONCILE_S: Final = 0.3
STEP_S: Final = 2.0
WRITE_S: Final = 3.0
AGAIN_SHARE: Final = 0.08
"""Of what happens to BRIEF: that it is deleted and made again."""


class Side(World):
    """The same world as one of the clusters sees it: with dice of its own."""

    def __init__(self, whole: World, name: str, seed: int) -> None:
        self._whole = whole
        self._name = name
        self.seed = seed
        """Of its disks."""

    @property
    def now_us(self) -> int:
        return self._whole.now_us

    @now_us.setter
    def now_us(self, now_us: int) -> None:
        self._whole.now_us = now_us

    def stream(self, name: str) -> Random:
        return self._whole.stream(f"{self._name}/{name}")

    def at(self, time_us: int, action: Callable[[], None]) -> None:
        self._whole.at(time_us, action)

    def run_until(self, time_us: int) -> None:
        self._whole.run_until(time_us)

    def note(self, text: str) -> None:
        self._whole.note(f"{self._name} {text}")

    def digest(self) -> str:
        return self._whole.digest()


class CoordinatorDriver:
    """shards.driver.Driver over a simulated coordinator."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def time(self) -> float:
        return self._coordinator.now_s()

    async def ask(self, call: ShardCall) -> frames.Reply:
        promise = Promise[frames.Reply]()

        def ended(ended: ShardCall) -> None:
            if ended.reply is not None:
                promise.keep(ended.reply)
            else:
                assert ended.error is not None
                promise.fail(ended.error)

        self._coordinator.ask(call, sent=lambda _node: None, ended=ended)
        try:
            return await promise
        except asyncio.CancelledError:
            self._coordinator.cancel(call)
            raise

    def routes(self, shard: ShardId) -> ShardRoutes:
        return self._coordinator.routes(shard)

    def close_cursor(self, shard: ShardId, node: NodeId, cursor: int) -> None:
        self._coordinator.close_cursor(shard, node, cursor)


@dataclass
class Tables:
    """A catalog, of which everybody knows at once what is in it."""

    unread: tuple[str, ...] = ()
    tables: dict[str, TableEntry] = field(default_factory=dict)
    next_id: int = TABLE_ID

    @property
    def entries(self) -> Mapping[str, TableEntry]:
        return {CATALOG.name: CATALOG, **self.tables}

    async def load(self, *, linearizable: bool) -> Tables:
        assert linearizable
        return self

    async def contents(self) -> Tables:
        return self

    async def own(self) -> str:
        """Identity: these never lose what they hold."""
        return "sim"

    async def find(self, name: str, _deadline: float) -> TableEntry:
        try:
            return self.tables[name]
        except KeyError:
            raise errors.TableNotFound(name) from None

    async def renewed(self, stale: TableEntry, deadline: float) -> TableEntry:
        return await self.find(stale.name, deadline)

    def draw(self, name: str, *, origin: int = 0) -> TableEntry:
        """A row for a table that is to be made."""
        entry = TableEntry(name, self.next_id, ShardId(SHARD), origin=origin)
        self.next_id += 1
        return entry


class SteadyLead:
    """replication.leading.Leading where nobody is promoted."""

    async def now(self) -> Lead:
        return Lead(cluster="sim")

    def is_ours(self, _lead: Lead) -> bool:
        return True

    def counterpart(self, _entry: TableEntry, _cluster: str) -> int:
        return 0


class Nobody:
    """auth.authenticator.Authenticator where authentication is off."""

    def credentials(self, _call: object, _table: object) -> object:
        return NOBODY

    async def rights(self, *_: object, **__: object) -> None:
        return None


# ---- the leader cluster ---------------------------------------------------------------------------------------------


def services(
    name: str,
    cluster: Cluster,
    tables: Tables,
    leading: Leading,
    clock: WorldClock,
    rng: Random,
    source: type[TableSource] = TableSource,
) -> list[dict[str, Handler]]:
    """What a cluster of this name answers those who follow it, by path, one for each coordinator."""
    catalog = cast("Catalog", tables)

    def serve(coordinator: Coordinator) -> dict[str, Handler]:
        driver = cast("Driver", CoordinatorDriver(coordinator))
        calls = TableCalls(
            driver, catalog, RequestIds(rng.randbytes(8)), coordinator.bounds, step_timeout_s=STEP_S
        )
        return RegattaReplication(
            name,
            Gate(ReplicationConfig(), clock.time),
            cast("TableChanges", tables),
            cast("Identities", tables),
            source(driver, calls, RequestIds(rng.randbytes(8))),
            leading,
            cast("Authenticator", Nobody()),
            is_exposed=False,
            starter=clock,
        ).handlers

    return [serve(coordinator) for coordinator in cluster.coordinators]


class LeaderCluster:
    """With its services, and somebody who makes BRIEF and deletes it."""

    def __init__(self, world: World, plan: Plan, build: Build) -> None:
        self.cluster = Cluster(Side(world, "L", 2 * plan.seed), plan, build)
        self.tables = Tables()
        self.tables.tables[MAIN] = self.tables.draw(MAIN)
        self.clock = WorldClock(world)
        self.leading = cast("Leading", SteadyLead())
        self._rng = self.cluster.world.stream("brief")
        self._task: Task | None = None

    def services(self, source: type[TableSource] = TableSource) -> list[dict[str, Handler]]:
        """By path, one for each coordinator."""
        return services("sim", self.cluster, self.tables, self.leading, self.clock, self._rng, source)

    def start(self) -> None:
        """Write to BRIEF, delete it, make it again."""
        self._task = Task(self.cluster.world, self._handle_brief())

    def stop(self) -> None:
        """Leave BRIEF as it is."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _handle_brief(self) -> None:
        rng = self._rng
        driver = cast("Driver", CoordinatorDriver(self.cluster.coordinators[-1]))
        shards = OwnCalls(driver, RequestIds(rng.randbytes(8)))
        while self.leading.is_ours(await self.leading.now()):
            entry = self.tables.draw(BRIEF)
            spec = frames.TableSpec(id=entry.id, name=BRIEF, history=-1).SerializeToString()
            await self._insist(shards, frames.TABLE_CREATE, entry, spec)
            self.tables.tables[BRIEF] = entry
            self.cluster.count("table made")
            while rng.random() > AGAIN_SHARE:
                key = b"b%d" % rng.randrange(4)
                put = etcd.PutRequest(key=key, value=b"%d" % rng.randrange(1000)).SerializeToString()
                await self._insist(shards, frames.ETCD_PUT, entry, put)
                await self.clock.sleep(rng.randrange(1, 120) / 1000)
            del self.tables.tables[BRIEF]
            await self._insist(shards, frames.TABLE_DELETE, entry, spec)

    async def _insist(
        self, shards: OwnCalls, method: frames.Method.ValueType, entry: TableEntry, body: bytes
    ) -> None:
        """Until it is done, or another cluster leads; more than once does no harm."""
        while True:
            try:
                await shards.ask(Access.WRITE, method, entry, body, WRITE_S)
            except errors.TableReplicated:
                return
            except errors.BoathouseError:
                await self.clock.sleep(0.1)
            else:
                return


# ---- the follower cluster -------------------------------------------------------------------------------------------


class SimulatedReplicator:
    """One node's, in a life of its own."""

    def __init__(self, follower: FollowerCluster, coordinator: Coordinator, calls: WayCalls) -> None:
        self._follower = follower
        self._rng = follower.cluster.world.stream(f"replicator-{coordinator.address}")
        driver = cast("Driver", CoordinatorDriver(coordinator))
        self._shards = OwnCalls(driver, RequestIds(self._rng.randbytes(8)))
        self._leader = Leader(follower.name, calls)
        self._work: Task | None = None
        self._copiers: dict[TableEntry, Task] = {}

    def start(self) -> None:
        """Replicate."""
        if self._work is None:
            self._work = Task(self._follower.cluster.world, self._reconcile_always())

    def die(self) -> None:
        """As by SIGKILL: whatever was asked may still take effect."""
        for task in self._tasks():
            task.cancel()
        self._work = None
        self._copiers.clear()

    def _tasks(self) -> Iterator[Task]:
        yield from self._copiers.values()
        if self._work is not None:
            yield self._work

    async def _reconcile_always(self) -> None:
        while True:
            try:
                await self._reconcile()
            except (errors.BoathouseError, LeaderFailed) as error:
                self._follower.cluster.world.note(f"no reconciling: {error!r}")
            await self._follower.clock.sleep(RECONCILE_S)

    async def _reconcile(self) -> None:
        tables, leading = self._follower.tables, self._follower.leading
        if leading is not None and leading.is_ours(await leading.now()):
            for task in self._copiers.values():
                task.cancel()
            self._copiers.clear()
            return
        told = await self._leader.metadata()
        self._leader.epoch = told.lead.epoch
        plan = self._follower.make_plan(told.tables, tables.entries.values())
        for copy in [copy for copy in self._copiers if copy not in plan.copy]:
            self._copiers.pop(copy).cancel()
        for entry, origin in plan.adopt:
            assert leading is not None
            await leading.adopt(entry, origin)
        for entry in plan.delete:
            if tables.tables.get(entry.name) == entry:
                del tables.tables[entry.name]
            spec = frames.TableSpec(id=entry.id, name=entry.name).SerializeToString()
            await self._shards.ask(Access.WRITE, frames.TABLE_DELETE, entry, spec, WRITE_S)
        for table in plan.create:
            if table.name not in tables.tables:
                tables.tables[table.name] = tables.draw(table.name, origin=table.id)
        for copy in list(tables.tables.values()):
            spec = frames.TableSpec(
                id=copy.id, name=copy.name, history=-1, origin=copy.origin
            ).SerializeToString()
            if copy not in self._copiers and copy.origin not in (0, ELSEWHERE):
                await self._shards.ask(Access.WRITE, frames.TABLE_CREATE, copy, spec, WRITE_S)
                self._start_copier(copy)

    async def keep(self, copy: TableEntry, status: frames.TableStatus, *, is_fresh: bool) -> None:
        """copier.Aside: there are no files here."""
        self._follower.cluster.count("set aside")
        self._follower.kept.add((copy.id, status.revision, status.checksum))
        self._follower.cluster.world.note(f"sets {copy.name} aside at {status.revision}")

    def _start_copier(self, copy: TableEntry) -> None:
        copies = self._follower.copies(self._shards)
        prefixes = self._follower.prefixes
        copier = Copier(copy, self._leader, copies, prefixes, self, self._rng, self._follower.clock)
        self._copiers[copy] = Task(self._follower.cluster.world, copier.run())


class Prefixes:
    """copier.Prefixes: rows that outlive every replicator."""

    def __init__(self) -> None:
        self._rows: dict[int, bytes] = {}

    async def known(self, copy: TableEntry) -> bytes:
        return self._rows.get(copy.id, b"")

    async def note(self, copy: TableEntry, table: bytes) -> None:
        self._rows[copy.id] = table

    async def forget(self, copy: TableEntry) -> None:
        self._rows.pop(copy.id, None)


class CountedCopies(Copies):
    """Counts what is replaced by a snapshot."""

    def __init__(self, shards: OwnCalls, count: Callable[[str], None]) -> None:
        super().__init__(shards)
        self._count = count

    async def take_part(self, copy: TableEntry, part: bytes) -> int:
        revision = await super().take_part(copy, part)
        if frames.TablePairs.FromString(part).last:
            self._count("copy replaced")
        return revision


class FollowerCluster:
    """With a replicator on every node that has a coordinator."""

    def __init__(self, name: str, cluster: Cluster, tables: Tables) -> None:
        self.name = name
        self.cluster = cluster
        self.tables = tables
        self.clock = WorldClock(cluster.world)
        self.leading: Leading | None = None
        """None: it is never promoted."""
        self.make_plan: Callable[..., TablesPlan] = make_plan
        self.copies: Callable[[OwnCalls], Copies] = lambda shards: CountedCopies(shards, self.cluster.count)
        self.prefixes = Prefixes()
        self.kept: set[tuple[int, int, int]] = set()
        """What was set aside: tables, and where they stood."""
        self.replicators: list[SimulatedReplicator] = []

    def follow(self, way: Way, services: list[dict[str, Handler]]) -> None:
        """Begin."""
        for coordinator in self.cluster.coordinators:
            calls = WayCalls(way, services, self.cluster.world.stream(f"calls-{coordinator.address}"))
            replicator = SimulatedReplicator(self, coordinator, calls)
            self.replicators.append(replicator)
            replicator.start()

    def stop(self) -> None:
        for replicator in self.replicators:
            replicator.die()
