"""What an operator does to processes: start, stop, restart one by one, end nodes. Asks supervisors over their control
sockets; prints nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from config.process.names import ProcessName
from config.process.report import State
from tools.admin.control_client import NodeControl, SupervisorUnreachable
from tools.admin.rolling import RollingRestart

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from config import ClusterConfig
    from config.process.report import ProcessReport
    from proto.internal import frames_pb2 as frames
    from tools.admin.shards import Move, ShardView

OPERATION_MARGIN_S: Final = 60.0
"""Beyond the processes' own time limits: what a supervisor may take to answer on a busy machine."""
CATCH_UP_TIMEOUT_S: Final = 60.0
PROBE_TIMEOUT_S: Final = 1.0
TRANSFER_TIMEOUT_S: Final = 3.0
MOVE_MARGIN_S: Final = 3.0


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

    def transfer(self, leader: ProcessName, target: ProcessName) -> str:
        """Ask a leader to hand over to a replica of its shard. Why it does not, or ""."""
        from tools.admin.probe import NotHandedOver, hand_over

        try:
            hand_over(self._cluster, leader, target.node, timeout_s=TRANSFER_TIMEOUT_S)
        except NotHandedOver as refusal:
            return str(refusal)
        return ""

    def _operate(self, operation: str, name: ProcessName) -> ProcessReport:
        limit_s = self._cluster.supervisor.stop_timeout_ms / 1000 + OPERATION_MARGIN_S
        return NodeControl(self._cluster, name.node).operate(operation, [name.local], timeout_s=limit_s)[0]


def rolling_restart(cluster: ClusterConfig, *, force: bool) -> RollingRestart:
    """Restarts of this cluster's processes, with regard to all who belong to its shards now."""
    from tools.admin.present import all_replicas, present

    now = present(cluster)
    return RollingRestart(
        operator=ControlOperator(now),
        shards=all_replicas(now),
        catch_up_timeout_s=CATCH_UP_TIMEOUT_S,
        move_timeout_s=move_timeout_s(cluster),
        force=force,
    )


def restartable(
    cluster: ClusterConfig, names: Sequence[ProcessName], older_than: float | None = None
) -> list[ProcessName]:
    """Those of `names` that were not started after the Unix time `older_than`; all without one.

    Raises SupervisorUnreachable or RequestRefused if the supervisors of all of them are not here: nothing begins that
    can only be half done. Where other machines have some of them it says what to do there."""
    reports: dict[ProcessName, ProcessReport] = {}
    elsewhere: list[str] = []
    for node in sorted({name.node for name in names}):
        try:
            reports |= {report.name: report for report in NodeControl(cluster, node).status()}
        except SupervisorUnreachable:
            if cluster.node(node).is_loopback:
                raise
            elsewhere.append(node)
    if elsewhere:
        raise SupervisorUnreachable(_host_by_host(names, elsewhere))
    if older_than is None:
        return list(names)
    return [
        name
        for name in names
        if (report := reports.get(name)) is None
        or report.state is not State.RUNNING
        or (report.started_at or 0.0) <= older_than
    ]


def _host_by_host(names: Sequence[ProcessName], elsewhere: Sequence[str]) -> str:
    """How to restart what is on several machines."""

    def command(node: str) -> str:
        there = [name for name in names if name.node == node]
        return f"`boathouse restart {there[0] if len(there) == 1 else node} FILE`"

    here = sorted({name.node for name in names} - set(elsewhere))
    steps = [f"{command(node)} here" for node in here]
    steps += [f"{command(node)} on the host of {node}" for node in elsewhere]
    are = "is" if len(elsewhere) == 1 else "are"
    return f"{', '.join(elsewhere)} {are} not up on this machine; do it host by host: {', then '.join(steps)}"


def move_timeout_s(cluster: ClusterConfig) -> float:
    """How long a move of leadership may take: a leader gives it up after an election timeout, and the next leader comes
    within two."""
    return MOVE_MARGIN_S + 3 * cluster.raft.election_ticks * cluster.raft.tick_ms / 1000


def shard_views(cluster: ClusterConfig) -> list[ShardView]:
    """All shards, as their replicas describe them now."""
    return present_views(cluster)[1]


def present_views(cluster: ClusterConfig) -> tuple[ClusterConfig, list[ShardView]]:
    """The cluster as it is (present.py), and all its shards."""
    from tools.admin.present import all_replicas, ask_present
    from tools.admin.shards import view

    now, answers = ask_present(cluster, timeout_s=PROBE_TIMEOUT_S)
    return now, [view(shard, replicas, answers) for shard, replicas in all_replicas(now).items()]


def move_leader(cluster: ClusterConfig, shard: int, to: str | None) -> Move:
    """Have the replica on node `to` lead a shard, or the best one; what was moved. Raises NotMoved."""
    from tools.admin.leadership import NotMoved, move_leadership
    from tools.admin.shards import Move, leaders_by_node

    now, views = present_views(cluster)
    seen = views[shard - 1]
    leader, leads = seen.leader, leaders_by_node(views)
    if leader is None:
        raise NotMoved(f"shard {shard} has no leader that could hand over")
    if to is None:
        able = seen.successors(leads)
        if not able:
            raise NotMoved(f"no voter of shard {shard} could lead in place of {leader}")
        target = able[0]
    else:
        target = ProcessName.replica(to, shard)
        if target not in seen.replicas:
            holders = ", ".join(name.node for name in seen.replicas)
            raise NotMoved(f"{to} has no replica of shard {shard}; {holders} have")
        if target not in seen.answers:
            raise NotMoved(f"{target} does not answer: {leader} goes on leading")
    move_leadership(ControlOperator(now), seen, target, timeout_s=move_timeout_s(cluster))
    return Move(shard, leader.node, target.node)


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
