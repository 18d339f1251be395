"""A follower cluster that is promoted while clients write, through faults in both clusters and between them; in every
second seed the old leader cluster then follows it, and is promoted again.

What runs is production's promotion, who leads, the leader cluster's service, copiers, routers and replicas; simulated
are the catalogs, and clients that go to the other cluster where one refuses their writes. Whoever promotes dies now and
then, and begins again; sometimes there are two of them.

Judged: the history that the clients have recorded over both clusters, as if they were one; that a table has one past,
which is the same in both; that a new leader cluster begins with all that the old one has ever applied, and that the old
one applies nothing more from then on; that all of it comes to its end once the faults are over.

python -m tests.simulation.promoting --seed N
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from config import ClusterConfig
from coordinator.replication import report
from coordinator.replication.copies import Copies
from coordinator.replication.leader import Leader
from coordinator.replication.leading import Leading
from coordinator.replication.local import LeaseRow
from coordinator.shards.own_calls import OwnCalls
from coordinator.shards.request_ids import RequestIds
from coordinator.shards.shard_call import LEADER, ShardCall
from proto import errors
from proto.catalog import Lead, TableEntry
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import Access
from tests.history import linearizability, revisions
from tests.history.operations import Kind
from tests.simulation.build import PRODUCTION
from tests.simulation.clients import REGISTERS, TABLE_ID
from tests.simulation.cluster import SHARD, Cluster
from tests.simulation.disk import seed_sqlite
from tests.simulation.faults import Faults
from tests.simulation.following import MAIN, WRITE_S, CoordinatorDriver, FollowerCluster, Tables, services
from tests.simulation.healing import heal
from tests.simulation.pair import Pair, draw
from tests.simulation.simulation import CONVERGE_US_MAX, Finding, Simulation, silence
from tests.simulation.tasks import Task, WorldClock
from tests.simulation.violation import Violation
from tests.simulation.way import WayCalls
from tests.simulation.world import MS, SECOND, World
from tools.admin.promotion import NotPromoted, Promotion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from coordinator.api.call import Handler
    from coordinator.catalog.cache import Catalog
    from coordinator.catalog.contents import Contents
    from coordinator.catalog.lead import LeadRow
    from coordinator.catalog.tables import Tables as CatalogTables
    from coordinator.shards.driver import Driver
    from tests.history.operations import Operation, Pending
    from tests.simulation.build import Build
    from tests.simulation.following import SimulatedReplicator
    from tests.simulation.plan import Plan
    from tests.simulation.process import Process, State

CLIENTS: Final = 3
TIMEOUT_S: Final = 4.0
TRY_AGAIN_US: Final = 50 * MS
"""Before a client that was refused asks the other cluster."""
BEGIN_US_MAX: Final = 3 * SECOND
PROMOTE_US_MAX: Final = 120 * SECOND
"""For a promotion to end once nothing fails any more: it waits for level copies for up to a minute."""

OLD: Final = "sim"
"""The name of the cluster that leads at first."""
NEW: Final = "follower"


def config_of(name: str, follows: str = "") -> ClusterConfig:
    """Of a cluster of this name."""
    following = {"follows": {"cluster": follows, "endpoints": ["127.0.0.1:1"]}} if follows else {}
    return ClusterConfig.model_validate({"cluster": name, "nodes": {"n1": {}}, **following})


@dataclass
class Rows(Tables):
    """A catalog with who leads, over shards that are asked what each table copies."""

    shards: OwnCalls | None = None
    lead: Lead = field(default_factory=Lead)
    lead_changed: int = 0

    async def read(self) -> tuple[Lead, int]:
        return self.lead, self.lead_changed

    async def write(self, lead: Lead, *, seen: int) -> bool:
        if seen != self.lead_changed:
            return False
        self.lead, self.lead_changed = lead, seen + 1
        return True

    async def origin_in_shard(self, entry: TableEntry) -> int:
        assert self.shards is not None
        try:
            reply = await self.shards.ask(Access.READ, frames.TABLE_STATUS, entry, b"", WRITE_S)
        except errors.TableNotFound:
            return entry.origin
        return frames.TableStatus.FromString(reply.body).origin

    async def change_origin(
        self, entry: TableEntry, held: int, changed: TableEntry, *, seen: Contents
    ) -> bool:
        del seen
        assert self.shards is not None
        told = frames.TableOrigin(table_id=entry.id, was=held, origin=changed.origin)
        await self.shards.ask(Access.WRITE, frames.TABLE_ORIGIN, entry, told.SerializeToString(), WRITE_S)
        if self.tables.get(entry.name) != entry:
            return False
        self.tables[entry.name] = changed
        return True

    async def make_in_shard(self, entry: TableEntry) -> None:
        assert self.shards is not None
        spec = frames.TableSpec(id=entry.id, name=entry.name, history=-1, origin=entry.origin)
        await self.shards.ask(Access.WRITE, frames.TABLE_CREATE, entry, spec.SerializeToString(), WRITE_S)

    # ---- what a promotion asks of its own cluster, beside that ------------------------------------------------------

    async def read_lease(self) -> LeaseRow:
        return LeaseRow(report.Rows(b""), 0)

    async def followed(self, _cluster: str) -> str:
        return ""


@dataclass
class Local:
    """promotion.Local."""

    rows: Rows
    leading: Leading
    copies: Copies

    @property
    def identities(self) -> Any:
        return self.rows

    async def contents(self) -> Any:
        return self.rows

    async def read_lease(self) -> LeaseRow:
        return await self.rows.read_lease()


class Promoting(Pair):
    """Both clusters, who writes to them, and who promotes."""

    def __init__(self, world: World, plan: Plan, build: Build = PRODUCTION) -> None:
        super().__init__(world, replace(plan, clients=CLIENTS, lessees=0), build)
        self.rng = world.stream("promoting")
        self.clusters = {OLD: self.leader.cluster, NEW: self.follower.cluster}
        self.rows = {OLD: self._make_rows(OLD, TABLE_ID), NEW: self._make_rows(NEW, 20_001)}
        self.leader.tables, self.follower.tables = self.rows[OLD], self.rows[NEW]
        self.leader.tables.tables[MAIN] = self.leader.tables.draw(MAIN)
        self.leader.leading = self.leading_of(OLD, "")
        self.follower.leading = self.leading_of(NEW, OLD)
        self.clients = [Client(self, number) for number in range(1, CLIENTS + 1)]
        self.promotion: Callable[..., Promotion] = Promotion
        self.to_promote = [NEW, OLD] if plan.seed % 2 else [NEW]
        """One after the other."""
        self.is_active = True
        self._followers = {NEW: self.follower}
        self._services: list[dict[str, Handler]] = []
        """Of the cluster that leads."""
        self._promoters: list[Task] = []
        self._judge = _Judge(self.rows)
        for name, cluster in self.clusters.items():
            cluster.checkers.reached = partial(self._judge.reached, name)

    def _make_rows(self, name: str, first_id: int) -> Rows:
        cluster = self.clusters[name]
        driver = cast("Driver", CoordinatorDriver(cluster.coordinators[0]))
        shards = OwnCalls(driver, RequestIds(cluster.world.stream("rows").randbytes(8)))
        return Rows(next_id=first_id, shards=shards)

    def leading_of(self, name: str, follows: str) -> Leading:
        rows = self.rows[name]
        return Leading(
            config_of(name, follows),
            cast("Catalog", rows),
            cast("CatalogTables", rows),
            cast("LeadRow", rows),
            WorldClock(self.world),
        )

    # ---- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Violation."""
        world = self.world
        for cluster in self.clusters.values():
            for host in cluster.hosts:
                host.start()
        for client in self.leader.cluster.clients:
            client.stop()  # they know one cluster only
        Simulation(self.leader.cluster).create_table()
        faults = [Faults(cluster) for cluster in self.clusters.values()]
        for mine in self.clients:
            mine.next()
        self.leader.start()
        self._services = self.leader.services()
        self.follower.follow(self.way, self._services)
        self._break_things()
        world.after(self.rng.randrange(BEGIN_US_MAX), self._operate)
        world.run_until(world.now_us + self.plan.safety_ms * MS)
        for one in faults:
            one.stop()
        self._heal()
        for cluster in self.clusters.values():
            assert heal(cluster), "nothing here takes a quorum away"
        self._wait(PROMOTE_US_MAX, lambda: not self.to_promote, "the promotion does not end")
        for mine in self.clients:
            self._wait(
                CONVERGE_US_MAX,
                lambda mine=mine, goal=mine.written + 1: mine.written >= goal,  # type: ignore[misc]
                "the new leader cluster does not serve every client",
            )
        self.is_active = False
        self._wait(
            CONVERGE_US_MAX, lambda: all(client.is_idle for client in self.clients), "a client is stuck"
        )
        for key in REGISTERS:
            self.clients[0].read(key, self.leads)
            self._wait(CONVERGE_US_MAX, lambda: self.clients[0].is_idle, "a client is not served")
        self._check_history()

    def _wait(self, patience_us: int, reached: Callable[[], bool], otherwise: str) -> None:
        deadline = self.world.now_us + patience_us
        while not reached():
            if self.world.now_us >= deadline:
                raise Violation("liveness", otherwise)
            self.world.run_until(self.world.now_us + 100 * MS)

    @property
    def leads(self) -> str:
        """The cluster that has last begun to take writes."""
        return self._judge.leads

    def served(self, place: str) -> None:
        """A client has heard so of what it last asked a cluster for."""
        self.leader.cluster.count(f"{place} served")

    def history(self) -> list[Operation]:
        """What clients did and were told."""
        return self.leader.cluster.recorder.history()

    def _check_history(self) -> None:
        history = self.history()
        verdict = linearizability.check(history)
        if isinstance(verdict, linearizability.Violation):
            raise Violation("linearizability", str(verdict))
        anomalies = revisions.check(history)
        if anomalies:
            raise Violation("revisions", str(anomalies[0]))

    def close(self) -> None:
        """Let go of everything, whatever has happened."""
        for follower in self._followers.values():
            follower.stop()
        super().close()

    def _replicators(self) -> list[SimulatedReplicator]:
        return [one for follower in self._followers.values() for one in follower.replicators]

    # ---- the operator -----------------------------------------------------------------------------------------------

    def _operate(self) -> None:
        """Somebody promotes, or dies at it."""
        if not self.to_promote:
            return
        if self._promoters and self._active and self.rng.random() < 0.3:
            self.leader.cluster.count("promoter killed")
            self._promoters.pop(self.rng.randrange(len(self._promoters))).cancel()
        elif len(self._promoters) < 1 + (self.rng.random() < 0.1):
            self._promoters.append(Task(self.world, self._promote_until_done(self.to_promote[0])))
        self.world.after(self.rng.randrange(4 * SECOND), self._operate)

    async def _promote_until_done(self, name: str) -> None:
        follower = self._followers[name]
        assert follower.leading is not None
        coordinator = self.rng.choice(follower.cluster.coordinators)
        shards = OwnCalls(cast("Driver", CoordinatorDriver(coordinator)), RequestIds(self.rng.randbytes(8)))
        local = Local(self.rows[name], follower.leading, Copies(shards))
        leader = Leader(name, WayCalls(self.way, self._services, self.rng))
        config = config_of(name, OLD if name == NEW else NEW)
        while name in self.to_promote:
            promotion = self.promotion(local, leader, config, follower.clock)
            try:
                prospect = await promotion.prospect()
                if not prospect.unreachable or prospect.leads:
                    await promotion.promote(prospect, wait=True, say=self.world.note)
                    self._promoted(name)
                    return
            except NotPromoted as refusal:
                self.world.note(f"not promoted: {refusal}")
                self.leader.cluster.count("not promoted")
            await follower.clock.sleep(0.5)

    def _promoted(self, name: str) -> None:
        """The first of those who promoted it says so; the cluster that led before follows, if it is to lead again."""
        if name not in self.to_promote:
            return
        self.leader.cluster.count(f"promoted {name}")
        self.to_promote.remove(name)
        self._promoters.clear()
        if not self.to_promote:
            return
        self._services = services(
            name,
            self.clusters[name],
            self.rows[name],
            self.leading_of(name, OLD),
            self.follower.clock,
            self.world.stream("back"),
        )
        back = FollowerCluster(OLD, self.clusters[OLD], self.rows[OLD])
        back.leading = self.leading_of(OLD, NEW)
        back.follow(self.way, self._services)
        self._followers[OLD] = back


class _Judge:
    """A table has one past, whichever cluster makes it."""

    def __init__(self, rows: Mapping[str, Rows]) -> None:
        self._rows = rows
        self._past: dict[int, int] = {}
        """The table's checksum at each of its revisions."""
        self._newest = 0
        self.leads = OLD
        """The cluster that has last begun to take writes."""
        self._epoch = Lead().epoch
        """In which it did."""
        self._furthest: dict[str, tuple[int, Process | None]] = {OLD: (0, None), NEW: (0, None)}
        """The last entry of its log that any replica of a cluster has applied, and which one did so first."""

    def reached(self, name: str, process: Process, state: State) -> None:
        """A command has made this of a table. Raises Violation."""
        entry = self._rows[name].tables.get(MAIN)
        if entry is None or state.table_id != entry.id:
            return
        known = self._past.get(state.revision)
        if state.origin and known is None:
            raise Violation("never-ahead", f"{process} of {name} is where nobody has ever been: {state}")
        if known not in (None, state.checksum):
            raise Violation("equal-copy", f"{process} of {name} is at {state}, and it was {known:#x} there")
        if not state.origin and self._is_news(name, process):
            self._check_leads(name, process, state)
        self._past[state.revision] = state.checksum
        self._newest = max(self._newest, state.revision)

    def _check_leads(self, name: str, process: Process, state: State) -> None:
        """It takes writes of clients."""
        if name == self.leads:
            return
        lead = self._rows[name].lead
        if lead.cluster != name or lead.epoch <= self._epoch:
            raise Violation("fence", f"{process} of {name} writes {state}, and {self.leads} leads")
        if state.revision < self._newest:
            raise Violation("lost-write", f"{process} of {name} begins at {state}, behind {self._newest}")
        self.leads, self._epoch = name, lead.epoch

    def _is_news(self, name: str, process: Process) -> bool:
        """Whether no other replica has applied that before."""
        furthest, first = self._furthest[name]
        if process.applied > furthest:
            self._furthest[name] = process.applied, process
            return True
        return process.applied == furthest and process is first


class Client:
    """One operation at a time, in whichever cluster takes it. It reads by comparing: that is a write of its cluster."""

    def __init__(self, promoting: Promoting, number: int) -> None:
        self._promoting = promoting
        self._number = number
        self._rng = promoting.world.stream(f"promoting-client-{number}")
        self._ids = RequestIds(self._rng.randbytes(8))
        self.place = OLD
        """Which cluster has taken the last one."""
        self._values = 0
        self._guesses: dict[bytes, bytes | None] = {}
        self.is_idle = True
        self.written = 0

    def next(self) -> None:
        """Go on, as long as things happen."""
        if not self._promoting.is_active or not self.is_idle:
            return
        key = self._rng.choice(REGISTERS)
        self._values += 1
        value = b"%d-%d" % (self._number, self._values)
        (self._put if self._rng.random() < 0.5 else self._swap)(key, value)

    def _put(self, key: bytes, value: bytes) -> None:
        pending = self._recorded(Kind.PUT, key, value=value)

        def succeeded(reply: frames.Reply) -> None:
            self._guesses[key] = value
            pending.succeeded(revision=reply.revision)

        self._ask(frames.ETCD_PUT, etcd.PutRequest(key=key, value=value), pending, succeeded)

    def _swap(self, key: bytes, value: bytes) -> None:
        expected = self._guesses.get(key)
        pending = self._recorded(Kind.CAS, key, value=value, expected=expected)
        txn = etcd.TxnRequest()
        compare = txn.compare.add(key=key, result=etcd.Compare.EQUAL)
        if expected is None:
            compare.target, compare.create_revision = etcd.Compare.CREATE, 0
        else:
            compare.target, compare.value = etcd.Compare.VALUE, expected
        txn.success.add(request_put=etcd.PutRequest(key=key, value=value))
        txn.failure.add(request_range=etcd.RangeRequest(key=key))

        def succeeded(reply: frames.Reply) -> None:
            answer = etcd.TxnResponse.FromString(reply.body)
            found = [value] if answer.succeeded else []
            if not answer.succeeded:
                found = [kv.value for kv in answer.responses[0].response_range.kvs]
            self._guesses[key] = found[0] if found else None
            pending.succeeded(hit=answer.succeeded, revision=reply.revision)

        self._ask(frames.ETCD_TXN, txn, pending, succeeded)

    def read(self, key: bytes, leads: str) -> None:
        """In the cluster that leads: linearizable."""
        pending = self._recorded(Kind.GET, key)

        def succeeded(reply: frames.Reply) -> None:
            kvs = etcd.RangeResponse.FromString(reply.body).kvs
            pending.succeeded(
                found=kvs[0].value if kvs else None,
                revision=reply.revision,
                mod_revision=kvs[0].mod_revision if kvs else 0,
            )

        self.place = leads
        self._ask(frames.ETCD_RANGE, etcd.RangeRequest(key=key), pending, succeeded)

    def _recorded(self, kind: Kind, key: bytes, **what: bytes | None) -> Pending:
        return self._promoting.leader.cluster.recorder.invoke(self._number, kind, key, **what)  # type: ignore[arg-type]

    def _ask(
        self,
        method: frames.Method.ValueType,
        request: Any,
        pending: Pending,
        succeeded: Callable[[frames.Reply], None],
    ) -> None:
        self.is_idle = False
        is_read = method == frames.ETCD_RANGE
        give_up_us = self._promoting.world.now_us + int(TIMEOUT_S * SECOND)

        # By the last try: who promotes may send this client elsewhere while an answer is on its way.
        asked = self.place

        def send() -> None:
            nonlocal asked
            asked = self.place
            cluster, table = self._asked()
            coordinator = cluster.coordinators[self._number % len(cluster.coordinators)]
            call = ShardCall(
                ShardId(SHARD),
                LEADER,
                Access.READ if is_read else Access.WRITE,
                method,
                table,
                request.SerializeToString(),
                deadline=coordinator.now_s() + TIMEOUT_S,
                request_id=b"" if is_read else self._ids.draw(),
                linearizable=is_read,
            )
            coordinator.ask(call, sent=lambda _node: None, ended=ended)

        def ended(call: ShardCall) -> None:
            error = call.error
            elsewhere = isinstance(error, errors.TableReplicated | errors.TableNotFound) and not call.in_doubt
            if elsewhere:
                self.place = NEW if asked == OLD else OLD
                if self._promoting.world.now_us < give_up_us:
                    self._promoting.world.after(1 + self._rng.randrange(TRY_AGAIN_US), send)
                    return
            self.is_idle = True
            self._promoting.world.after(1 + self._rng.randrange(50 * MS), self.next)
            if error is not None and (call.in_doubt or not error.definite):
                pending.lost()
            elif error is not None:
                pending.refused()
            else:
                assert call.reply is not None
                self.written += not is_read
                succeeded(call.reply)
                self._promoting.served(asked)

        send()

    def _asked(self) -> tuple[Cluster, int]:
        """The cluster, and which table it is there."""
        entry = self._promoting.rows[self.place].tables.get(MAIN)
        return self._promoting.clusters[self.place], 0 if entry is None else entry.id


def run_promoting(
    plan: Plan,
    build: Build = PRODUCTION,
    arrange: Callable[[Promoting], object] = lambda _promoting: None,
    write: Callable[[str], object] | None = None,
    make: type[Promoting] = Promoting,
) -> Finding:
    """Simulate. A violation is part of the outcome, not raised. arrange: before anything has started."""
    with silence():
        world = World(plan.seed, write)
        seed_sqlite(plan.seed)
        world.note(f"plan {plan.voters} kinds={sorted(plan.kinds)}")
        promoting = make(world, plan, build)
        violation: Violation | None = None
        try:
            arrange(promoting)
            promoting.run()
        except Violation as caught:
            violation = caught
        finally:
            promoting.close()
    clusters = (promoting.leader.cluster, promoting.follower.cluster)
    return Finding(
        plan=plan,
        violation=violation,
        digest=world.digest(),
        virtual_us=world.now_us,
        counts=clusters[0].counts + clusters[1].counts,
        operations=len(clusters[0].recorder.operations),
        checks=sum(cluster.checkers.checks for cluster in clusters),
        recent=list(world.recent),
    )


def run_from_command_line(about: str, make: type[Promoting]) -> None:
    """Run one seed and print its trace."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    plan = draw(arguments.seed)
    finding = run_promoting(plan, write=lambda line: sys.stdout.write(line + "\n"), make=make)
    sys.stdout.write(f"{finding.violation or 'all promises held'}\n{dict(finding.counts)}\n")
    sys.exit(finding.violation is not None)


if __name__ == "__main__":
    run_from_command_line(__doc__, Promoting)
