"""Where the clients of a node are listened to, and which table a connection there means unless a call says otherwise.

The supervisor binds these sockets and its coordinators accept from them; the names are what the two agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from config.models import ClusterConfig

CLIENT_PORT: Final = "client"
CLIENT_SOCKET: Final = "client-socket"
HTTP_PORT: Final = "http"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientListener:
    """One listening socket."""

    name: str
    """Its name in ProcessSpec.sockets."""
    key: str
    """What asks for it in the cluster file."""
    port: int = 0
    """On the node's host; 0 for a unix socket."""
    path: Path | None = None
    """Of a unix socket."""
    table: str | None = None
    """None: the default one."""
    only_http1: bool = False


def client_listeners(cluster: ClusterConfig, node: str) -> tuple[ClientListener, ...]:
    """All of a node."""
    return tuple(_listeners(cluster, node))


def _listeners(cluster: ClusterConfig, node: str) -> Iterator[ClientListener]:
    config = cluster.node(node)
    yield ClientListener(name=CLIENT_PORT, key=f"nodes.{node}.client_port", port=config.client_port)
    yield ClientListener(
        name=HTTP_PORT, key=f"nodes.{node}.http_port", port=config.http_port, only_http1=True
    )
    if config.client_socket is not None:
        yield ClientListener(name=CLIENT_SOCKET, key=f"nodes.{node}.client_socket", path=config.client_socket)
    for name, table in cluster.tables.items():
        key = f"tables.{name}"
        port, path = table.port_on(node), table.socket_on(node)
        if port is not None:
            yield ClientListener(name=f"port of {name}", key=f"{key}.client_port", port=port, table=name)
        if path is not None:
            yield ClientListener(name=f"socket of {name}", key=f"{key}.client_socket", path=path, table=name)
