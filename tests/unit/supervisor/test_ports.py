"""The sockets a supervisor owns: taken ports are one clear line, and nobody is refused while somebody will accept."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from config.loading import parse
from coordinator.supervisor.ports import NodeSockets
from coordinator.supervisor.refusal import StartRefused
from tests.waiting import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from config import ClusterConfig


def _cluster(host: str = "127.0.0.1") -> tuple[ClusterConfig, dict[str, int]]:
    client_port, http_port = free_ports(2)
    peer_port = free_ports(2, contiguous=True)[0]
    node = f"{{host: '{host}', client_port: {client_port}, http_port: {http_port}, peer_port: {peer_port}}}"
    cluster = parse(f"nodes: {{n1: {node}}}\nshards: 2\n", "f")
    return cluster, {"client_port": client_port, "http_port": http_port, "peer_port": peer_port + 1}


@pytest.fixture(name="bound")
def _bound() -> Iterator[tuple[NodeSockets, int]]:
    """The sockets, and the client port."""
    cluster, ports = _cluster()
    sockets = NodeSockets.bind(cluster, "n1")
    yield sockets, ports["client_port"]
    sockets.close()


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.parametrize("which", ["client_port", "http_port", "peer_port"])
def test_a_taken_port_names_key_and_holder(which: str) -> None:
    cluster, ports = _cluster()
    port = ports[which]
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StartRefused) as caught:
        NodeSockets.bind(cluster, "n1")
    text = str(caught.value)
    assert text.startswith(
        f"127.0.0.1:{port} (nodes.n1.{which}) is already in use by process {os.getpid()} ("
    )
    assert text.endswith("; stop that, or choose another port")
    NodeSockets.bind(cluster, "n1").close()  # a refused start has left nothing bound


def test_a_port_shared_by_reuse_still_counts_as_taken() -> None:
    cluster, ports = _cluster()
    with (
        socket.create_server(("127.0.0.1", ports["client_port"]), reuse_port=True),
        pytest.raises(StartRefused),
    ):
        NodeSockets.bind(cluster, "n1")


def test_an_address_of_another_machine() -> None:
    cluster, ports = _cluster("203.0.113.7")
    with pytest.raises(StartRefused) as caught:
        NodeSockets.bind(cluster, "n1")
    where = f"203.0.113.7:{ports['client_port']} (nodes.n1.client_port)"
    assert str(caught.value) == f"{where} is no address of this machine; start this node where it is"


def test_localhost_is_the_address_that_workers_take_it_for() -> None:
    cluster, ports = _cluster("localhost")
    sockets = NodeSockets.bind(cluster, "n1")
    sockets.listen()
    _connect(ports["client_port"]).close()
    sockets.close()


def test_connections_wait_while_nobody_accepts(bound: tuple[NodeSockets, int]) -> None:
    sockets, port = bound
    with pytest.raises(ConnectionRefusedError):
        _connect(port)
    sockets.listen()
    with _connect(port) as client, socket.socket(fileno=os.dup(sockets.descriptors["client"])) as heir:
        accepted, _ = heir.accept()
        with accepted:
            accepted.sendall(b"hello")
            assert client.recv(5) == b"hello"


def test_who_waits_is_refused_once_nobody_will_come_and_taken_again_later(
    bound: tuple[NodeSockets, int],
) -> None:
    sockets, port = bound
    before = sockets.descriptors
    sockets.listen()
    with _connect(port) as waiting:
        sockets.refuse()
        with pytest.raises(ConnectionResetError):
            waiting.recv(1)
    with pytest.raises(ConnectionRefusedError):
        _connect(port)
    sockets.listen()
    _connect(port).close()
    assert sockets.descriptors == before


def test_a_port_that_was_lost_while_it_refused_is_named(bound: tuple[NodeSockets, int]) -> None:
    sockets, port = bound
    sockets.listen()
    sockets.refuse()
    thief = socket.socket()
    thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with thief:
        thief.bind(("127.0.0.1", port))
        thief.listen()
        with pytest.raises(
            StartRefused, match=rf"127.0.0.1:{port} \(nodes.n1.client_port\) is already in use"
        ):
            sockets.listen()
    sockets.listen()
    _connect(port).close()


def test_sockets_are_inherited_only_by_those_who_are_given_them(bound: tuple[NodeSockets, int]) -> None:
    sockets, _ = bound
    sockets.listen()
    sockets.refuse()
    assert not any(os.get_inheritable(descriptor) for descriptor in sockets.descriptors.values())


def _with_socket(folder: Path, mode: str = "0600") -> tuple[ClusterConfig, Path]:
    client_port, http_port, table_port = free_ports(3)
    path = folder / "users.sock"
    cluster = parse(
        f"nodes: {{n1: {{client_port: {client_port}, http_port: {http_port}, peer_port: {free_ports(1)[0]},"
        f" client_socket_mode: '{mode}'}}}}\n"
        f"shards: 1\ntables: {{users: {{client_port: {table_port}, client_socket: {path}}}}}\n",
        "f",
    )
    return cluster, path


def _dial(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(5)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


@pytest.mark.parametrize("mode", ["0600", "0660"])
def test_a_unix_socket_listens_refuses_and_goes(tmp_path: Path, mode: str) -> None:
    cluster, path = _with_socket(tmp_path, mode)
    sockets = NodeSockets.bind(cluster, "n1")
    assert set(sockets.descriptors) == {"client", "http", "port of users", "socket of users"}
    descriptor = sockets.descriptors["socket of users"]
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            _dial(path)
        sockets.listen()
        assert stat.S_IMODE(path.lstat().st_mode) == int(mode, 8)
        _dial(path).close()
        sockets.refuse()
    assert sockets.descriptors["socket of users"] == descriptor
    sockets.close()
    assert not path.exists()


def test_what_an_earlier_run_left_behind_is_no_obstacle(tmp_path: Path) -> None:
    cluster, path = _with_socket(tmp_path)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    NodeSockets.bind(cluster, "n1").close()


def test_the_path_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    cluster, path = _with_socket(tmp_path)
    with socket.create_server(str(path), family=socket.AF_UNIX):
        with pytest.raises(
            StartRefused, match=r"\(tables.users.client_socket\) is already in use; stop that"
        ):
            NodeSockets.bind(cluster, "n1")
        _dial(path).close()
    path.unlink()
    path.write_text("precious")
    with pytest.raises(StartRefused, match="is a file already, and no socket; remove it"):
        NodeSockets.bind(cluster, "n1")
    assert path.read_text() == "precious"


def test_a_socket_needs_its_folder(tmp_path: Path) -> None:
    cluster, _ = _with_socket(tmp_path / "none")
    with pytest.raises(StartRefused, match="lies in a folder that does not exist; make it"):
        NodeSockets.bind(cluster, "n1")


def test_a_socket_that_has_been_replaced_is_not_ours_to_remove(tmp_path: Path) -> None:
    cluster, path = _with_socket(tmp_path)
    sockets = NodeSockets.bind(cluster, "n1")
    path.unlink()
    with socket.create_server(str(path), family=socket.AF_UNIX):
        sockets.close()
        _dial(path).close()
