"""Processes of other hosts, as their coordinators tell of them."""

from __future__ import annotations

from config.process.names import ProcessName
from proto.internal import figures_pb2 as figures
from tools.admin.remote_processes import RemoteProcesses

NOW = 1_790_000_000.0
NAME = ProcessName.replica("n2", 1)


def told(read_at_s: float, cpu_s: float, pid: int = 7) -> figures.NodeProcesses:
    node = figures.NodeProcesses(cluster="demo", node="n2", read_at_s=read_at_s)
    node.processes.add(
        kind="shardworker",
        number=1,
        state="running",
        pid=pid,
        cpu_s=cpu_s,
        rss_bytes=9,
        restarts=2,
        started_at=5.0,
    )
    return node


def test_a_share_of_a_core_is_between_two_looks_of_the_same_process() -> None:
    remote = RemoteProcesses()
    assert remote.take(told(10.0, 1.0), now=NOW)[NAME].cpu_percent is None
    assert remote.take(told(12.0, 1.5), now=NOW)[NAME].cpu_percent == 25.0
    assert remote.take(told(13.0, 0.1, pid=8), now=NOW)[NAME].cpu_percent is None
    assert remote.take(told(14.0, 0.2, pid=8), now=NOW)[NAME].cpu_percent is not None


def test_the_rest_is_as_the_supervisor_has_it_there() -> None:
    process = RemoteProcesses().take(told(10.0, 1.0), now=NOW)[NAME]
    assert (process.state, process.pid, process.restarts, process.started_at) == ("running", 7, 2, 5.0)
    assert (process.rss_bytes, process.answered_at, process.is_here) == (9, NOW, False)


def test_a_kind_of_a_newer_version_is_left_out() -> None:
    node = told(10.0, 1.0)
    node.processes.add(kind="archivist", state="running")
    assert set(RemoteProcesses().take(node, now=NOW)) == {NAME}
