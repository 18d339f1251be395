"""All that `/metrics` tells, gathered at one moment."""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import os
from http import HTTPStatus
from typing import TYPE_CHECKING

from config.process.names import ProcessName
from coordinator.api.etcd_version import CLUSTER_VERSION, VERSION
from coordinator.front import http_pages
from coordinator.metrics.calls import call_families, coordinator_families, watch_families
from coordinator.metrics.families import gauge
from coordinator.metrics.node import SupervisorSilent, ask_supervisor, node_processes, node_replicas
from coordinator.metrics.page import page
from coordinator.metrics.processes import process_families
from coordinator.metrics.replicas import replica_families
from coordinator.metrics.replication import replication_families
from coordinator.replication import report
from proto.ids import NodeId
from proto.internal import figures_pb2 as figures

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from config import ClusterConfig
    from config.topology import Topology
    from coordinator.metrics.page import Families
    from coordinator.metrics.replicas import Statuses
    from coordinator.metrics.siblings import Siblings
    from coordinator.replication.report import Report
    from coordinator.shards.driver import Driver
    from coordinator.shards.replica_status import ReplicaStatuses


class Scrape:
    """What one node tells: its coordinators, its replicas, and how their processes are."""

    def __init__(
        self,
        cluster: ClusterConfig,
        node: str,
        topology: Topology,
        driver: Driver,
        statuses: ReplicaStatuses,
        siblings: Siblings,
    ) -> None:
        self._cluster = cluster
        self._node = node
        self._topology = topology
        self._driver = driver
        self._statuses = statuses
        self._siblings = siblings

    @property
    def pages(self) -> dict[tuple[str, str], http_pages.Page]:
        """By method and path."""
        return {
            ("GET", "/metrics"): page(self._gather),
            ("GET", "/metrics/figures"): self._figures,
            ("GET", "/metrics/processes"): self._processes,
            ("GET", "/metrics/replicas"): self._replicas,
        }

    # Programs that look every second are spared the text.

    async def _figures(self, _request: http_pages.Request) -> http_pages.Response:
        """What the coordinators have counted, as NodeFigures."""
        return _protobuf(figures.NodeFigures(coordinators=await self._siblings.ask()))

    async def _processes(self, _request: http_pages.Request) -> http_pages.Response:
        """How the node's processes are, as NodeProcesses."""
        try:
            reports = await ask_supervisor(self._cluster.control_socket(self._node))
        except SupervisorSilent as error:
            body = f"the supervisor does not answer: {error}\n".encode()
            return http_pages.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, body=body)
        return _protobuf(node_processes(self._cluster.cluster, self._node, reports))

    async def _replicas(self, _request: http_pages.Request) -> http_pages.Response:
        """How the node's replicas are, as NodeReplicas."""
        statuses = await self._ask_replicas()
        memberships = self._driver.memberships
        return _protobuf(node_replicas(self._cluster, self._node, memberships, statuses.values()))

    async def _ask_replicas(self) -> Statuses:
        here = NodeId(self._cluster.node(self._node).id)
        return await self._statuses.on(here, self._topology.shards_on(here))

    async def _gather(self) -> Callable[[], Families]:
        statuses, coordinators, replication = await asyncio.gather(
            self._ask_replicas(),
            self._siblings.ask(),
            self._ask_replication(),
        )
        return lambda: self._families(statuses, coordinators, replication)

    async def _ask_replication(self) -> Report | None:
        """How replication goes; None if this cluster follows no other, or nobody knows."""
        return None if self._cluster.follows is None else await report.read(self._driver)

    def _families(
        self, statuses: Statuses, coordinators: list[figures.CoordinatorFigures], replication: Report | None
    ) -> Families:
        pids = {"supervisor": os.getppid()} | {each.process: each.pid for each in coordinators}
        for shard, status in statuses.items():
            if status is not None:
                pids[ProcessName.replica(self._node, shard).local] = status.pid
        return itertools.chain(
            replica_families(statuses, self._member),
            call_families(coordinators),
            coordinator_families(coordinators),
            watch_families(coordinators),
            replication_families(replication, self._node),
            process_families(pids),
            self._versions(),
        )

    def _member(self, node: int) -> str:
        return f"{self._driver.memberships.member_id(node):x}"

    def _versions(self) -> Families:
        member = self._member(self._cluster.node(self._node).id)
        build = importlib.metadata.version("boathouse")
        yield gauge("boathouse_build_info", "This build.", ["version"], [([build], 1)])
        yield gauge("etcd_server_id", "This node, as etcd's API names it.", ["server_id"], [([member], 1)])
        yield gauge(
            "etcd_server_version", "What etcd's clients take it for.", ["server_version"], [([VERSION], 1)]
        )
        yield gauge(
            "etcd_cluster_version",
            "What etcd's clients take the cluster for.",
            ["cluster_version"],
            [([CLUSTER_VERSION], 1)],
        )


def _protobuf(message: Message) -> http_pages.Response:
    return http_pages.Response(
        headers=(("Content-Type", "application/x-protobuf"),), body=message.SerializeToString()
    )
