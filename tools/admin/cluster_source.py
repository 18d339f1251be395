"""Polls a cluster by its file: supervisors over their control sockets, replicas over ZeroMQ, the operating system.

No source is waited for longer than its own time limit, and one that does not answer leaves gaps, or what it said last,
instead of hiding what the others say."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from config.process.names import ProcessName, processes_of
from config.process.report import ProcessReport, State
from coordinator.replication import report
from proto import catalog
from proto.catalog import CATALOG, REPLICATION
from proto.etcd import rpc_pb2 as etcd
from proto.internal import figures_pb2 as figures
from tools.admin.certificate_dates import CertificateDates
from tools.admin.node_pages import COUNTED, PROCESSES, NodePages, counted
from tools.admin.present import PresentCluster, all_replicas
from tools.admin.probe import ReplicaProbe
from tools.admin.reach import IN_THE_CLEAR, Reach
from tools.admin.remote_processes import RemoteProcesses
from tools.admin.replica_words import replica_of
from tools.admin.snapshot import (
    DOWN,
    ELSEWHERE,
    UNKNOWN,
    Node,
    Process,
    Replica,
    Replication,
    Snapshot,
    make_shard,
)
from tools.admin.supervisors import Supervisors
from tools.admin.usage import Usage, Used

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from config import ClusterConfig, NodeConfig
    from tools.admin.node_pages import Pages, Series
    from tools.admin.probe import Answered

REPLICA_TIMEOUT_S: Final = 1.0
TOLD_OLD_S: Final = 5.0
"""What a coordinator on another host told of its processes longer ago counts no more."""
COORDINATOR_TIMEOUT_S: Final = 0.2
"""After the replicas have answered: who is asked for figures has had the same time."""


class ClusterSource:
    """One cluster, again and again. Use as a context manager, from one thread at a time."""

    def __init__(
        self,
        cluster: ClusterConfig,
        *,
        supervisor_timeout_s: float,
        reach: Reach = IN_THE_CLEAR,
        counts_calls: bool = False,
    ) -> None:
        """supervisor_timeout_s: a supervisor that has not answered by then is shown as it was. reach: of coordinators,
        who tell of processes whose supervisors are elsewhere. counts_calls: they are also asked for what they have
        counted."""
        self._cluster = cluster
        self._reach = reach
        self._counts_calls = counts_calls
        self._supervisor_timeout_s = supervisor_timeout_s
        self._remote = RemoteProcesses()
        self._elsewhere: dict[ProcessName, Process] = {}
        """As coordinators told of them last."""
        self._away: set[str] = set()
        """Nodes without a supervisor here, whose coordinators can't be reached."""
        self._usage = Usage()
        self._certificates = CertificateDates(cluster)
        self._reports: dict[str, tuple[dict[ProcessName, ProcessReport] | None, float]] = {}
        self._replicas: dict[ProcessName, Replica] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._supervisors = stack.enter_context(Supervisors(self._cluster))
            self._probe = stack.enter_context(ReplicaProbe(self._cluster))
            self._present = PresentCluster(self._cluster, self._probe)
            self._pages = stack.enter_context(NodePages(self._reach))
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
        self._pages.begin(self._wanted_pages())
        answers = self._present.ask(
            timeout_s=REPLICA_TIMEOUT_S,
            is_up=lambda name: name not in reports or reports[name].state is State.RUNNING,
        )
        now = self._present.cluster
        names = [name for node in now.nodes for name in processes_of(now, node)]
        pages = self._pages.take(COORDINATOR_TIMEOUT_S)
        used = self._usage.measured()
        taken_at = time.time()
        told = self._told_by_coordinators(pages, taken_at)
        self._take(answers, names)
        processes = [
            told.get(name) or self._process(name, reports.get(name), used, taken_at, problems)
            for name in names
        ]
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
            gave_way_to=self._gave_way_to(answers),
            calls=dict(self._calls(pages)),
            certificates=self._certificates.look(),
            limits=self._cluster.limits,
            raft=self._cluster.raft,
        )

    def _replication(self, answers: Mapping[ProcessName, Answered]) -> Replication | None:
        follows = self._cluster.follows
        if follows is None:
            return None
        body = self._read(answers, REPLICATION, report.question())
        said = None if body is None else report.in_answer(body)
        return Replication(leader=str(follows), report=said, answered=body is not None)

    def _gave_way_to(self, answers: Mapping[ProcessName, Answered]) -> catalog.Lead | None:
        tables = (table for answer in answers.values() for table in answer.status.tables)
        if self._cluster.follows is not None or not any(table.origin for table in tables):
            return None  # it has never given way, so nobody is asked
        body = self._read(answers, CATALOG, etcd.RangeRequest(key=catalog.LEAD).SerializeToString())
        for row in () if body is None else etcd.RangeResponse.FromString(body).kvs:
            with suppress(catalog.UnreadableRow):
                lead = catalog.parse_lead(row.value)
                return lead if lead.cluster not in ("", self._cluster.cluster) else None
        return None

    def _read(
        self, answers: Mapping[ProcessName, Answered], table: catalog.TableEntry, question: bytes
    ) -> bytes | None:
        """What the first replica that can be asked answers about a table of boathouse's own, the leader before the
        others."""
        holding = [name for name in answers if name.shard == table.shard]
        for name in sorted(holding, key=lambda name: answers[name].status.role != "leader"):
            body = self._probe.read(name, table, question, timeout_s=REPLICA_TIMEOUT_S)
            if body is not None:
                return body
        return None

    # ---- coordinators ------------------------------------------------------------------------------------------------

    def _wanted_pages(self) -> dict[str, list[str]]:
        """By the endpoint of each node."""
        always = [COUNTED] if self._counts_calls else []
        return {
            node.http_endpoint: always if node.name in self._reports else [*always, PROCESSES]
            for node in self._cluster.nodes.values()
        }

    def _told_by_coordinators(self, pages: Mapping[str, Pages], now: float) -> Mapping[ProcessName, Process]:
        """Processes of nodes whose supervisors are not here; as they were last, if nobody tells of them now."""
        here = self._reports.keys()
        self._elsewhere = {
            name: was if now - (was.answered_at or 0.0) < TOLD_OLD_S else replace(was, state=ELSEWHERE)
            for name, was in self._elsewhere.items()
            if name.node not in here
        }
        self._away -= here
        for node in self._cluster.nodes.values():
            page = pages.get(node.http_endpoint)
            if page is None or node.name in here:
                continue
            (self._away.add if page.is_away else self._away.discard)(node.name)
            told = page.read(PROCESSES, figures.NodeProcesses)
            # On a clashing port another cluster's coordinator may have answered.
            if told is not None and (told.cluster, told.node) == (self._cluster.cluster, node.name):
                self._elsewhere |= self._remote.take(told, now=now)
        return self._elsewhere

    def _calls(self, pages: Mapping[str, Pages]) -> Iterator[tuple[Series, Sequence[int]]]:
        for node in self._cluster.nodes.values():
            if (page := pages.get(node.http_endpoint)) is not None:
                yield from counted(node.name, page.read(COUNTED, figures.NodeFigures))

    # ---- supervisors and processes ----------------------------------------------------------------------------------

    def _ask_supervisors(self) -> dict[str, str]:
        """By node, what is wrong with its supervisor; what the others say is noted."""
        problems: dict[str, str] = {}
        answers = self._supervisors.ask(self._supervisor_timeout_s)
        for node, answer in answers.items():
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
            state = self._state_unseen(name.node, problems)
            return Process(name=name, state=state, is_here=state != ELSEWHERE)
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
        elif states <= {DOWN, State.STOPPED, State.FAILED, State.BACKOFF} or node.name in self._away:
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
                unread = self._probe.newer.get(name)
                self._replicas[name] = replace(known, is_answering=False, unread_protocol=unread)
