"""How a cluster is, gathered from its supervisors, its replicas and the operating system. Data only: whoever shows it,
a command or a terminal interface, decides how.

No source is waited for longer than its own time limit, and one that does not answer leaves gaps instead of hiding what
the others say."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psutil

from config.process.names import ProcessName, processes_of
from config.process.report import ProcessReport, State
from tools.admin.control_client import NodeControl, RequestRefused, SupervisorUnreachable
from tools.admin.probe import ask_replicas

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from config import ClusterConfig
    from proto.internal import frames_pb2 as frames

CPU_SAMPLE_S: Final = 0.2
PROBE_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """What a replica says of itself."""

    role: str
    term: int
    commit_index: int
    applied_index: int
    database_bytes: int
    no_space: bool
    fault: str
    """Why it does not serve; "" if it does."""
    tables: Mapping[str, int]
    """Revision by table, without boathouse's own."""

    @property
    def revision(self) -> int | None:
        """The highest of its tables' revisions; None without a table."""
        return max(self.tables.values(), default=None)


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process of the cluster file."""

    name: ProcessName
    state: str
    """Its State, or without a report `down` (no supervisor here), `elsewhere` (another machine's business) or
    `unknown` (its supervisor did not answer)."""
    report: ProcessReport | None = None
    """What its supervisor says; None if that is not known."""
    cpu_percent: float | None = None
    """Of one core, over the last moment."""
    rss_bytes: int | None = None
    replica: ReplicaRow | None = None
    """None for what is no replica, and for a replica that did not answer."""
    leader: str | None = None
    """Of a replica's shard: name of the node that leads it, as the replica of the highest term has it. Also where this
    replica itself did not answer; None if nobody knows."""


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """All of a cluster at one moment."""

    rows: Sequence[ProcessRow]
    """One per process of the file, node by node."""
    problems: Sequence[str]
    """Why parts of it are unknown, a sentence each."""


class NotUp(Exception):
    """No supervisor of the cluster lives on this machine."""


def gather(cluster: ClusterConfig) -> ClusterStatus:
    """Ask everybody at once. Raises NotUp."""
    reports: dict[ProcessName, ProcessReport] = {}
    problems: dict[str, str] = {}
    for node, answer in _ask_supervisors(cluster).items():
        if isinstance(answer, str):
            problems[node] = answer
        elif answer is not None:
            reports |= {report.name: report for report in answer}
    if not reports and not problems:
        raise NotUp(f"cluster {cluster.cluster} is not up here (data in {cluster.data_dir})")
    load = _Load(report.pid for report in reports.values() if report.pid)
    answers = _ask_running(cluster, reports)
    leaders = _leaders(cluster, answers)
    usage = load.measured()
    rows = []
    for node in cluster.nodes:
        for name in processes_of(cluster, node):
            report = reports.get(name)
            cpu_percent, rss_bytes = usage.get(report.pid or 0, (None, None)) if report else (None, None)
            replied = answers.get(name)
            rows.append(
                ProcessRow(
                    name=name,
                    state=str(report.state) if report else _state_unseen(cluster, node, problems),
                    report=report,
                    cpu_percent=cpu_percent,
                    rss_bytes=rss_bytes,
                    replica=_replica_row(replied) if replied else None,
                    leader=None if name.shard is None else leaders.get(name.shard),
                )
            )
    return ClusterStatus(tuple(rows), tuple(problems.values()))


def _ask_supervisors(cluster: ClusterConfig) -> dict[str, list[ProcessReport] | str | None]:
    """By node: its reports, or why there are none, or None if nobody is there to ask."""

    def ask(node: str) -> list[ProcessReport] | str | None:
        try:
            return NodeControl(cluster, node).status()
        except SupervisorUnreachable:
            return None
        except RequestRefused as error:
            return str(error)

    with ThreadPoolExecutor(max_workers=len(cluster.nodes)) as pool:
        return dict(zip(cluster.nodes, pool.map(ask, cluster.nodes), strict=True))


def _state_unseen(cluster: ClusterConfig, node: str, problems: Mapping[str, str]) -> str:
    if node in problems:
        return "unknown"
    # A node on another machine has a supervisor there; this one can't know.
    return "down" if cluster.node(node).is_loopback else "elsewhere"


def _ask_running(
    cluster: ClusterConfig, reports: Mapping[ProcessName, ProcessReport]
) -> dict[ProcessName, frames.ReplicaStatus]:
    names = [
        name
        for node in cluster.nodes
        for name in processes_of(cluster, node)
        if name.shard is not None and (name not in reports or reports[name].state is State.RUNNING)
    ]
    return ask_replicas(cluster, names, timeout_s=PROBE_TIMEOUT_S)


def _leaders(
    cluster: ClusterConfig, answers: Mapping[ProcessName, frames.ReplicaStatus]
) -> dict[int, str | None]:
    """The leader of each shard, as the replica of the highest term has it."""
    newest: dict[int, frames.ReplicaStatus] = {}
    for answer in answers.values():
        known = newest.get(answer.shard)
        if answer.leader and (known is None or answer.term > known.term):
            newest[answer.shard] = answer
    names = {node.id: node.name for node in cluster.nodes.values()}
    return {shard: names.get(answer.leader) for shard, answer in newest.items()}


def _replica_row(answer: frames.ReplicaStatus) -> ReplicaRow:
    return ReplicaRow(
        role=answer.role,
        term=answer.term,
        commit_index=answer.commit_index,
        applied_index=answer.applied_index,
        database_bytes=answer.database_bytes,
        no_space=answer.no_space,
        fault=answer.fault,
        tables={table.name: table.revision for table in answer.tables if not table.name.startswith("_")},
    )


class _Load:
    """CPU and memory of processes, sampled between its making and measured()."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._since_s = time.monotonic()
        self._processes = []
        for pid in pids:
            try:
                process = psutil.Process(pid)
                process.cpu_percent(None)  # the first call starts the clock
            except psutil.Error:
                continue
            self._processes.append(process)

    def measured(self) -> dict[int, tuple[float, int]]:
        """CPU in per cent of a core and resident bytes, by pid, over at least CPU_SAMPLE_S."""
        time.sleep(max(0.0, CPU_SAMPLE_S - (time.monotonic() - self._since_s)))
        found = {}
        for process in self._processes:
            try:
                found[process.pid] = (process.cpu_percent(None), process.memory_info().rss)
            except psutil.Error:
                continue
        return found
