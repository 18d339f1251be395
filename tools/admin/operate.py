"""What an operator does to processes: start, stop, restart one by one, end nodes. Asks supervisors over their control
sockets; prints nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from config.process.names import ProcessName
from tools.admin.control_client import NodeControl, SupervisorUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from config import ClusterConfig
    from config.process.report import ProcessReport
    from proto.internal import frames_pb2 as frames

OPERATION_MARGIN_S: Final = 60.0
"""Beyond the processes' own time limits: what a supervisor may take to answer on a busy machine."""
CATCH_UP_TIMEOUT_S: Final = 60.0
PROBE_TIMEOUT_S: Final = 1.0


class ControlOperator:
    """rolling.Operator over control sockets and ZeroMQ. Everything raises SupervisorUnreachable and RequestRefused."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self._cluster = cluster

    def start(self, name: ProcessName) -> ProcessReport:
        return self._operate("start", name)

    def stop(self, name: ProcessName) -> ProcessReport:
        return self._operate("stop", name)

    def restart(self, name: ProcessName) -> ProcessReport:
        return self._operate("restart", name)

    def ask(self, names: Sequence[ProcessName]) -> dict[ProcessName, frames.ReplicaStatus]:
        """What replicas say of themselves; those that don't answer are left out."""
        from tools.admin.probe import ask_replicas

        return ask_replicas(self._cluster, names, timeout_s=PROBE_TIMEOUT_S)

    def _operate(self, operation: str, name: ProcessName) -> ProcessReport:
        limit_s = self._cluster.supervisor.stop_timeout_ms / 1000 + OPERATION_MARGIN_S
        return NodeControl(self._cluster, name.node).operate(operation, [name.local], timeout_s=limit_s)[0]


def restart_rolling(
    cluster: ClusterConfig, names: Sequence[ProcessName], on_done: Callable[[ProcessReport], None]
) -> None:
    """Restart processes one at a time (rolling.py), if the supervisors of all of them are here; else nothing is
    touched. Raises RestartStuck, SupervisorUnreachable or RequestRefused."""
    from tools.admin.rolling import restart_one_by_one

    for node in sorted({name.node for name in names}):
        NodeControl(cluster, node).status()
    restart_one_by_one(
        ControlOperator(cluster),
        names,
        lambda shard: [ProcessName.replica(node.name, shard) for node in cluster.replica_nodes(shard)],
        timeout_s=CATCH_UP_TIMEOUT_S,
        on_done=on_done,
    )


def end_nodes(cluster: ClusterConfig, nodes: Iterable[str]) -> list[str]:
    """End nodes, those of them that are up here, all at once: nodes of one cluster that go down one by one would elect
    leaders all the way. Raises RequestRefused."""
    limit_s = 2 * cluster.supervisor.stop_timeout_ms / 1000 + OPERATION_MARGIN_S

    def end(node: str) -> bool:
        try:
            NodeControl(cluster, node).down(timeout_s=limit_s)
        except SupervisorUnreachable:
            return False
        return True

    names = list(nodes)
    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        return [name for name, was_up in zip(names, pool.map(end, names), strict=True) if was_up]
