"""What clients notice of a node that comes to a running cluster: puts while it catches up, beside those before."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import yaml

from config import loading
from tools.admin.member_plan import StepKind, plan_add
from tools.admin.membership import MemberChange, RunningCluster
from tools.bench.run import LoadFailed
from tools.bench.systems import free_port

if TYPE_CHECKING:
    from tools.admin.member_plan import Step
    from tools.bench.run import Progress
    from tools.bench.systems import Boathouse

NODE: Final = "n4"
KEYS_MIN: Final = 200_000
STEADY_S: Final = 10.0
"""Of puts before the node comes."""
MEASURED_S_MIN: Final = 60.0
"""Time for the steady puts, the node's start, and what it takes to catch up."""
SETTLED_S: Final = 2.0
"""After the first answers, which are slower."""


@dataclass(slots=True)
class Timeline:
    """How many puts were answered by when."""

    inner: Progress
    points: list[tuple[float, int]] = field(default_factory=list)
    began: threading.Event = field(default_factory=threading.Event)

    def filled(self, keys: int, of: int) -> None:
        self.inner.filled(keys, of)

    def measured(self, requests: int, errors: int) -> None:
        self.points.append((time.monotonic(), requests))
        self.began.set()
        self.inner.measured(requests, errors)

    def rate(self, start: float, end: float) -> float:
        """Puts a second between two moments, as far as both were told of. Raises LoadFailed if too few were."""
        told = [point for point in self.points if start <= point[0] <= end]
        if len(told) < 2:
            raise LoadFailed(
                f"{end - start:.1f} s are too short to tell a rate: give it a higher --key-count"
            )
        (first_s, first), (last_s, last) = told[0], told[-1]
        return (last - first) / (last_s - first_s)


@dataclass(frozen=True, slots=True)
class Joined:
    """The moments of a node's coming."""

    steady_at: float
    began_at: float
    voted_at: float
    """It votes."""


def write_node(system: Boathouse) -> None:
    """Write the node that is to come into the cluster file."""
    document: dict[str, Any] = yaml.safe_load(system.cluster_file.read_text())
    document["nodes"][NODE] = {
        "id": len(document["nodes"]) + 1,
        "joins": True,
        "host": "127.0.0.1",
        "client_port": free_port(),
        "http_port": free_port(),
        "peer_port": free_port(block=system.shards),
    }
    system.cluster_file.write_text(yaml.safe_dump(document, sort_keys=False))


def join(system: Boathouse, timeline: Timeline) -> Joined:
    """Let the puts run steadily, then have the node join, in place of another. Raises ChangeStuck."""
    timeline.began.wait()
    steady_at = time.monotonic() + SETTLED_S
    time.sleep(STEADY_S + SETTLED_S)
    command = [sys.executable, "-m", "tools.cli", "up", str(system.cluster_file), "--node", NODE]
    with (
        (system.folder / "up-joining.log").open("wb") as log,
        subprocess.Popen(  # noqa: S603 - our own program
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        ) as node,
    ):
        try:
            began_at = time.monotonic()
            voted: list[float] = []

            def on_done(step: Step) -> None:
                if step.kind is StepKind.VOTE:
                    voted.append(time.monotonic())

            cluster = loading.load(system.cluster_file)
            with RunningCluster(cluster) as world:
                change = MemberChange(cluster, world, lambda _text: None)
                change.run(plan_add(change.placement(), NODE, replicas=cluster.replicas), on_done)
            return Joined(steady_at, began_at, max(voted))
        finally:
            node.send_signal(signal.SIGINT)
