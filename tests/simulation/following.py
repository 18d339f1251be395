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

from config.models import ReplicationConfig
from coordinator.api import outcomes
from coordinator.api.call import ANYBODY
from coordinator.auth.credentials import NOBODY
from coordinator.replication.copier import Copier
from coordinator.replication.copies import Copies
from coordinator.replication.gate import Gate
from coordinator.replication.leader import Leader, LeaderFailed
from coordinator.replication.plan import make_plan
from coordinator.replication.source import TableSource
from coordinator.services.regatta_replication import RegattaReplication
from coordinator.shards.own_calls import OwnCalls
from coordinator.shards.request_ids import RequestIds
from coordinator.shards.table_calls import TableCalls
from proto import errors
from proto.catalog import CATALOG, Lead, TableEntry
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import Access
from tests.simulation.clients import TABLE_ID
from tests.simulation.cluster import SHARD, Cluster
from tests.simulation.tasks import Promise, Task, WorldClock
from tests.simulation.world import MS, SECOND, World

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
    from random import Random

    from coordinator.api.call import Handler, Identity
    from coordinator.auth.authenticator import Authenticator
    from coordinator.catalog.cache import Catalog
    from coordinator.catalog.changes import TableChanges
    from coordinator.catalog.identities import Identities
    from coordinator.replication.leading import Leading
    from coordinator.replication.plan import Plan as TablesPlan
    from coordinator.shards.driver import Driver
    from coordinator.shards.router import Call
    from coordinator.shards.routing import ShardRoutes
    from proto.ids import NodeId
    from tests.simulation.build import Build
    from tests.simulation.coordinator import Coordinator
    from tests.simulation.plan import Plan

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

    async def ask(self, call: Call) -> frames.Reply:
        promise = Promise[frames.Reply]()

        def ended(ended: Call) -> None:
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


# ---- between the clusters -------------------------------------------------------------------------------------------


class Way:
    """What the clusters reach each other by."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = WorldClock(world)
        self._rng = world.stream("way")
        self.is_open = True
        self.delay_us_max = 5 * MS
        self.exchanges: list[Exchange] = []

    async def pass_on(self) -> None:
        """As long as a message takes."""
        await self.clock.sleep(self._rng.randrange(200, self.delay_us_max) / SECOND)

    def cut(self) -> None:
        """Everything that is under way ends."""
        self.is_open = False
        for exchange in list(self.exchanges):
            exchange.break_off()


class Exchange:
    """A call from one cluster to the other, at both its ends: here an api.call.Call, there its answers."""

    metadata: Final[Mapping[str, str]] = {}
    deadline: Final = float("inf")
    peer: Final = "follower"
    identity: Final[Identity] = ANYBODY

    def __init__(self, way: Way, handler: Handler, body: bytes) -> None:
        self.body = body
        self._way = way
        self._answers: list[bytes] = []
        self._is_over = False
        self._failure: LeaderFailed | None = None
        self._awaited: Promise[None] | None = None
        way.exchanges.append(self)
        self._task = Task(way.world, self._serve(handler))

    async def _serve(self, handler: Handler) -> None:
        await self._way.pass_on()
        try:
            answer = await handler(self)  # type: ignore[arg-type]  # what it lacks of a Call, no handler here asks for
            if answer is not None:
                await self.send(answer)
        except errors.BoathouseError as error:
            code, text = outcomes.to_status(outcomes.REGATTA, error)
            self._end(LeaderFailed(code.name, text))
        else:
            self._end(None)

    async def send(self, message: bytes) -> None:
        await self._way.pass_on()
        self._answers.append(message)
        self._wake()

    def _end(self, failure: LeaderFailed | None) -> None:
        if not self._is_over:
            self._is_over, self._failure = True, failure
            self._way.exchanges.remove(self)
            self._wake()

    def _wake(self) -> None:
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            awaited.keep(None)

    def break_off(self) -> None:
        """One end is gone, or can't be reached."""
        self._task.cancel()
        self._end(LeaderFailed("UNAVAILABLE", "the way is cut"))

    async def answers(self) -> AsyncGenerator[bytes]:
        """As they arrive. Raises LeaderFailed."""
        try:
            while True:
                while self._answers:
                    yield self._answers.pop(0)
                if self._is_over:
                    if self._failure is not None:
                        raise self._failure
                    return
                self._awaited = Promise()
                await self._awaited
        finally:
            self.break_off()


class WayCalls:
    """leader.Calls over the way, to any coordinator of the leader cluster."""

    def __init__(self, way: Way, services: list[dict[str, Handler]], rng: Random) -> None:
        self._way = way
        self._services = services
        self._rng = rng

    async def unary(self, path: str, request: bytes, timeout_s: float) -> bytes:
        answer = b""
        async for message in self.stream(path, request, timeout_s):
            answer = message
        return answer

    async def stream(self, path: str, request: bytes, timeout_s: float | None) -> AsyncGenerator[bytes]:
        del timeout_s  # the leader cluster's own limits are shorter
        handler = self._rng.choice(self._services)[path]
        if not self._way.is_open:
            await self._way.clock.sleep(0.1)
            raise LeaderFailed("UNAVAILABLE", "there is no way")
        exchange = Exchange(self._way, handler, request)
        try:
            async for message in exchange.answers():
                yield message
        finally:
            exchange.break_off()


# ---- the leader cluster ---------------------------------------------------------------------------------------------


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
        return [self._service(coordinator, source) for coordinator in self.cluster.coordinators]

    def _service(self, coordinator: Coordinator, source: type[TableSource]) -> dict[str, Handler]:
        driver = cast("Driver", CoordinatorDriver(coordinator))
        catalog = cast("Catalog", self.tables)
        calls = TableCalls(
            driver, catalog, RequestIds(self._rng.randbytes(8)), coordinator.bounds, step_timeout_s=STEP_S
        )
        gate = Gate(ReplicationConfig(), self.clock.time)
        return RegattaReplication(
            "sim",
            gate,
            cast("TableChanges", self.tables),
            cast("Identities", self.tables),
            source(driver, calls, RequestIds(self._rng.randbytes(8))),
            self.leading,
            cast("Authenticator", Nobody()),
            is_exposed=False,
        ).handlers

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
        self._leader = Leader("follower", calls)
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
        plan = self._follower.make_plan(told.tables, tables.entries.values())
        for copy in [copy for copy in self._copiers if copy not in plan.copy]:
            self._copiers.pop(copy).cancel()
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
            if copy not in self._copiers:
                await self._shards.ask(Access.WRITE, frames.TABLE_CREATE, copy, spec, WRITE_S)
                self._start_copier(copy)

    def _start_copier(self, copy: TableEntry) -> None:
        copies = self._follower.copies(self._shards)
        copier = Copier(copy, self._leader, copies, self._rng, self._follower.clock)
        self._copiers[copy] = Task(self._follower.cluster.world, copier.run())


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

    def __init__(self, world: World, plan: Plan, build: Build) -> None:
        self.cluster = Cluster(Side(world, "F", 2 * plan.seed + 1), plan, build)
        self.tables = Tables(next_id=20_001)
        self.clock = WorldClock(world)
        self.leading: Leading | None = None
        """None: it is never promoted."""
        self.make_plan: Callable[..., TablesPlan] = make_plan
        self.copies: Callable[[OwnCalls], Copies] = lambda shards: CountedCopies(shards, self.cluster.count)
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
