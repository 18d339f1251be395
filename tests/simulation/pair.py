"""One seed of a leader and a follower cluster (following.py), from the first event to the verdict.

python -m tests.simulation.pair --seed N [--returning]
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.machine import history
from tests.simulation.build import PRODUCTION
from tests.simulation.cluster import Cluster
from tests.simulation.disk import seed_sqlite
from tests.simulation.faults import Faults
from tests.simulation.following import FollowerCluster, LeaderCluster, Side, Tables
from tests.simulation.healing import heal, members_among
from tests.simulation.plan import Plan, draw_kinds
from tests.simulation.returning import Returning
from tests.simulation.simulation import CONVERGE_US_MAX, Finding, Simulation, silence
from tests.simulation.violation import Violation
from tests.simulation.way import Way
from tests.simulation.world import MS, SECOND, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.catalog.source import TableSource
    from tests.simulation.build import Build
    from tests.simulation.following import SimulatedReplicator
    from tests.simulation.host import Host
    from tests.simulation.process import Process, State

KINDS: Final = (
    "drop", "delay", "duplicate", "reorder", "partition", "one-way", "disconnect", "slow", "pause", "kill",
    "crash-point", "power-cut", "full-disk", "failed-sync", "clock", "transfer", "snapshot", "compaction", "bit-flip",
    "lost-disk",
)  # fmt: skip
"""Not changes of the membership: here a coordinator goes on asking a replica that is a member no longer."""
COMPARE_US: Final = 250 * MS
LASTS_US_MAX: Final = 2_500 * MS
SETTLE_US: Final = 4 * SECOND
"""For what somebody asked for last before he was stopped."""
EVERYTHING: Final = etcd.RangeRequest(key=b"\0", range_end=b"\0")


def draw(seed: int) -> Plan:
    """The plan of a seed, for both clusters."""
    rng = random.Random(f"{seed}/pair")
    share = rng.choice((0.3, 0.5, 0.8, 1.0))
    return Plan(
        seed=seed,
        voters=rng.choices((1, 3), (1, 3))[0],
        spares=0,
        clients=rng.randint(2, 3),
        safety_ms=rng.choice((6_000, 9_000)),
        intensity=rng.choice((0.1, 0.2, 0.4)),
        kinds=draw_kinds(rng, KINDS, share),
        tick_ms=rng.choice((30, 50, 100)),
        heartbeat_ticks=rng.choice((1, 2, 4)),
        election_ticks=rng.choice((6, 10)),
        lessees=rng.choice((0, 1)),
    )


class Pair:
    """Both clusters, what is between them, and who judges."""

    def __init__(self, world: World, plan: Plan, build: Build = PRODUCTION) -> None:
        self.world = world
        self.plan = plan
        self.leader = LeaderCluster(world, plan, build)
        follower_plan = replace(plan, clients=2, lessees=0)
        self.follower = FollowerCluster(
            "follower",
            Cluster(Side(world, "F", 2 * plan.seed + 1), follower_plan, build),
            Tables(next_id=20_001),
        )
        self.way = Way(world)
        self.prepare: Callable[[], object] = lambda: None
        """What comes before anything else, once both clusters run."""
        self.apart: set[tuple[int, int, int]] = set()
        """Where copies have a past of their own: table, revision and checksum."""
        self.source: type[TableSource] | None = None
        """Another one than production's."""
        self._origins: dict[tuple[int, int], int] = {}
        """The checksum of each table of the leader cluster at each of its revisions."""
        self._rng = world.stream("between")
        self._active = True
        self.compared = 0
        self.leader.cluster.checkers.reached = self._origin_reached
        self.follower.cluster.checkers.reached = self._copy_reached

    # ---- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Violation."""
        simulation = Simulation(self.leader.cluster)
        for cluster in (self.leader.cluster, self.follower.cluster):
            for host in cluster.hosts:
                host.start()
        simulation.create_table()
        self.prepare()
        faults = [Faults(cluster) for cluster in (self.leader.cluster, self.follower.cluster)]
        for client in self.leader.cluster.clients:
            client.start()
        for lessee in self.leader.cluster.lessees:
            lessee.start()
        self.leader.start()
        services = self.leader.services(self.source) if self.source is not None else self.leader.services()
        self.follower.follow(self.way, services)
        self._break_things()
        self.world.after(COMPARE_US, self._compare_now_and_then)
        self.world.run_until(self.world.now_us + self.plan.safety_ms * MS)
        for one in faults:
            one.stop()
        self._heal()
        core = heal(self.leader.cluster)
        copies = heal(self.follower.cluster)
        assert core, "nothing here takes a quorum away"
        assert copies
        simulation.check_liveness(core)
        self.leader.stop()
        self.world.run_until(self.world.now_us + SETTLE_US)
        self._wait_level(core, copies)
        self.follower.stop()
        self.world.run_until(self.world.now_us + SETTLE_US)
        simulation.check_bounds()
        simulation.check_states(core)
        for process in members_among(self.follower.cluster, copies):
            self._compare(process, whole=True)
        simulation.check_history(complete=True)

    def close(self) -> None:
        """Let go of everything, whatever has happened."""
        self.follower.stop()
        self.leader.stop()
        self.leader.cluster.close()
        self.follower.cluster.close()

    # ---- what goes wrong between them -------------------------------------------------------------------------------

    def _break_things(self) -> None:
        for kind, action in (
            ("way cut", self._cut),
            ("way slow", self._slow),
            ("replicator killed", self._kill),
        ):
            self._schedule(kind, action)

    def _schedule(self, kind: str, action: Callable[[], None]) -> None:
        def strike() -> None:
            if self._active:
                self.world.note(f"fault {kind}")
                self.leader.cluster.count(kind)
                action()
                self._schedule(kind, action)

        self.world.after(int(self._rng.expovariate(2 * self.plan.intensity) * SECOND), strike)

    def _cut(self) -> None:
        self.way.cut()
        self._later(lambda: setattr(self.way, "is_open", True))

    def _slow(self) -> None:
        self.way.delay_us_max = self._rng.choice((50, 300, 1_000)) * MS
        self._later(lambda: setattr(self.way, "delay_us_max", 5 * MS))

    def _kill(self) -> None:
        replicator = self._rng.choice(self._replicators())
        replicator.die()
        self._later(replicator.start)

    def _later(self, action: Callable[[], None]) -> None:
        self.world.after(self._rng.randrange(LASTS_US_MAX), lambda: action() if self._active else None)

    def _heal(self) -> None:
        self._active = False
        self.way.is_open, self.way.delay_us_max = True, 5 * MS
        for replicator in self._replicators():
            replicator.start()

    def _replicators(self) -> list[SimulatedReplicator]:
        return self.follower.replicators

    # ---- the judges -------------------------------------------------------------------------------------------------

    def _origin_reached(self, process: Process, state: State) -> None:
        known = self._origins.setdefault((state.table_id, state.revision), state.checksum)
        if known != state.checksum:
            raise Violation("equal-state", f"{process} came to another checksum at {state}")

    def _copy_reached(self, process: Process, state: State) -> None:
        if not state.origin:
            return
        known = self._origins.get((state.origin, state.revision))
        if known is None:
            raise Violation("never-ahead", f"{process} is where its origin has never been: {state}")
        if known != state.checksum:
            raise Violation(
                "equal-copy", f"{process} is at {state}, its origin had checksum {known:#x} there"
            )

    def _compare_now_and_then(self) -> None:
        if self._active:
            for process in self.follower.cluster.processes():
                self._compare(process, whole=False)
            self.world.after(COMPARE_US, self._compare_now_and_then)

    def _compare(self, process: Process, *, whole: bool) -> None:
        """What a replica of the follower cluster holds, with what any of the leader cluster still holds of that
        revision. whole: also all that can be read of the past."""
        for table in process.machine.table_status():
            origin = process.machine.origin_of(table.id)
            other = self._holder(origin, table.revision) if origin else None
            if other is None or (table.id, table.revision, table.checksum) in self.apart:
                continue
            self.compared += 1
            if _pairs(process, table.id) != _pairs(other, origin, revision=table.revision):
                raise Violation("equal-copy", f"{process} and {other} differ at revision {table.revision}")
            if whole:
                first = max(table.compacted_revision, _status(other, origin).compacted_revision) + 1
                if _history(process, table.id, first) != _history(other, origin, first):
                    raise Violation("equal-copy", f"{process} and {other} differ in the past of {table.name}")

    def _holder(self, origin: int, revision: int) -> Process | None:
        for process in self.leader.cluster.processes():
            status = _status(process, origin)
            if status.compacted_revision <= revision <= status.revision:
                return process
        return None

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _wait_level(self, core: list[Host], copies: list[Host]) -> None:
        deadline = self.world.now_us + CONVERGE_US_MAX
        while not self._is_level(core, copies):
            if self.world.now_us >= deadline:
                raise Violation("liveness", f"the copies do not come level: {self._positions(copies)}")
            self.world.run_until(self.world.now_us + 100 * MS)

    def _is_level(self, core: list[Host], copies: list[Host]) -> bool:
        wanted = {
            name: position
            for process in members_among(self.leader.cluster, core)[:1]
            for name, position in _positions(process).items()
            if name in self.leader.tables.tables
        }
        found = self._positions(copies)
        return bool(wanted) and bool(found) and all(positions == wanted for positions in found)

    def _positions(self, copies: list[Host]) -> list[dict[str, tuple[int, int, int]]]:
        return [_positions(process) for process in members_among(self.follower.cluster, copies)]


def _positions(process: Process) -> dict[str, tuple[int, int, int]]:
    return {
        table.name: (table.revision, table.checksum, table.keys) for table in process.machine.table_status()
    }


def _status(process: Process, table_id: int) -> frames.TableStatus:
    for table in process.machine.table_status():
        if table.id == table_id:
            return table
    return frames.TableStatus(compacted_revision=1 << 40)


def _pairs(process: Process, table_id: int, revision: int = 0) -> bytes:
    request = etcd.RangeRequest(key=b"\0", range_end=b"\0", revision=revision)
    parsed = process.machine.parse(frames.ETCD_RANGE, table_id, request.SerializeToString())
    result = process.machine.read(process.store.connection, parsed)
    if result.error is not None:
        raise Violation("equal-copy", f"{process} can't read revision {revision}: {result.error}")
    return result.body


def _history(process: Process, table_id: int, first: int) -> list[Any]:
    return [
        (change.revision, [(edit.key, edit.kv) for edit in change.edits])
        for change in history(process.store.connection, table_id, first)
    ]


def run_pair(
    plan: Plan,
    build: Build = PRODUCTION,
    arrange: Callable[[Pair], object] = lambda _pair: None,
    write: Callable[[str], object] | None = None,
) -> Finding:
    """Simulate. A violation is part of the outcome, not raised. arrange: before anything has started."""
    with silence():
        world = World(plan.seed, write)
        seed_sqlite(plan.seed)
        world.note(f"plan {plan.voters} kinds={sorted(plan.kinds)}")
        pair = Pair(world, plan, build)
        violation: Violation | None = None
        try:
            arrange(pair)
            pair.run()
        except Violation as caught:
            violation = caught
        finally:
            pair.close()
    clusters = (pair.leader.cluster, pair.follower.cluster)
    counts = clusters[0].counts + clusters[1].counts
    counts["compared"] = pair.compared
    return Finding(
        plan=plan,
        violation=violation,
        digest=world.digest(),
        virtual_us=world.now_us,
        counts=counts,
        operations=len(clusters[0].recorder.operations),
        checks=sum(cluster.checkers.checks for cluster in clusters),
        recent=list(world.recent),
    )


def draw_returning(seed: int) -> Plan:
    """The same where the follower cluster led before."""
    plan = draw(seed)
    return replace(plan, kinds=plan.kinds | {"compaction"})


def failure(finding: Finding, how: str = "") -> str:
    """What to print about a seed that failed. how: it was run, as an option."""
    seed = finding.plan.seed
    return "\n".join(
        [
            f"seed {seed}: {finding.violation}",
            *finding.recent[-40:],
            f"again: python -m tests.simulation.pair --seed {seed} {how}".rstrip(),
        ]
    )


def main() -> None:
    """Run one seed and print its trace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--returning", action="store_true", help="the follower cluster led before")
    arguments = parser.parse_args()
    draws, arrange = (draw_returning, Returning) if arguments.returning else (draw, lambda _pair: None)
    finding = run_pair(
        draws(arguments.seed), arrange=arrange, write=lambda line: sys.stdout.write(line + "\n")
    )
    sys.stdout.write(f"{finding.violation or 'all promises held'}\n{dict(finding.counts)}\n")
    sys.exit(finding.violation is not None)


if __name__ == "__main__":
    main()
