"""Polls a cluster by endpoints of coordinators: each tells of its node's processes and replicas, on pages beside
/metrics. Supervisors and replicas themselves need not be in reach."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from config.process.names import KINDS
from config.tuning import LimitsConfig, RaftConfig
from coordinator.replication import report
from proto.catalog import REPLICATION
from proto.internal import figures_pb2 as figures
from tools.admin.etcd_client import Refused
from tools.admin.node_pages import COUNTED, PROCESSES, REPLICAS, NodePages, counted
from tools.admin.probe import Answered
from tools.admin.remote_processes import RemoteProcesses
from tools.admin.replica_words import replica_of
from tools.admin.snapshot import ELSEWHERE, Node, Process, Replica, Replication, Shard, Snapshot, make_shard

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from config.process.names import ProcessName
    from coordinator.replication.report import Report
    from tools.admin.etcd_client import EtcdClient
    from tools.admin.node_pages import Pages
    from tools.admin.reach import Reach

TIMEOUT_S: Final = 1.5
"""A coordinator gives its replicas a second."""


class CoordinatorSource:
    """One cluster, again and again. Use as a context manager, from one thread at a time."""

    def __init__(self, endpoints: Sequence[str], reach: Reach, client: EtcdClient) -> None:
        """endpoints: of some coordinators; the others are found through them. client: for what is in tables."""
        self._endpoints = list(endpoints)
        self._pages = NodePages(reach)
        self._client = client
        self._remote = RemoteProcesses()
        self._known: figures.NodeReplicas | None = None
        """The newest word on who there is."""
        self._replicas: dict[tuple[int, str], Replica] = {}
        self._processes: dict[ProcessName, Process] = {}
        self.speaks_to_others = False
        """Somebody has answered who is no coordinator."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pages.__exit__()

    def poll(self) -> Snapshot | None:
        """Ask everybody at once; None as long as no coordinator has ever answered."""
        asked_at = time.time()
        pages = self._ask_all()
        taken_at = time.time()
        known = self._known
        if known is None:
            return None
        by_node = {told.node: page for page in pages.values() if (told := self._told(page)) is not None}
        self._take_replicas(list(by_node.values()), known, asked_at, taken_at)
        self._take_processes(list(by_node.values()), taken_at)
        return Snapshot(
            cluster=known.cluster,
            taken_at=taken_at,
            nodes=[
                Node(name=member.name, endpoint=member.endpoint, is_up=_is_up(member, by_node, pages))
                for member in known.members
            ],
            processes=self._in_order(known),
            shards=[self._shard(number, known) for number in range(1, known.shards + 1)],
            problems=[] if by_node else ["no coordinator answers"],
            calls={
                series: counts
                for node, page in by_node.items()
                for series, counts in counted(node, page.read(COUNTED, figures.NodeFigures))
            },
            replication=self._replication(known) if known.follows else None,
            limits=LimitsConfig().model_copy(
                update=_told_of(known, "pending_requests_max", "cursor_wal_bytes_max")
            ),
            raft=RaftConfig().model_copy(update=_told_of(known, "tick_ms")),
            is_measured_by_defaults=not known.HasField("measures"),
        )

    def _ask_all(self) -> dict[str, Pages]:
        """By endpoint: of those that were given, and of all nodes that are known by then."""
        pages: dict[str, Pages] = {}
        asked: set[str] = set()
        while wanted := self._all_endpoints() - asked:
            self._pages.begin(dict.fromkeys(wanted, (REPLICAS, PROCESSES, COUNTED)))
            asked |= wanted
            pages |= self._pages.take(TIMEOUT_S)
            told = [each for page in pages.values() if (each := self._told(page)) is not None]
            self._known = max(told, key=_age, default=self._known)
        self.speaks_to_others |= any(page.is_lost for page in pages.values())
        return pages

    def _all_endpoints(self) -> set[str]:
        members = () if self._known is None else self._known.members
        return {*self._endpoints, *(member.endpoint for member in members if member.endpoint)}

    def _told(self, page: Pages) -> figures.NodeReplicas | None:
        """What a coordinator of this cluster told."""
        told = page.read(REPLICAS, figures.NodeReplicas)
        is_other = told is not None and self._known is not None and told.cluster != self._known.cluster
        return None if is_other else told

    def _in_order(self, known: figures.NodeReplicas) -> list[Process]:
        """Node by node, and kind by kind."""
        nodes = list(_names(known).values())
        here = [process for process in self._processes.values() if process.name.node in nodes]
        return sorted(
            here,
            key=lambda each: (
                nodes.index(each.name.node),
                KINDS.index(each.name.kind),
                each.name.number or 0,
            ),
        )

    # ---- processes and replicas -------------------------------------------------------------------------------------

    def _take_processes(self, pages: Sequence[Pages], now: float) -> None:
        self._processes = {
            name: replace(was, state=ELSEWHERE, cpu_percent=None) for name, was in self._processes.items()
        }
        for page in pages:
            if (told := page.read(PROCESSES, figures.NodeProcesses)) is not None:
                self._processes |= self._remote.take(told, now=now)

    def _take_replicas(
        self,
        pages: Sequence[Pages],
        known: figures.NodeReplicas,
        asked_at: float,
        now: float,
    ) -> None:
        names = _names(known)
        self._replicas = {at: replace(was, is_answering=False) for at, was in self._replicas.items()}
        for page in pages:
            told = page.read(REPLICAS, figures.NodeReplicas)
            for status in told.replicas if told is not None else ():
                replica = replica_of(Answered(status, asked_at, now), names)
                self._replicas[replica.shard, replica.node] = replica

    def _shard(self, number: int, known: figures.NodeReplicas) -> Shard:
        """With those of its members that have never answered."""
        mine = {node: replica for (shard, node), replica in self._replicas.items() if shard == number}
        told = max(mine.values(), key=lambda each: (each.is_answering, each.term or 0), default=None)
        members = set(mine) if told is None else {*told.voters, *told.learners}
        order = [name for name in _names(known).values() if name in members]
        replicas = [mine.get(node) or Replica(shard=number, node=node) for node in order]
        return make_shard(number, replicas, order, wanted=known.replicas_wanted)

    def _replication(self, known: figures.NodeReplicas) -> Replication:
        for member in known.members:
            try:
                said = self._ask_report(member.endpoint)
            except Refused:
                continue
            return Replication(leader=known.follows, report=said, answered=True)
        return Replication(leader=known.follows, report=None, answered=False)

    def _ask_report(self, endpoint: str) -> Report | None:
        """Raises Refused."""
        request = report.asked()
        request.serializable = True
        return report.in_rows(self._client.range(endpoint, request, REPLICATION.name).result())


def _names(known: figures.NodeReplicas) -> Mapping[int, str]:
    return {member.node: member.name for member in known.members}


def _told_of(known: figures.NodeReplicas, *names: str) -> Mapping[str, int]:
    """What the cluster file says of these, whatever a build takes there; none where one does not tell."""
    return {name: getattr(known.measures, name) for name in names} if known.HasField("measures") else {}


def _age(told: figures.NodeReplicas) -> int:
    return max((status.applied_index for status in told.replicas), default=0)


def _is_up(member: figures.MemberFigures, told: Container[str], pages: Mapping[str, Pages]) -> bool | None:
    """None for one that is only late."""
    if member.name in told:
        return True
    page = pages.get(member.endpoint)
    return False if page is not None and page.is_away else None
