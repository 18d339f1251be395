"""What a node tells operators' programs on other hosts: its processes, by its supervisor's word, and its replicas."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from config.process.report import ProcessReport
from coordinator.metrics.processes import find_process
from proto.internal import figures_pb2 as figures

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from config import ClusterConfig
    from coordinator.shards.memberships import Memberships
    from proto.internal import frames_pb2 as frames

ANSWER_TIMEOUT_S: Final = 1.0
ANSWER_BYTES_MAX: Final = 4 << 20


class SupervisorSilent(Exception):
    """The node's supervisor does not answer."""


async def ask_supervisor(socket: Path) -> list[ProcessReport]:
    """How the processes of the node are. Raises SupervisorSilent."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(socket, limit=ANSWER_BYTES_MAX)
            try:
                writer.write(b'{"op": "status"}\n')
                answer = json.loads(await reader.readline())
                return [ProcessReport.from_json(report) for report in answer["processes"]]
            finally:
                writer.close()
    except (OSError, TimeoutError, KeyError, TypeError, ValueError) as error:
        raise SupervisorSilent(str(error)) from None


def node_processes(cluster: str, node: str, reports: Iterable[ProcessReport]) -> figures.NodeProcesses:
    """With what the operating system knows of them. cluster: its name."""
    told = figures.NodeProcesses(cluster=cluster, node=node, read_at_s=time.monotonic())
    for report in reports:
        process = told.processes.add(
            kind=report.name.kind.module,
            number=report.name.number,
            state=str(report.state),
            pid=report.pid or 0,
            restarts=report.restarts,
            reason=report.reason,
            started_at=report.started_at or 0.0,
        )
        found = None if report.pid is None else find_process(report.pid)
        if found is not None:
            process.cpu_s = found["cpu_times"].user + found["cpu_times"].system
            process.rss_bytes = found["memory_info"].rss
    return told


def node_replicas(
    cluster: ClusterConfig,
    node: str,
    memberships: Memberships,
    statuses: Iterable[frames.ReplicaStatus | None],
) -> figures.NodeReplicas:
    """Those that answered, and what it takes to know who they speak of."""
    members = sorted(memberships.members(), key=lambda member: member.node)
    return figures.NodeReplicas(
        cluster=cluster.cluster,
        node=node,
        members=[
            figures.MemberFigures(
                node=member.node,
                name=member.name or f"node-{member.node}",
                endpoint=urlsplit(member.client_urls[0]).netloc if member.client_urls else "",
            )
            for member in members
        ],
        shards=cluster.shards,
        follows="" if cluster.follows is None else str(cluster.follows),
        replicas_wanted=min(cluster.replicas, len(members)),
        replicas=[status for status in statuses if status is not None],
        measures=figures.Measures(
            tick_ms=cluster.raft.tick_ms,
            pending_requests_max=cluster.limits.pending_requests_max,
            cursor_wal_bytes_max=cluster.limits.cursor_wal_bytes_max,
        ),
    )
