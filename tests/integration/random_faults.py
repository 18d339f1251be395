"""Faults by chance, from one seed, on a running cluster: what breaks, when, for how long, and two things at once.

Whatever is broken is mended after a while, so the cluster may stop serving for some seconds but not for good."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from config.process.names import ProcessName
from config.process.report import State
from tests.integration.cluster import send_signal
from tests.waiting import wait_until
from tools.admin.control_client import NodeControl, RequestRefused, SupervisorUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.integration.proxied import ProxiedCluster
    from tests.integration.proxy import Link

BETWEEN_S: Final = (0.3, 2.0)
LASTS_S: Final = (0.3, 3.0)
AT_ONCE_MAX: Final = 2
RESTART_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Broken:
    """Something that waits to be mended."""

    due: float
    mend: Callable[[], object]


class RandomFaults:
    """Breaks and mends a cluster. The seed decides which kinds strike whom; what that hits depends on real time."""

    def __init__(self, cluster: ProxiedCluster, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        """Faults so far, by kind."""
        self._cluster = cluster
        self._rng = random.Random(seed)
        self._broken: list[_Broken] = []
        self._down: set[str] = set()
        self._restarts: list[threading.Thread] = []
        self._kinds: dict[str, Callable[[], bool]] = {
            "worker killed": lambda: self._kill(self._worker()),
            "coordinator killed": lambda: self._kill(self._coordinator()),
            "node killed": self._kill_node,
            "disk lost": self._lose_disk,
            "worker paused": lambda: self._pause([self._worker()]),
            "coordinator paused": lambda: self._pause([self._coordinator()]),
            "node paused": self._pause_node,
            "worker restarted": self._restart,
            "links cut": lambda: self._cut(one_way=False),
            "links cut one way": lambda: self._cut(one_way=True),
            "links slow": self._slow_links,
            "connections reset": self._reset_links,
        }

    def run(self, faults: int) -> None:
        """Let so many faults strike, in turn or overlapping, and mend them all."""
        while self.counts.total() < faults:
            self._mend_until(time.monotonic() + self._rng.uniform(*BETWEEN_S))
            if len(self._broken) < AT_ONCE_MAX:
                kind = self._rng.choice(list(self._kinds))
                if self._kinds[kind]():
                    self.counts[kind] += 1
        self.mend_all()

    def mend_all(self) -> None:
        """End every fault now, and wait until all processes run again."""
        for broken in self._broken:
            broken.mend()
        self._broken.clear()
        for restart in self._restarts:
            restart.join()
        self._restarts.clear()
        self._cluster.wait_running()
        self._cluster.wait_leaders()

    # ---- time --------------------------------------------------------------------------------------------------

    def _mend_until(self, moment: float) -> None:
        """Let time pass, and mend what is due."""
        wait_until(lambda: self._mend_due() >= moment, timeout_s=60, what="the next fault")

    def _mend_due(self) -> float:
        now = time.monotonic()
        due = [broken for broken in self._broken if broken.due <= now]
        self._broken = [broken for broken in self._broken if broken.due > now]
        for broken in due:
            broken.mend()
        return now

    def _mend_later(self, mend: Callable[[], object]) -> bool:
        self._broken.append(_Broken(time.monotonic() + self._rng.uniform(*LASTS_S), mend))
        return True

    # ---- whom --------------------------------------------------------------------------------------------------

    def _node(self) -> str:
        return self._rng.choice(list(self._cluster.config.nodes))

    def _coordinator(self) -> ProcessName:
        return ProcessName.coordinator(self._node())

    def _worker(self) -> ProcessName:
        return ProcessName.replica(self._node(), self._rng.randint(1, self._cluster.config.shards))

    def _running(self, names: Iterable[ProcessName]) -> list[int]:
        """Pids of those that run."""
        wanted = set(names)
        reports = [
            report for node in {name.node for name in wanted} for report in self._cluster.reports(node)
        ]
        return [
            report.pid
            for report in reports
            if report.name in wanted and report.state is State.RUNNING and report.pid is not None
        ]

    # ---- processes ---------------------------------------------------------------------------------------------

    def _kill(self, name: ProcessName) -> bool:
        """Its supervisor starts it again."""
        pids = self._running([name])
        for pid in pids:
            send_signal(pid, signal.SIGKILL)
        return bool(pids)

    def _kill_node(self) -> bool:
        """A power cut of one machine: supervisor and all."""
        return self._end_node(self._node())

    def _lose_disk(self) -> bool:
        """A machine dies, and comes back without the data of one shard. Not before the last one has its data again."""
        name = self._worker()
        assert name.shard is not None
        statuses = self._cluster.ask(name.shard).values()
        if len(statuses) < self._cluster.config.replicas or any(status.fault for status in statuses):
            return False
        if not self._end_node(name.node):
            return False
        shutil.rmtree(self._cluster.config.replica_dir(name.node, name.shard))
        return True

    def _end_node(self, node: str) -> bool:
        if node in self._down:
            return False
        self._down.add(node)
        self._cluster.kill_node(node)

        def start_again() -> None:
            self._cluster.start_node(node)
            self._down.discard(node)

        return self._mend_later(start_again)

    def _pause_node(self) -> bool:
        node = self._node()
        shards = self._cluster.config.shards_of(node)
        return self._pause(
            [ProcessName.coordinator(node), *(ProcessName.replica(node, shard) for shard in shards)]
        )

    def _pause(self, names: list[ProcessName]) -> bool:
        pids = self._running(names)
        if not pids:
            return False
        for pid in pids:
            send_signal(pid, signal.SIGSTOP)

        def resume() -> None:
            for pid in pids:
                send_signal(pid, signal.SIGCONT)

        return self._mend_later(resume)

    def _restart(self) -> bool:
        """In order, as an operator does; it takes its time while other faults strike."""
        name = self._worker()
        if not self._running([name]):
            return False
        control = NodeControl(self._cluster.config, name.node)

        def restart() -> None:
            # A supervisor that dies meanwhile is one of the faults.
            with contextlib.suppress(SupervisorUnreachable, RequestRefused):
                control.operate("restart", [name.local], timeout_s=RESTART_TIMEOUT_S)

        thread = threading.Thread(target=restart, name=f"restart of {name}")
        thread.start()
        self._restarts.append(thread)
        return True

    # ---- links -------------------------------------------------------------------------------------------------

    def _cut(self, *, one_way: bool) -> bool:
        links = self._cluster.links_of(self._node())
        for link, away in links:
            if one_way:
                link.cut(away)
            else:
                link.cut()
        return self._heal_later([link for link, _ in links])

    def _slow_links(self) -> bool:
        most_s = self._rng.choice((0.02, 0.1, 0.5))
        links = [link for link, _ in self._cluster.links_of(self._node())]
        for link in links:
            link.delay(0.0, most_s)
        return self._heal_later(links)

    def _heal_later(self, links: list[Link]) -> bool:
        def heal() -> None:
            for link in links:
                link.heal()

        return self._mend_later(heal)

    def _reset_links(self) -> bool:
        for link, _ in self._cluster.links_of(self._node()):
            link.reset()
        return True
