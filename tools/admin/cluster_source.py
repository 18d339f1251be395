"""Polls a cluster by its file: supervisors over their control sockets, replicas over ZeroMQ, the operating system.

No source is waited for longer than its own time limit, and one that does not answer leaves gaps, or what it said last,
instead of hiding what the others say."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from config.process.names import ProcessName, processes_of
from config.process.report import ProcessReport, State
from coordinator.replication import report
from proto.catalog import REPLICATION, history_word
from proto.etcd import rpc_pb2 as rpc
from tools.admin.call_probe import CallProbe
from tools.admin.certificate_dates import CertificateDates
from tools.admin.present import PresentCluster, all_replicas
from tools.admin.probe import Answered, ReplicaProbe
from tools.admin.snapshot import (
    DOWN,
    ELSEWHERE,
    UNKNOWN,
    Node,
    Process,
    Replica,
    Replication,
    Snapshot,
    Table,
    make_shard,
)
from tools.admin.supervisors import Supervisors
from tools.admin.usage import Usage, Used

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from config import ClusterConfig, NodeConfig
    from proto.internal import frames_pb2 as frames
    from tools.admin.reach import Reach

REPLICA_TIMEOUT_S: Final = 1.0
COORDINATOR_TIMEOUT_S: Final = 0.2
"""After the replicas have answered: who is asked for figures has had the same time."""
QUEUES: Final = ("writes_waiting", "reads_waiting", "long_reads_waiting")
"""Statistics of a replica's parts that count requests in it."""


class ClusterSource:
    """One cluster, again and again. Use as a context manager, from one thread at a time."""

    def __init__(
        self, cluster: ClusterConfig, *, supervisor_timeout_s: float, reach: Reach | None = None
    ) -> None:
        """supervisor_timeout_s: a supervisor that has not answered by then is shown as it was. reach: of coordinators,
        to be asked for what they have counted; None: nobody wants to know."""
        self._cluster = cluster
        self._reach = reach
        self._calls: CallProbe | None = None
        self._supervisor_timeout_s = supervisor_timeout_s
        self._usage = Usage()
        self._certificates = CertificateDates(cluster)
        self._reports: dict[str, tuple[dict[ProcessName, ProcessReport] | None, float]] = {}
        self._replicas: dict[ProcessName, Replica] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._supervisors = stack.enter_context(Supervisors(self._cluster))
            self._probe = stack.enter_context(ReplicaProbe(self._cluster))
            self._present = PresentCluster(self._cluster, self._probe)
            if self._reach is not None:
                self._calls = stack.enter_context(CallProbe(self._cluster, self._reach))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def cluster(self) -> ClusterConfig:
        """As its replicas said last that it is."""
        return self._present.cluster

    def poll(self) -> Snapshot:
        """Ask everybody at once."""
        problems = self._ask_supervisors()
        reports = {
            name: report for node, _ in self._reports.values() if node for name, report in node.items()
        }
        self._usage.watch({report.pid for report in reports.values() if report.pid})
        if self._calls is not None:
            self._calls.begin()
        answers = self._present.ask(
            timeout_s=REPLICA_TIMEOUT_S,
            is_up=lambda name: name not in reports or reports[name].state is State.RUNNING,
        )
        now = self._present.cluster
        names = [name for node in now.nodes for name in processes_of(now, node)]
        calls = {} if self._calls is None else self._calls.take(COORDINATOR_TIMEOUT_S)
        used = self._usage.measured()
        taken_at = time.time()
        self._take(answers, names)
        processes = [self._process(name, reports.get(name), used, taken_at, problems) for name in names]
        return Snapshot(
            cluster=self._cluster.cluster,
            taken_at=taken_at,
            nodes=[self._node(node, processes, answers) for node in now.nodes.values()],
            processes=processes,
            shards=[
                make_shard(
                    shard,
                    [
                        self._replicas[name]
                        for name in sorted(holding, key=lambda name: now.node(name.node).id)
                    ],
                    [name.node for name in holding],
                    wanted=min(now.replicas, len(now.nodes)),
                )
                for shard, holding in all_replicas(now).items()
            ],
            problems=list(problems.values()),
            replication=self._replication(answers),
            calls=calls,
            certificates=self._certificates.look(),
        )

    def _replication(self, answers: Mapping[ProcessName, Answered]) -> Replication | None:
        follows = self._cluster.follows
        if follows is None:
            return None
        for name in sorted(
            (name for name in answers if name.shard == REPLICATION.shard),
            key=lambda name: answers[name].status.role != "leader",
        ):
            body = self._probe.read(name, REPLICATION, report.question(), timeout_s=REPLICA_TIMEOUT_S)
            if body is not None:
                return Replication(leader=str(follows), report=report.in_answer(body), answered=True)
        return Replication(leader=str(follows), report=None, answered=False)

    # ---- supervisors and processes ----------------------------------------------------------------------------------

    def _ask_supervisors(self) -> dict[str, str]:
        """By node, what is wrong with its supervisor; what the others say is noted."""
        problems: dict[str, str] = {}
        answers = self._supervisors.ask(self._supervisor_timeout_s)
        for node in self._cluster.nodes:
            answer = answers.get(node, f"the supervisor of {node} has not answered yet")
            if isinstance(answer, str):
                problems[node] = answer
            elif answer is None:
                self._reports.pop(node, None)
            else:
                self._reports[node] = {report.name: report for report in answer}, time.time()
        return problems

    def _process(
        self,
        name: ProcessName,
        report: ProcessReport | None,
        used: Mapping[int, Used],
        taken_at: float,
        problems: Mapping[str, str],
    ) -> Process:
        if report is None:
            return Process(name=name, state=self._state_unseen(name.node, problems))
        mine = used.get(report.pid) if report.pid else None
        is_stale = name.node in problems
        return Process(
            name=name,
            state=UNKNOWN if is_stale else str(report.state),
            pid=report.pid,
            restarts=report.restarts,
            started_at=report.started_at,
            last_error=report.reason,
            log=report.log,
            cpu_percent=mine.cpu_percent if mine else None,
            rss_bytes=mine.rss_bytes if mine else None,
            answered_at=self._reports[name.node][1] if is_stale else taken_at,
        )

    def _state_unseen(self, node: str, problems: Mapping[str, str]) -> str:
        if node in problems:
            return UNKNOWN
        # A node on another machine, or of another file, has a supervisor there; this one can't know.
        known = self._cluster.nodes.get(node)
        return DOWN if known is not None and known.is_loopback else ELSEWHERE

    def _node(
        self, node: NodeConfig, processes: Sequence[Process], answers: Mapping[ProcessName, Answered]
    ) -> Node:
        states = {process.state for process in processes if process.name.node == node.name}
        is_up: bool | None = None
        if State.RUNNING in states or any(name.node == node.name for name in answers):
            is_up = True
        elif states <= {DOWN, State.STOPPED, State.FAILED, State.BACKOFF}:
            is_up = False
        return Node(name=node.name, endpoint=node.client_endpoint, is_up=is_up)

    # ---- replicas ---------------------------------------------------------------------------------------------------

    def _take(self, answers: Mapping[ProcessName, Answered], names: Sequence[ProcessName]) -> None:
        nodes = {node.id: node.name for node in self._present.cluster.nodes.values()}
        before, self._replicas = self._replicas, {}
        for name in names:
            if name.shard is None:
                continue
            answer = answers.get(name)
            if answer is not None:
                self._replicas[name] = replica_of(answer, nodes)
            else:
                known = before.get(name) or Replica(shard=name.shard, node=name.node)
                self._replicas[name] = replace(known, is_answering=False)


def replica_of(answer: Answered, names: Mapping[int, str]) -> Replica:
    """What a replica said, in an operator's words. names: of the nodes, by id."""
    status = answer.status
    statistics = status.statistics
    return Replica(
        shard=status.shard,
        node=names.get(status.node, str(status.node)),
        is_answering=True,
        answered_at=answer.answered_at,
        role=status.role,
        leader=names.get(status.leader, ""),
        term=status.term,
        commit_index=status.commit_index,
        applied_index=status.applied_index,
        database_bytes=status.database_bytes,
        wal_bytes=statistics.get("wal_bytes"),
        disk_free_bytes=statistics.get("disk_free_bytes"),
        queued=sum(statistics[queue] for queue in QUEUES if queue in statistics),
        sync_p99_us=statistics.get("sync_p99_us"),
        commands_applied=statistics.get("commands_applied"),
        reads_served=statistics.get("reads_served"),
        machine_level=statistics.get("machine_level"),
        build_level=statistics.get("build_level"),
        clock_skew_ms=_clock_skew_ms(answer),
        no_space=status.no_space,
        fault=status.fault,
        voters=[names.get(node, str(node)) for node in status.voters],
        learners=[names.get(node, str(node)) for node in status.learners],
        tables=[_table(status.shard, table) for table in status.tables if not table.name.startswith("_")],
    )


def _clock_skew_ms(answer: Answered) -> int | None:
    """The least that explains the reading: it was taken between the question and the answer."""
    if "wall_clock_ms" not in answer.status.statistics:
        return None
    reading_ms = answer.status.statistics["wall_clock_ms"]
    asked_ms, answered_ms = int(answer.asked_at * 1000), int(answer.answered_at * 1000) + 1
    return min(0, reading_ms - asked_ms) or max(0, reading_ms - answered_ms)


def _table(shard: int, table: frames.TableStatus) -> Table:
    return Table(
        name=table.name,
        shard=shard,
        revision=table.revision,
        keys=table.keys,
        compacted_revision=table.compacted_revision if table.compacted_revision >= 0 else None,
        history=str(history_word(table.history)),
        followers={follower.follower: follower.revision for follower in table.followers},
        size_bytes=table.size_bytes,
        quota_bytes=table.quota_bytes or None,
        is_full=table.full,
        alarms=sorted({rpc.AlarmType.Name(rpc.AlarmType.ValueType(alarm.alarm)) for alarm in table.alarms}),
    )
