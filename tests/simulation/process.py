"""One life of a simulated worker process: production's replica and loop, wired as in entry.py, in virtual time."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import apsw

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.loop import Loop
from shardworker.machine import REGISTRY
from shardworker.machine.level import MachineLevel
from shardworker.raft import NodeId, Role
from shardworker.settings import begin_alone, is_alone, raft_settings
from shardworker.store import StoreSettings, translated
from tests.simulation.clients import TABLE_ID
from tests.simulation.disk import PowerCut
from tests.simulation.world import MS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shardworker.machine import Parsed, Result, StateMachine
    from shardworker.machine.writer import Writer
    from shardworker.raft import Raft, Ready
    from shardworker.store import CrashPoint
    from tests.simulation.checkers import Checkers
    from tests.simulation.host import Host

STEP_US: Final = 150
"""From the arrival of a message to the turn that handles it; what arrives meanwhile shares the turn."""

TURN_CPU_S: Final = 0.0005
"""What the loop takes a turn to cost: it makes requests wait for each other under load."""

JOBS_WAITING_MAX: Final = 32

T = TypeVar("T")


class Killed(BaseException):
    """The process dies here and now, as by SIGKILL: no handler of the code under test may see it."""


class PlannedCrash:
    """Kills the process when it has reached so many more of the store's durable steps."""

    def __init__(self) -> None:
        self.left: int | None = None

    def reach(self, point: CrashPoint) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                self.left = None
                raise Killed(point)


class InlineBackground:
    """Long jobs end some time after they were submitted, in the loop's own thread."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._rng = host.cluster.world.stream(f"background-{host.number}-{host.lives}")
        self._jobs: deque[tuple[int, Callable[[], None]]] = deque()

    def submit(self, job: Callable[[], T], done: Callable[[T], None]) -> None:
        """Run the job within some milliseconds. Raises QueueFull."""
        if len(self._jobs) >= JOBS_WAITING_MAX:
            raise errors.QueueFull("the simulated background is full")
        due = self._host.cluster.world.now_us + self._rng.randrange(30 * MS)
        self._jobs.append((max(due, self._jobs[-1][0] if self._jobs else 0), lambda: done(job())))

    def rest(self, seconds: float) -> None:
        """Nothing else happens while a job runs."""

    def collect(self) -> None:
        """Run what is due."""
        while self._jobs and self._jobs[0][0] <= self._host.cluster.world.now_us:
            self._jobs.popleft()[1]()

    def due_us(self) -> int | None:
        """When collect() will have something to do; None if nothing waits."""
        return self._jobs[0][0] if self._jobs else None


class _Clock:
    """The monotonic clock of a host, in seconds."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._cpu_s = 0.0

    def now(self) -> float:
        return self._host.local_us() / 1_000_000

    def cpu(self) -> float:
        """As if each look at it, once before and once after a turn, cost as much as a small turn."""
        self._cpu_s += TURN_CPU_S
        return self._cpu_s


class _Socket:
    """What has arrived for a process; the world decides when it looks."""

    def __init__(self) -> None:
        self.inbox: list[tuple[bytes, frames.Envelope]] = []
        self.broken: list[NodeId] = []

    def receive(self, timeout_s: float, *, pace_until: float = 0.0) -> list[tuple[bytes, frames.Envelope]]:
        inbox, self.inbox = self.inbox, []
        return inbox

    def disconnected(self) -> list[NodeId]:
        broken, self.broken = self.broken, []
        return broken


class _Outbox:
    """The replica's way to the simulated network."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._group = host.cluster.config.group(host.cluster.shard)

    def send_peer(self, node: NodeId, envelope: frames.Envelope) -> None:
        envelope.group = self._group
        self._host.cluster.network.send(self._host.address, f"n{node}", envelope.SerializeToString())

    def know_keys(self, keys: Mapping[int, bytes]) -> None:
        """Nobody asks for one here."""

    def know_peers(self, endpoints: Mapping[NodeId, str]) -> None:
        """The network knows everybody."""

    def send_client(
        self, identity: bytes, envelope: frames.Envelope, attachments: Sequence[bytes] = ()
    ) -> None:
        assert not attachments, "no answer of the simulation is that large"
        envelope.group = self._group
        self._host.cluster.network.send(self._host.address, identity.decode(), envelope.SerializeToString())


def _watched_raft(base: type[Raft], process: Process, checkers: Checkers) -> type[Raft]:
    class WatchedRaft(base):  # type: ignore[valid-type,misc]
        def advance(self, ready: Ready, durable: bool = True, applied: int | None = None) -> None:
            super().advance(ready, durable, applied)
            if durable:
                checkers.advanced(process, self, replace(ready, committed=ready.committed[:applied]))
            process.host.cluster.ledger.settle(process.host.number, process.applied)
            process.effects.clear()
            process.states.clear()

    return WatchedRaft


def _watched_machine(base: type[StateMachine], process: Process, checkers: Checkers) -> type[StateMachine]:
    class WatchedMachine(base):  # type: ignore[valid-type,misc]
        def _run(self, index: int, request: Parsed, writers: dict[int, Writer]) -> Result:
            result: Result = super()._run(index, request, writers)
            table = self.tables.get(request.table_id)
            if table is not None:
                state = State(table.id, self.origin_of(table.id), table.revision, table.checksum)
                process.states.append(state)
            return result

        def apply(self, index: int, batch: frames.CommandBatch) -> list[Result]:
            before = {table.id: table.revision for table in self.table_status()}
            leases = set(self.leases.of_table(TABLE_ID))
            results: list[Result] = super().apply(index, batch)
            checkers.applied_batch(process, batch, results, before)
            cluster = process.host.cluster
            if cluster.witness is not None:
                cluster.witness.applied(self, process.store.connection)
            # Not over yet: where nobody else votes, a crash before the commit takes it back.
            ended = leases.difference(self.leases.of_table(TABLE_ID))
            if ended:
                cluster.ledger.applied(process.host.number, index, ended, cluster.world.now_us)
            return results

    return WatchedMachine


class State(NamedTuple):
    """What a command has made of a table."""

    table_id: int
    origin: int
    revision: int
    checksum: int


class Process:
    """From opening the store to death. The host decides when it lives."""

    def __init__(self, host: Host, crash: PlannedCrash) -> None:
        """Open everything. Raises what the store raises, PowerCut and Killed included."""
        cluster, config = host.cluster, host.cluster.config
        self.host = host
        self.crash = crash
        self.applied = 0
        self.checked_state_at = -1
        self.led_term = -1
        self.effects: list[tuple[bytes, int]] = []
        """Request ids that took effect in the open turn, and their revisions."""
        self.states: list[State] = []
        """That the open turn's commands came to."""
        self._socket = _Socket()
        self._wake_us: int | None = None
        self._checkers = cluster.checkers
        founders = host.begins_with
        self.store = cluster.build.store.open(
            host.folder,
            host.identity,
            StoreSettings(
                exclusive=True,
                page_bytes=1024,
                cache_bytes=4 << 20,
                checkpoint_wal_bytes=config.store.checkpoint_wal_bytes,
                log_cache_bytes=8 << 10,
            ),
            vfs=host.disk.vfs,
            files=host.disk.files,
            crash_points=crash,
            alone=founders is not None and is_alone(host.number, founders),
        )
        try:
            if founders is not None:
                begin_alone(self.store, founders)
            self._checkers.opened(self)
            machine = _watched_machine(cluster.build.machine, self, self._checkers)
            try:
                # A shard is born at the first level, and at this build's within a second: here it begins there.
                with self.store.connection:
                    MachineLevel(self.store.connection, host.registry.level).rise(REGISTRY.level)
                self.machine = machine(self.store.connection, cluster.shard, registry=host.registry)
            except apsw.Error as error:
                raise translated(error, "opening the tables") from error
            raft: Any = _watched_raft(cluster.build.raft, self, self._checkers)
            self.core: Raft = raft(
                replace(raft_settings(config, NodeId(host.number)), **cluster.build.raft_settings),
                self.store.log,
                self.store.hard_state,
                self.store.membership,
                self.store.applied_index,
                cluster.world.stream(f"elections-{host.number}-{host.lives}"),
            )
            self._checkers.wired(self)
            cluster.ledger.settle(host.number, self.applied)
            for table in self.machine.table_status():
                # A turn whose sync failed told nobody what it came to, and the disk may have it all the same.
                state = State(table.id, table.origin, table.revision, table.checksum)
                self._checkers.reached(self, state)
        except BaseException:
            self.abandon()
            raise
        self.background = InlineBackground(host)
        self.replica = cluster.build.replica(
            shard=cluster.shard,
            node=NodeId(host.number),
            core=self.core,
            store=self.store,
            machine=self.machine,
            outbox=_Outbox(host),
            background=self.background,
            cluster=config,
            wall_clock_ms=host.wall_clock_ms,
            founders=founders,
            life=host.lives,
        )
        self.loop = Loop(
            self.replica,
            self._socket,
            _Clock(host),
            tick_s=config.raft.tick_ms / 1000,
            alone=lambda: self.replica.is_alone,
            beat=lambda: None,
        )
        if self.core.membership.voters == {NodeId(host.number)}:
            self.core.campaign()
        self.wake(STEP_US)

    def __str__(self) -> str:
        return str(self.host)

    @property
    def leads(self) -> bool:
        return self.core.role is Role.LEADER

    def receive(self, sender: str, payload: bytes) -> None:
        """Bytes have arrived in the process's socket."""
        self._socket.inbox.append((sender.encode(), frames.Envelope.FromString(payload)))
        self.wake(STEP_US)

    def disconnect(self, node: int) -> None:
        """The connection to a peer broke."""
        self._socket.broken.append(NodeId(node))
        self.wake(STEP_US)

    # ---- the loop -----------------------------------------------------------------------------------------------

    def wake(self, delay_us: int) -> None:
        """Take a turn after this long on this host, or earlier."""
        world = self.host.cluster.world
        at = world.now_us + self.host.stretched(delay_us)
        if self._wake_us is not None and self._wake_us <= at:
            return
        self._wake_us = at
        world.at(at, lambda: self._woken(at))

    def _woken(self, at: int) -> None:
        if self._wake_us == at and self.host.process is self:
            self._wake_us = None
            if self.host.paused:
                self.wake(5 * MS)
            else:
                self.host.run(self.step)

    def step(self) -> None:
        """One round of the loop."""
        self.loop.step()
        self._checkers.stepped(self)
        self.wake(max(STEP_US, int(self.loop.wait_s() * 1_000_000 / self.host.rate) + 1))
        job_us = self.background.due_us()
        if job_us is not None:
            self.wake(max(0, job_us - self.host.cluster.world.now_us))

    # ---- the end ------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """The process is dead: let go of its connection; the disk takes no more writes from it."""
        connection: apsw.Connection | None = getattr(self.store, "connection", None)
        if connection is not None:
            with suppress(PowerCut, apsw.Error):
                connection.close(True)
