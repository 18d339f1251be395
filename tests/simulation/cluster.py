"""The simulated cluster: hosts, clients, network, and what watches over them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from config import ClusterConfig
from shardworker.raft import Membership, NodeId
from tests.history.operations import Recorder
from tests.simulation.checkers import Checkers
from tests.simulation.clients import Client, StaleReads
from tests.simulation.coordinator import Coordinator
from tests.simulation.host import Host
from tests.simulation.lessees import Ledger, Lessee
from tests.simulation.network import Network
from tests.simulation.operator import Operator
from tests.simulation.own_writes import OwnWrites
from tests.simulation.world import MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.build import Build
    from tests.simulation.plan import Plan
    from tests.simulation.process import Process
    from tests.simulation.watchers import SimulatedWatcher
    from tests.simulation.witness import Witness
    from tests.simulation.world import World

SHARD = 2
"""Not 1: that one also holds the catalog, which would only cost time here."""


class Cluster:
    """One shard's replicas, all of it in one thread."""

    def __init__(self, world: World, plan: Plan, build: Build, *, shard: int = SHARD) -> None:
        self.world = world
        self.plan = plan
        self.build = build
        self.shard = shard
        self.config = _config(plan, shard)
        self.network = Network(world)
        self.checkers = Checkers()
        self.recorder = Recorder(clock=lambda: world.now_us)
        self.stale = StaleReads(self)
        self.own_writes = OwnWrites(self)
        self.counts: Counter[str] = Counter()
        """Faults by kind."""
        self.restart: Callable[[Host], None] | None = None
        """What happens to a host whose process has died."""
        rng = world.stream("hosts")
        members = plan.voters + plan.learners
        beginning = Membership(
            voters=frozenset(NodeId(n) for n in range(1, plan.voters + 1)),
            learners=frozenset(NodeId(n) for n in range(plan.voters + 1, members + 1)),
        )
        self.hosts: list[Host] = []
        for number in range(1, plan.voters + plan.spares + 1):
            rate = rng.choice((0.9, 0.97, 1.0, 1.03, 1.1))
            begins_with = beginning if number <= members else None
            self.hosts.append(Host(self, number, begins_with, rate if "clock" in plan.kinds else 1.0))
        self.coordinators = [Coordinator(self, number) for number in range(1, plan.clients + 1)]
        """One for each client."""
        self.clients = [Client(self, coordinator) for coordinator in self.coordinators]
        self.ledger = Ledger(rate_max=max(host.rate for host in self.hosts))
        self.lessees = [
            Lessee(self, self.coordinators[number % plan.clients], number + 1)
            for number in range(plan.lessees)
        ]
        self.watchers: list[SimulatedWatcher] = []
        self.witness: Witness | None = None
        """Where there are watchers."""
        self.network.lost = self._lost
        self.operator = Operator(self)

    def _lost(self, sender: str, to: str) -> None:
        """A connection that has lost something is broken; its ends notice a little later."""
        ends = {address[0]: int(address[1:]) for address in (sender, to)}
        if "c" in ends:
            coordinator = self.coordinators[ends["c"] - 1]
            self.world.after(MS, lambda: coordinator.disconnect(ends["n"]))

    def count(self, kind: str) -> None:
        """A fault was injected, or took effect."""
        self.counts[kind] += 1

    def died(self, host: Host) -> None:
        """A process is dead."""
        if self.restart is not None:
            self.restart(host)

    def processes(self) -> list[Process]:
        """All that live."""
        return [host.process for host in self.hosts if host.process is not None]

    def leader(self) -> Process | None:
        """The living leader of the highest term, if there is one."""
        leaders = [process for process in self.processes() if process.leads]
        return max(leaders, key=lambda process: process.core.term, default=None)

    def close(self) -> None:
        for host in self.hosts:
            host.close()


def _config(plan: Plan, shard: int) -> ClusterConfig:
    count = plan.voters + plan.spares
    tail = 12 if "snapshot" in plan.kinds else 10_000
    return ClusterConfig.model_validate(
        {
            "cluster": "sim",
            "nodes": {
                f"n{n}": {
                    "host": "127.0.0.1",
                    "client_port": 10_000 + n * 100,
                    "http_port": 10_020 + n * 100,
                    "peer_port": 10_040 + n * 100,
                }
                for n in range(1, count + 1)
            },
            "shards": shard,
            "replicas": 1,
            "raft": {
                "tick_ms": plan.tick_ms,
                "heartbeat_ticks": plan.heartbeat_ticks,
                "election_ticks": plan.election_ticks,
                "log_tail_entries": tail,
                "digest_entries": 8,
                "append_bytes_max": plan.append_bytes_max,
                "inflight_appends_max": 8,
            },
            # Of every other seed little is kept for who follows, so that snapshots are taken, too.
            "replication": {"keep_bytes": 1_500 if plan.seed % 2 else 256 << 20},
            "store": {
                "checkpoint_wal_bytes": 48 << 10,
                "snapshot_chunk_bytes": 16 << 10,
                "snapshot_rate_bytes": 4 << 20,
                "disk_free_bytes_min": 64 << 10,
                "spare_bytes": 16 << 10,
            },
        }
    )
