"""Which sockets clients of a node find, and what a file may not say of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.loading import parse
from config.models import ClusterConfig
from config.problems import ConfigError
from config.process.listeners import client_listeners

NODES = """
nodes:
  n1: {client_port: 2379, http_port: 8079, peer_port: 7101, client_socket: /run/b/n1, client_socket_mode: "0660"}
  n2: {client_port: 2389, http_port: 8089, peer_port: 7201}
"""


def test_a_table_may_have_a_port_and_a_socket_of_its_own() -> None:
    cluster = parse(
        NODES
        + """
tables:
  default: {}
  users: {client_port: {n1: 2479, n2: 2489}, client_socket: {n1: /run/b/users}}
""",
        "f",
    )
    again = ClusterConfig.model_validate_json(cluster.model_dump_json())
    assert again == cluster, "children read what their supervisor has read"
    assert [(at.key, at.port, at.path, at.table) for at in client_listeners(again, "n1")] == [
        ("nodes.n1.client_port", 2379, None, None),
        ("nodes.n1.http_port", 8079, None, None),
        ("nodes.n1.client_socket", 0, Path("/run/b/n1"), None),
        ("tables.users.client_port", 2479, None, "users"),
        ("tables.users.client_socket", 0, Path("/run/b/users"), "users"),
    ]
    assert [at.port for at in client_listeners(again, "n2")] == [2389, 8089, 2489]
    assert len({at.name for at in client_listeners(again, "n1")}) == 5
    assert (again.node("n1").client_socket_mode, again.node("n2").client_socket_mode) == ("0660", "0600")


def test_one_port_serves_for_nodes_of_several_hosts() -> None:
    cluster = parse(
        "nodes: {n1: {host: 10.0.0.1}, n2: {host: 10.0.0.2}}\n"
        "tables: {users: {client_port: 2479, client_socket: /run/b/users}}\n",
        "f",
    )
    for node in ("n1", "n2"):
        assert [at.port for at in client_listeners(cluster, node)] == [2379, 8079, 2479, 0]


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        (
            "users: {client_port: 2479}",
            "several nodes of one host would use 2479; give each its own, by node",
        ),
        ("users: {client_port: {n1: 2379}}", "2379 is already used by nodes.n1.client_port; choose another"),
        ("users: {client_port: {n3: 2479}}", "there is no node n3; this cluster has n1, n2"),
        ("users: {client_socket: {n3: /x}}", "there is no node n3; this cluster has n1, n2"),
        ("users: {client_socket: /run/b/u}", "several nodes of one host would use /run/b/u"),
        ("users: {client_socket: {n1: /run/b/n1}}", "/run/b/n1 is already used by nodes.n1.client_socket"),
        (
            "users: {client_socket: {n1: /%s}}" % ("x" * 107),
            "is longer than the 107 bytes of a unix socket's",
        ),
        ("users: {client_port: many}", "must be a port, or ports by node as in {n1: 2479}"),
        ("users: {client_port: {n1: 0}}", "must be a port, or ports by node as in {n1: 2479}"),
        ("users: {client_port: {}}", "must be a port, or ports by node as in {n1: 2479}"),
        ("users: {client_socket: 7}", "must be a path, or paths by node"),
        ("users: {type: global}", "'replicated' or 'local'"),
    ],
)
def test_what_can_not_be_is_said_by_name(tables: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"{NODES}tables:\n  {tables}\n", "f")
    assert problem in str(caught.value)


@pytest.mark.parametrize("mode", ["'0777'", "'0644'", "7", "true", "rw"])
def test_a_socket_is_open_to_the_user_or_the_group(mode: str) -> None:
    with pytest.raises(ConfigError, match="'0600' or '0660'"):
        parse(f"nodes: {{n1: {{client_socket: /x, client_socket_mode: {mode}}}}}\n", "f")
