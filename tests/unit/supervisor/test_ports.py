"""A taken port is one clear line before anything starts."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from config.loading import parse
from coordinator.supervisor.ports import check_ports
from coordinator.supervisor.refusal import StartRefused
from tests.waiting import free_ports

if TYPE_CHECKING:
    from config import ClusterConfig


def _cluster(host: str = "127.0.0.1") -> tuple[ClusterConfig, dict[str, int]]:
    client_port, http_port = free_ports(2)
    peer_port = free_ports(2, contiguous=True)[0]
    node = f"{{host: '{host}', client_port: {client_port}, http_port: {http_port}, peer_port: {peer_port}}}"
    cluster = parse(f"nodes: {{n1: {node}}}\nshards: 2\n", "f")
    return cluster, {"client_port": client_port, "http_port": http_port, "peer_port": peer_port + 1}


def test_free_ports_are_fine() -> None:
    check_ports(_cluster()[0], "n1")


@pytest.mark.parametrize("which", ["client_port", "http_port", "peer_port"])
def test_a_taken_port_names_key_and_holder(which: str) -> None:
    cluster, ports = _cluster()
    port = ports[which]
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StartRefused) as caught:
        check_ports(cluster, "n1")
    text = str(caught.value)
    assert text.startswith(
        f"127.0.0.1:{port} (nodes.n1.{which}) is already in use by process {os.getpid()} ("
    )
    assert text.endswith("; stop that, or choose another port")


def test_a_port_shared_by_reuse_still_counts_as_taken() -> None:
    cluster, ports = _cluster()
    with (
        socket.create_server(("127.0.0.1", ports["client_port"]), reuse_port=True),
        pytest.raises(StartRefused),
    ):
        check_ports(cluster, "n1")


def test_an_address_of_another_machine() -> None:
    cluster, ports = _cluster("203.0.113.7")
    with pytest.raises(StartRefused) as caught:
        check_ports(cluster, "n1")
    where = f"203.0.113.7:{ports['client_port']} (nodes.n1.client_port)"
    assert str(caught.value) == f"{where} is no address of this machine; start this node where it is"
