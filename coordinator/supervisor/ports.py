"""Are the node's ports free? Asked before anything starts, so that the answer is one line and not a restart
loop."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from coordinator.supervisor.refusal import StartRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from config import ClusterConfig


def check_ports(cluster: ClusterConfig, node: str) -> None:
    """Raises StartRefused if a port of the node is taken or its host is not of this machine."""
    host = cluster.node(node).host
    for port, key in _ports(cluster, node):
        reason = _why_not(host, port)
        if reason:
            raise StartRefused(f"{host}:{port} (nodes.{node}.{key}) {reason}")


def _ports(cluster: ClusterConfig, node: str) -> Iterator[tuple[int, str]]:
    config = cluster.node(node)
    yield config.client_port, "client_port"
    yield config.http_port, "http_port"
    for shard in cluster.shards_of(node):
        yield config.peer_port + shard - 1, "peer_port"


def _why_not(host: str, port: int) -> str:
    """Why nothing can listen there; "" if it can.

    SO_REUSEADDR, so that connections of an earlier run which are winding down don't count; a living listener
    does."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except socket.gaierror as error:
        return f"has no address: {error.strerror}"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"is already in use{_by_whom(port)}; stop that, or choose another port"
        if error.errno == errno.EADDRNOTAVAIL:
            return "is no address of this machine; start this node where it is"
        return f"can't be used: {error.strerror}"
    return ""


def _by_whom(port: int) -> str:
    """` by process N (name)`, if the system tells us."""
    import psutil  # only on the way to a refusal; a start does without it

    try:
        for connection in psutil.net_connections(kind="tcp"):
            here = connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", 0) == port
            if here and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        pass
    return ""
