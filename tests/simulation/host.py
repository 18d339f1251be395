"""A machine of the simulated cluster: a disk, two clocks, and a worker process that comes and goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import apsw

from proto.errors import Corrupt
from shardworker.machine import REGISTRY
from shardworker.replica.generations import GivenUp
from shardworker.replica.rebuild import RebuildBegun
from shardworker.store import DiskFull, Identity, StorageFailed
from tests.simulation.checkers import Promises
from tests.simulation.disk import PowerCut, SimulatedDisk
from tests.simulation.process import Killed, PlannedCrash, Process
from tests.simulation.violation import Violation
from tests.simulation.world import MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardworker.raft import Membership
    from tests.simulation.cluster import Cluster

RESTART_US: Final = 100 * MS
"""A supervisor starts a process again that ended by itself."""

EPOCH_MS = 1_795_000_000_000
"""The wall clocks' time when a simulation starts."""


class Host:
    """Numbered from 1, as nodes are."""

    def __init__(self, cluster: Cluster, number: int, begins_with: Membership | None, rate: float) -> None:
        self.cluster = cluster
        self.number = number
        self.address = f"n{number}"
        self.folder = Path(f"/{self.address}")
        self.identity = Identity(
            cluster_id=cluster.config.cluster_id, node=number, shard=cluster.shard, cluster_name="sim"
        )
        self.begins_with = begins_with
        """The membership of a replica that starts empty; None for one that joins later."""
        self.registry = REGISTRY
        """What its build can carry out."""
        self.rate = rate
        """Seconds of this host's monotonic clock in a second of virtual time."""
        self.wall_offset_ms = 0
        self.slowness = 1.0
        self.paused = False
        self.process: Process | None = None
        self.refuses: str | None = None
        """Why the replica does not open its disk; it stays down until it is replaced."""
        self.lives = 0
        self.disks = 0
        self.promises = Promises()
        self.full = False
        self.damaged = False
        """A bit of its disk was flipped."""
        self._lost = False
        self._new_disk()
        cluster.network.attach(self.address, self._receive)

    def __str__(self) -> str:
        return f"{self.address}#{self.lives}"

    def _new_disk(self) -> None:
        self.disks += 1
        self.disk = SimulatedDisk(self.cluster.world.seed * 1_000 + self.number * 10 + self.disks)

    # ---- clocks -------------------------------------------------------------------------------------------------

    def local_us(self) -> int:
        """The monotonic clock."""
        return int(self.cluster.world.now_us * self.rate)

    def wall_clock_ms(self) -> int:
        """The clock that people set, and that jumps."""
        return EPOCH_MS + self.local_us() // MS + self.wall_offset_ms

    def stretched(self, delay_us: int) -> int:
        """How long this host takes for what should take so long."""
        return int(delay_us * self.slowness)

    # ---- life and death -----------------------------------------------------------------------------------------

    def _receive(self, sender: str, payload: bytes) -> None:
        if self.process is not None:
            self.process.receive(sender, payload)

    def start(self) -> None:
        """Start the process, unless its replica has refused its disk before."""
        if self.process is None and self.refuses is None:
            self.lives += 1
            self.cluster.world.note(f"start {self}")
            self.run(self._open)

    def _open(self) -> None:
        self.process = Process(self, PlannedCrash())
        self.cluster.world.note(
            f"open {self} term={self.process.core.term} last={self.process.core.log.last_index} "
            f"applied={self.process.applied}"
        )
        for coordinator in self.cluster.coordinators:
            coordinator.notice(self)

    def run(self, action: Callable[[], None]) -> None:
        """Let the process do something; if it dies of it, as it may, bury it."""
        epoch = self.disk.epoch
        try:
            action()
        except Violation:
            raise
        except (Exception, Killed, PowerCut) as error:  # who stops the simulation itself is let through
            if self.disk.epoch != epoch:
                self._buried("the power went, or it was killed, in a disk operation")
            elif isinstance(error, Killed):
                self._buried(f"killed at {error.args[0]}")
            elif isinstance(error, RebuildBegun):
                self._buried("it starts over")
                self.cluster.world.after(RESTART_US, self.start)
            elif isinstance(error, GivenUp):
                self.refuses = str(error)
                self.cluster.count("given up")
                self._buried("its group was given up")
            elif isinstance(error, StorageFailed):
                self._buried("the disk failed")
            elif isinstance(error, DiskFull | apsw.FullError) and self.full and self._starts:
                self._buried("the disk is too full to start, or to start over")
            elif isinstance(error, Corrupt) and self.damaged:
                self.refuses = str(error)
                self.cluster.count("refused")
                self._buried("it found its data damaged")
            else:
                raise Violation("no-crash", f"{self} died of {type(error).__name__}: {error}") from error

    def _buried(self, why: str) -> None:
        self.cluster.world.note(f"dead {self}: {why}")
        process, self.process = self.process, None
        self.disk.process_died()
        if process is not None:
            process.abandon()
        for host in self.cluster.hosts:
            if host is not self:
                self._break_connection(host)
        for coordinator in self.cluster.coordinators:
            coordinator.notice(self)
        self.cluster.died(self)

    def _break_connection(self, host: Host) -> None:
        """The peer notices that this process is gone, unless the network keeps it from noticing."""

        def notice() -> None:
            link = self.address, host.address
            if host.process is not None and link not in self.cluster.network.blocked:
                host.process.disconnect(self.number)

        self.cluster.world.after(MS, notice)

    def kill(self) -> None:
        """SIGKILL between two steps: what was written stays in the kernel's cache."""
        if self.process is not None:
            self._buried("killed")

    def cut_power(self) -> None:
        """The machine loses power: what was not synced is lost or torn."""
        self.disk.power_cut()
        if self.process is not None:
            self._buried("power cut")

    def fill_disk(self, left_bytes: int) -> None:
        """Leave only so much room."""
        self.full = True
        self.disk.capacity_bytes -= self.disk.free_bytes() - left_bytes

    def empty_disk(self) -> None:
        """There is room again."""
        self.full = False
        self.disk.capacity_bytes = 1 << 40

    def replace(self) -> None:
        """A new disk, empty, in place of the old one; the replica joins as one that was never there."""
        self._empty()
        self.cluster.network.forget(self.address)
        self.refuses = None
        self.begins_with = None
        self.full = self.damaged = False
        self._lost = True
        self.cluster.world.note(f"replaced {self}")

    def lose_disk(self) -> None:
        """A new disk, empty, under the old place in the membership: nobody has told the others."""
        self.kill()
        self._empty()
        self._lost = True
        self.cluster.world.note(f"lost disk {self}")

    def _empty(self) -> None:
        assert self.process is None
        self.disk.close()
        self._new_disk()
        self.promises = Promises()

    @property
    def _starts(self) -> bool:
        return self.process is None or not self.process.store.membership.voters

    @property
    def has_lost(self) -> bool:
        """Whether it has lost its disk, or has another one, and does not hold again what it held."""
        store = self.process.store if self.process is not None else None
        if store is not None and store.membership.voters and store.rebuild is None:
            self._lost = False
        return self._lost

    def close(self) -> None:
        """The simulation is over."""
        if self.process is not None:
            process, self.process = self.process, None
            self.disk.process_died()
            process.abandon()
        self.disk.close()
