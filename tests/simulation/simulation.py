"""One seed, from the first event to the verdict.

First the safety phase: anything may break, nothing may be wrong. Then the liveness phase: the faults end, a quorum is
healed, and within bounded time its replicas must agree and serve every client. At the end the recorded history is
checked as a whole.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from proto.etcd import rpc_pb2
from proto.internal import frames_pb2 as frames
from tests.history import linearizability, revisions
from tests.history.operations import Kind, Outcome
from tests.simulation.build import PRODUCTION
from tests.simulation.clients import COUNTERS, TABLE_ID
from tests.simulation.cluster import Cluster
from tests.simulation.disk import seed_sqlite
from tests.simulation.faults import Faults
from tests.simulation.healing import heal, members_among
from tests.simulation.plan import Plan, draw
from tests.simulation.violation import Violation
from tests.simulation.world import MS, SECOND, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardworker.machine import Result
    from tests.history.operations import Operation
    from tests.simulation.build import Build
    from tests.simulation.clients import Client
    from tests.simulation.host import Host
    from tests.simulation.lessees import Lessee
    from tests.simulation.process import Process

CONVERGE_US_MAX: Final = 40 * SECOND
"""A healed quorum agrees and serves within this time. Snapshots wait out a silent peer for 100 ticks, 10 s, and an
election may have to be repeated a few times."""

SERVED_MIN: Final = 3
"""Operations that each client must get answered after the healing, and writes if it writes at all."""


@dataclass(slots=True)
class Finding:
    """What a simulation was and whether all promises held."""

    plan: Plan
    violation: Violation | None
    digest: str
    """Stands for the whole trace."""
    virtual_us: int
    counts: Counter[str] = field(default_factory=Counter)
    operations: int = 0
    """Operations in the checked history."""
    checks: int = 0
    recent: list[str] = field(default_factory=list)
    """The end of the trace."""


Scenario = Callable[["Cluster"], None]
"""Arranges something that chance would take too long to come by, at the beginning of the safety phase."""


def run(
    plan: Plan,
    build: Build = PRODUCTION,
    write: Callable[[str], object] | None = None,
    scenario: Scenario | None = None,
    birth: Scenario | None = None,
) -> Finding:
    """Simulate. A violation is part of the outcome, not raised. birth: arranges something before any process has
    taken its first step, while there is no shard yet."""
    with silence():
        return _run(plan, build, write, scenario, birth)


@contextmanager
def silence() -> Iterator[None]:
    """The replicas' log lines cost more than the replicas; the trace says the same and more."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def _run(
    plan: Plan,
    build: Build,
    write: Callable[[str], object] | None,
    scenario: Scenario | None,
    birth: Scenario | None,
) -> Finding:
    world = World(plan.seed, write)
    seed_sqlite(plan.seed)
    world.note(f"plan {plan.voters}+{plan.spares} clients={plan.clients} kinds={sorted(plan.kinds)}")
    cluster = Cluster(world, plan, build)
    violation: Violation | None = None
    operations = 0
    try:
        Simulation(cluster).run(scenario, birth)
        operations = len(cluster.recorder.operations)
    except Violation as caught:
        violation = caught
        world.note(f"violation {caught}")
    finally:
        cluster.close()
    counts = cluster.counts + cluster.network.counts
    return Finding(
        plan=plan,
        violation=violation,
        digest=world.digest(),
        virtual_us=world.now_us,
        counts=counts,
        operations=operations,
        checks=cluster.checkers.checks,
        recent=list(world.recent),
    )


def run_seed(seed: int, without: frozenset[str] = frozenset(), build: Build = PRODUCTION) -> Finding:
    """Simulate the plan that the seed draws, without these kinds of faults."""
    return run(draw(seed).without(without), build)


class Simulation:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world

    def run(self, scenario: Scenario | None, birth: Scenario | None) -> None:
        cluster, world = self._cluster, self._world
        for host in cluster.hosts:
            host.start()
        if birth is not None:
            birth(cluster)
        self.create_table()
        faults = Faults(cluster)
        for client in cluster.clients:
            client.start()
        for lessee in cluster.lessees:
            lessee.start()
        if scenario is not None:
            scenario(cluster)
        world.run_until(world.now_us + cluster.plan.safety_ms * MS)
        faults.stop()
        world.note("heal")
        core = heal(cluster)
        if core:
            self.check_liveness(core)
            self.check_bounds()
            self.check_states(core)
        else:
            cluster.count("no quorum left")
        self.check_history(complete=bool(core))

    def create_table(self) -> None:
        created: list[bool] = []
        self._cluster.clients[0].create_table(lambda: created.append(True))
        self._wait(20 * SECOND, lambda: bool(created), "no table was created before the first fault")

    def _wait(self, patience_us: int, reached: Callable[[], bool], otherwise: str) -> None:
        world = self._world
        deadline = world.now_us + patience_us
        while not reached():
            if world.now_us >= deadline:
                raise Violation("liveness", otherwise)
            world.run_until(world.now_us + 100 * MS)

    # ---- liveness -----------------------------------------------------------------------------------------------

    def check_liveness(self, core: list[Host]) -> None:
        """Every client is served, then the clients stop and the members among the healed hosts agree."""
        clients = self._cluster.clients
        goals = [(client, client.completed + SERVED_MIN, client.written + SERVED_MIN) for client in clients]
        self._wait(
            CONVERGE_US_MAX,
            lambda: all(
                client.completed >= completed and (client.only_reads or client.written >= written)
                for client, completed, written in goals
            ),
            "the healed cluster does not serve every client",
        )
        everybody: list[Client | Lessee] = [*clients, *self._cluster.lessees]
        for client in everybody:
            client.stop()
        self._wait(CONVERGE_US_MAX, lambda: all(client.idle for client in everybody), "a client is stuck")
        self._wait(CONVERGE_US_MAX, lambda: self._no_lease_is_left(core), "a lease does not end")
        self._wait(CONVERGE_US_MAX, lambda: self._converged(core), "the healed replicas do not converge")
        self._check_watchers(core)

    def check_bounds(self) -> None:
        """Calls that have ended take no room any more; all have."""
        for coordinator in self._cluster.coordinators:
            if coordinator.bounds.calls or coordinator.bounds.size_bytes:
                raise Violation("bounds", f"{coordinator.address} counts calls that have ended")

    def _check_watchers(self, core: list[Host]) -> None:
        """Every watcher hears of all there is, and ends."""
        watchers = self._cluster.watchers
        if not watchers:
            return
        tables = self._members(core)[0].machine.table_status()
        revision = next(table.revision for table in tables if table.id == TABLE_ID)
        self._wait(
            CONVERGE_US_MAX,
            lambda: all(watcher.has_heard(revision) for watcher in watchers),
            f"not every watcher hears of revision {revision}",
        )
        for watcher in watchers:
            watcher.stop()
        self._wait(CONVERGE_US_MAX, lambda: all(watcher.idle for watcher in watchers), "a watcher is stuck")

    def _no_lease_is_left(self, core: list[Host]) -> bool:
        """Neither of those that their holders know of, nor of those that were granted without their hearing of it."""
        processes = self._members(core)
        return bool(processes) and not any(process.machine.leases.of_table(TABLE_ID) for process in processes)

    def _members(self, core: list[Host]) -> list[Process]:
        return members_among(self._cluster, core)

    def _converged(self, core: list[Host]) -> bool:
        processes = self._members(core)
        if not processes or len({process.applied for process in processes}) > 1:
            return False
        first = processes[0]
        return first.applied == first.core.log.last_index and not first.core.membership.is_joint

    # ---- states -------------------------------------------------------------------------------------------------

    def check_states(self, core: list[Host]) -> None:
        """What the replicas hold is equal, row by row, sound, and has all that was ever applied."""
        processes = self._members(core)
        newest = max(self._cluster.checkers.committed, default=0)
        for process in processes:
            if process.applied < newest:
                raise Violation(
                    "committed-lost", f"{process} ends at {process.applied}, {newest} was applied once"
                )
            wrong = process.store.verify()
            if wrong:
                raise Violation("sound-file", f"{process}: {wrong}")
            self._check_dense(process)
        contents = [self._contents(process) for process in processes]
        if any(content != contents[0] for content in contents):
            raise Violation("equal-state", f"the rows of {', '.join(map(str, processes))} differ")
        self._check_counters(processes[0])

    def _check_dense(self, process: Process) -> None:
        """Every revision above what was compacted has left a change."""
        status = next(table for table in process.machine.table_status() if table.id == TABLE_ID)
        floor = max(status.compacted_revision, 1)
        rows = process.store.connection.execute(
            f"SELECT DISTINCT id >> 24 FROM t{TABLE_ID}_rev WHERE id >> 24 > ? ORDER BY 1",  # noqa: S608 - the id is a constant
            (floor,),
        ).fetchall()
        if [row[0] for row in rows] != list(range(floor + 1, status.revision + 1)):
            raise Violation("dense-revisions", f"{process} lacks revisions above {floor}")

    def _contents(self, process: Process) -> list[tuple[int, bytes]]:
        """The whole table at its newest revision, its oldest readable one and one between."""
        status = next(table for table in process.machine.table_status() if table.id == TABLE_ID)
        floor = max(status.compacted_revision, 1)
        found = []
        for revision in sorted({status.revision, floor, (floor + status.revision) // 2}):
            request = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", revision=revision)
            result = _read(process, request)
            if result.error is not None:
                raise Violation("equal-state", f"{process} cannot read revision {revision}: {result.error}")
            found.append((revision, result.body))
        return found

    def _check_counters(self, process: Process) -> None:
        """A counter's version is the number of its puts that took effect."""
        for key in COUNTERS:
            puts = [
                operation
                for operation in self._cluster.recorder.operations
                if operation.key == key and operation.kind is Kind.PUT
            ]
            least = sum(operation.outcome is Outcome.OK for operation in puts)
            most = least + sum(operation.outcome is Outcome.UNKNOWN for operation in puts)
            request = rpc_pb2.RangeRequest(key=key)
            result = _read(process, request)
            kvs = rpc_pb2.RangeResponse.FromString(result.body).kvs
            version = kvs[0].version if kvs else 0
            if not least <= version <= most:
                raise Violation(
                    "exactly-once", f"{key!r} was put {version} times, its clients know of {least} to {most}"
                )

    # ---- history ------------------------------------------------------------------------------------------------

    def check_history(self, *, complete: bool) -> None:
        history = self._cluster.recorder.history()
        if complete:
            self._add_final_reads(history)
        verdict = linearizability.check(history)
        if isinstance(verdict, linearizability.Violation):
            raise Violation("linearizability", str(verdict))
        if isinstance(verdict, linearizability.Undecided):
            self._cluster.count("undecided histories")
        anomalies = revisions.check(history)
        if anomalies:
            raise Violation("revisions", str(anomalies[0]))

    def _add_final_reads(self, history: list[Operation]) -> None:
        """What is in the table in the end counts as read by everybody."""
        process = self._members(self._cluster.hosts)[0]
        now = self._world.now_us
        keys = sorted({operation.key for operation in history})
        for key in keys:
            pending = self._cluster.recorder.invoke(0, Kind.GET, key)
            pending.invoked = now + 1
            request = rpc_pb2.RangeRequest(key=key)
            result = _read(process, request)
            kvs = rpc_pb2.RangeResponse.FromString(result.body).kvs
            self._world.now_us = now + 2
            read = pending.succeeded(
                found=kvs[0].value if kvs else None,
                revision=result.revision,
                mod_revision=kvs[0].mod_revision if kvs else 0,
            )
            history.append(read)


def _read(process: Process, request: rpc_pb2.RangeRequest) -> Result:
    """What a replica's tables say, past all of consensus."""
    parsed = process.machine.parse(frames.ETCD_RANGE, TABLE_ID, request.SerializeToString())
    return process.machine.read(process.store.connection, parsed)
