"""A table that moves between two simulated shards, of several replicas each, through faults of all kinds.

What runs is production's mover, router, replicas and machines; simulated are the catalog, and that clients and movers
follow a table from one shard's coordinator to the other's. Movers are killed, and there may be two of them at once.

python -m tests.simulation.moving --seed N
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from coordinator.moves.mover import Ask, Outcome, carry_out
from coordinator.shards.request_ids import RequestIds
from coordinator.shards.shard_call import LEADER, NEAREST, ShardCall
from proto import errors
from proto.catalog import TableEntry, TableMove
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, Access
from shardworker.machine.moves import copying
from tests.history import linearizability, revisions
from tests.history.operations import Kind
from tests.movers import Mover
from tests.simulation.build import PRODUCTION
from tests.simulation.clients import REGISTERS, TABLE_ID
from tests.simulation.cluster import Cluster
from tests.simulation.disk import seed_sqlite
from tests.simulation.faults import Faults
from tests.simulation.following import Side
from tests.simulation.healing import heal
from tests.simulation.pair import draw
from tests.simulation.simulation import CONVERGE_US_MAX, Finding, Simulation, silence
from tests.simulation.violation import Violation
from tests.simulation.world import MS, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.history.operations import Pending
    from tests.simulation.build import Build
    from tests.simulation.plan import Plan

CLIENTS: Final = 3
TIMEOUT_S: Final = 4.0
PART_ROWS_MAX: Final = 12
"""So that a move of a few rows takes several parts."""
OPERATE_US_MAX: Final = 300 * MS
FOLLOW_US: Final = 20 * MS
"""Before a call is sent on, or again to a shard that a table is arriving in."""


class Moving:
    """Both shards, who writes, and who moves the table."""

    def __init__(self, world: World, plan: Plan, build: Build) -> None:
        self.world = world
        self.plan = plan
        plan = replace(plan, clients=CLIENTS, lessees=0)
        self.shards = {
            ShardId(number): Cluster(Side(world, f"shard-{number}", plan.seed), plan, build, shard=number)
            for number in (2, 3)
        }
        first, second = self.shards.values()
        # A request takes effect once, in whichever shard.
        second.checkers.effects = first.checkers.effects
        self.first = first
        self.rng = world.stream("moving")
        self.entry = TableEntry("table", TABLE_ID, ShardId(2))
        self.move: TableMove | None = None
        self.moves = 0
        self.movers: list[RunningMover] = []
        self.clients = [Client(self, number) for number in range(1, CLIENTS + 1)]
        self.is_active = True

    # ---- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Violation."""
        world = self.world
        for cluster in self.shards.values():
            for host in cluster.hosts:
                host.start()
        Simulation(self.first).create_table()
        faults = [Faults(cluster) for cluster in self.shards.values()]
        for client in self.clients:
            client.next()
        self._operate()
        world.run_until(world.now_us + self.plan.safety_ms * MS)
        for one in faults:
            one.stop()
        self.is_active = False
        for cluster in self.shards.values():
            assert heal(cluster), "nothing here takes a quorum away"
        self._wait(lambda: self.move is None, "a move does not end")
        self._wait(lambda: all(client.is_idle for client in self.clients), "a client is stuck")
        for key in REGISTERS:
            self.clients[0].read(key)
            self._wait(lambda: self.clients[0].is_idle, "a client is not served")
        self._check_history()

    def _wait(self, reached: Callable[[], bool], otherwise: str) -> None:
        deadline = self.world.now_us + CONVERGE_US_MAX
        while not reached():
            if self.world.now_us >= deadline:
                raise Violation("liveness", otherwise)
            self.world.run_until(self.world.now_us + 100 * MS)

    def _check_history(self) -> None:
        history = self.first.recorder.history()
        verdict = linearizability.check(history)
        if isinstance(verdict, linearizability.Violation):
            raise Violation("linearizability", str(verdict))
        anomalies = revisions.check(history)
        if anomalies:
            raise Violation("revisions", str(anomalies[0]))

    def close(self) -> None:
        """Let go of everything."""
        for cluster in self.shards.values():
            cluster.close()

    # ---- the operator, and what becomes of movers -------------------------------------------------------------------

    def _operate(self) -> None:
        """Somebody begins or cancels a move, or a mover comes or dies."""
        what = self.rng.random()
        if self.move is None:
            if self.is_active:
                self.moves += 1
                target = next(shard for shard in self.shards if shard != self.entry.shard)
                self.move = TableMove(self.entry, target, self.moves)
                self.movers.append(RunningMover(self, self.move))
        elif what < 0.1 and self.is_active:
            self.move = replace(self.move, cancelled=True)
        elif what < 0.3 and self.movers and self.is_active:
            self.first.count("mover killed")
            self.movers.pop(self.rng.randrange(len(self.movers))).is_killed = True
        elif len(self.movers) < 2:
            self.movers.append(RunningMover(self, self.move))
        self.world.after(MS + self.rng.randrange(OPERATE_US_MAX), self._operate)

    def ended(self, mover: RunningMover, move: TableMove, outcome: Outcome | None) -> None:
        """A mover has ended; outcome: None if it did not get on. The catalog takes the first word of each move."""
        if mover in self.movers:
            self.movers.remove(mover)
        if outcome is not None and self.move is not None and self.move.number == move.number:
            self.first.count(outcome.name)
            self.entry = replace(move.entry, shard=move.target if outcome is Outcome.MOVED else move.source)
            self.move = None


class RunningMover:
    """One process that carries a move out, until it has ended or the process is killed."""

    def __init__(self, moving: Moving, move: TableMove) -> None:
        self.is_killed = False
        self._moving = moving
        self._move = move
        self._ids = RequestIds(moving.rng.randbytes(8))
        self._at = moving.rng.randrange(CLIENTS)
        Mover(carry_out(move), self._ask, self._ended, asks_ahead=lambda: True)

    def _ended(self, outcome: Outcome | None) -> None:
        self._moving.ended(self, self._move, outcome)

    def _ask(self, ask: Ask, told: Callable[[frames.Reply | errors.BoathouseError], None]) -> None:
        access = COMMANDS[ask.method].access
        coordinator = self._moving.shards[ask.shard].coordinators[self._at]
        call = ShardCall(
            ask.shard,
            NEAREST if ask.nearest else LEADER,
            access,
            ask.method,
            TABLE_ID,
            ask.body,
            deadline=coordinator.now_s() + TIMEOUT_S,
            request_id=self._ids.draw() if access is Access.WRITE else b"",
            linearizable=access is Access.READ and not ask.nearest,
            in_shard=True,
        )

        def ended(call: ShardCall) -> None:
            if self.is_killed:
                return
            answer = call.error or call.reply
            assert answer is not None
            told(answer)

        coordinator.ask(call, sent=lambda _node: None, ended=ended)


class Client:
    """One operation at a time, by the coordinators of one node."""

    def __init__(self, moving: Moving, number: int) -> None:
        self._moving = moving
        self._number = number
        self._rng = moving.world.stream(f"moving-client-{number}")
        self._ids = RequestIds(self._rng.randbytes(8))
        self._place = moving.entry.shard
        self._values = 0
        self.is_idle = True

    def next(self) -> None:
        """Go on, as long as things happen."""
        if not self._moving.is_active:
            return
        key = self._rng.choice(REGISTERS)
        if self._rng.random() < 0.5:
            self.read(key)
            return
        self._values += 1
        value = b"%d-%d" % (self._number, self._values)
        pending = self._moving.first.recorder.invoke(self._number, Kind.PUT, key, value=value)
        self._ask(frames.ETCD_PUT, etcd.PutRequest(key=key, value=value), self._ids.draw(), pending)

    def read(self, key: bytes) -> None:
        """A linearizable read."""
        pending = self._moving.first.recorder.invoke(self._number, Kind.GET, key)
        self._ask(frames.ETCD_RANGE, etcd.RangeRequest(key=key), b"", pending)

    def _ask(
        self, method: frames.Method.ValueType, request: Any, request_id: bytes, pending: Pending
    ) -> None:
        self.is_idle = False
        in_doubt = False

        def send() -> None:
            coordinator = self._moving.shards[self._place].coordinators[self._number - 1]
            call = ShardCall(
                self._place,
                LEADER,
                Access.WRITE if request_id else Access.READ,
                method,
                TABLE_ID,
                request.SerializeToString(),
                deadline=coordinator.now_s() + TIMEOUT_S,
                request_id=request_id,
                linearizable=not request_id,
                in_shard=True,
            )
            coordinator.ask(call, sent=lambda _node: None, ended=ended)

        def ended(call: ShardCall) -> None:
            nonlocal in_doubt
            error = call.error
            in_doubt |= call.in_doubt
            if isinstance(error, errors.TableElsewhere):
                self._moving.first.count("followed")
                self._place = ShardId(int(error.detail))
            if isinstance(error, errors.TableAway):
                self._moving.world.after(1 + self._rng.randrange(FOLLOW_US), send)
                return
            self.is_idle = True
            self._moving.world.after(1 + self._rng.randrange(50 * MS), self.next)
            if isinstance(error, errors.TableNotFound):
                raise Violation("table-lost", f"shard {call.shard} knows of no table")
            if error is not None and (in_doubt or not error.definite):
                pending.lost()
            elif error is not None:
                pending.refused()
            else:
                assert call.reply is not None
                _succeeded(pending, call.reply, is_read=not request_id)

        send()


def _succeeded(pending: Pending, reply: frames.Reply, *, is_read: bool) -> None:
    if not is_read:
        pending.succeeded(revision=reply.revision)
        return
    kvs = etcd.RangeResponse.FromString(reply.body).kvs
    found = kvs[0].value if kvs else None
    pending.succeeded(found=found, revision=reply.revision, mod_revision=kvs[0].mod_revision if kvs else 0)


def run_moving(
    plan: Plan, build: Build = PRODUCTION, write: Callable[[str], object] | None = None
) -> Finding:
    """Simulate. A violation is part of the outcome, not raised."""
    with silence(), mock.patch.object(copying, "PART_ROWS_MAX", PART_ROWS_MAX):
        world = World(plan.seed, write)
        seed_sqlite(plan.seed)
        world.note(f"plan {plan.voters} kinds={sorted(plan.kinds)}")
        moving = Moving(world, plan, build)
        violation: Violation | None = None
        try:
            moving.run()
        except Violation as caught:
            violation = caught
        finally:
            moving.close()
    clusters = tuple(moving.shards.values())
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


def main() -> None:
    """Run one seed and print its trace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    finding = run_moving(draw(arguments.seed), write=lambda line: sys.stdout.write(line + "\n"))
    sys.stdout.write(f"{finding.violation or 'all promises held'}\n{dict(finding.counts)}\n")
    sys.exit(finding.violation is not None)


if __name__ == "__main__":
    main()
