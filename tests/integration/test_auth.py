"""Users of a table in a real cluster: the same through every node, and after a leader is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proto.etcd import rpc_pb2 as etcd
from tests.integration.cluster import Cluster
from tests.stubs import stub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Node:
    """One node, as a client that may have a token."""

    def __init__(self, endpoint: str) -> None:
        self.channel = grpc.insecure_channel(endpoint)
        self.auth = stub(self.channel, etcd, "Auth")
        self._kv = stub(self.channel, etcd, "KV")

    def set_up(self, *users: str) -> None:
        """Users who hold the role root, the first of them being root, and authentication on."""
        for name in users:
            self.auth.UserAdd(etcd.AuthUserAddRequest(name=name, password=f"{name}'s"))
            self.auth.UserGrantRole(etcd.AuthUserGrantRoleRequest(user=name, role="root"))
        self.auth.AuthEnable(etcd.AuthEnableRequest())

    def log_in(self, name: str) -> str:
        return str(self.auth.Authenticate(etcd.AuthenticateRequest(name=name, password=f"{name}'s")).token)

    def tried(self, token: str, *, serializable: bool = False) -> str:
        """The code that a read is answered with, or a write and a read."""
        options: dict[str, Any] = {"timeout": 20, "metadata": (("token", token),) if token else ()}
        try:
            if not serializable:
                self._kv.Put(etcd.PutRequest(key=b"k", value=b"v"), **options)
            self._kv.Range(etcd.RangeRequest(key=b"k", serializable=serializable), **options)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def tried_to_add_a_member(self, token: str, table: str) -> str:
        """What that is refused with, if only because of its URL, which is looked at last."""
        request = etcd.MemberAddRequest(peerURLs=["http://my~host:7101"], isLearner=True)
        metadata = (("table", table), *([("token", token)] if token else ()))
        with pytest.raises(grpc.RpcError) as refused:
            stub(self.channel, etcd, "Cluster").MemberAdd(request, timeout=20, metadata=metadata)
        return str(refused.value.details()).removeprefix("etcdserver: ")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Cluster, list[Node]]]:
    with Cluster(tmp_path, nodes=3, shards=1, replicas=3, tables={"default": {}}) as cluster:
        cluster.wait_leaders()
        nodes = [Node(cluster.endpoint(name)) for name in ("n1", "n2", "n3")]
        yield cluster, nodes
        for node in nodes:
            node.channel.close()


def test_a_token_is_good_through_every_node_and_under_every_leader(
    nodes: tuple[Cluster, list[Node]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, (first, *_) = nodes
    everywhere = nodes[1]
    first.set_up("root", "u")
    # At once, through nodes whose replica may not have heard of it, and whatever table he names.
    for node in everywhere:
        for table in ("default", "_catalog"):
            assert node.tried_to_add_a_member("", table) == "user name is empty"
    token = first.log_in("u")
    assert first.tried_to_add_a_member(token, "default") == "given member URLs are invalid"
    assert first.tried_to_add_a_member(token, "_catalog") == "given member URLs are invalid"
    # At once, also where the nearest replica may not have heard of it yet.
    assert [node.tried(token, serializable=True) for node in everywhere] == ["OK"] * 3
    assert [node.tried(token) for node in everywhere] == ["OK"] * 3
    assert b"user name is empty" in cluster.cli("kv", "get", "k", "-e", cluster.endpoint("n1")).stderr
    monkeypatch.setenv("BOATHOUSE_TOKEN", token)
    assert cluster.cli("kv", "get", "k", "-e", cluster.endpoint("n1")).returncode == 0
    cluster.kill(cluster.leader(1))
    assert [node.tried(token) for node in everywhere] == ["OK"] * 3
    assert [node.tried("") for node in everywhere] == ["INVALID_ARGUMENT"] * 3
    root = everywhere[1].log_in("root")
    everywhere[2].auth.UserDelete(etcd.AuthUserDeleteRequest(name="u"), metadata=(("token", root),))
    assert [node.tried(token) for node in everywhere] == ["UNAUTHENTICATED"] * 3
    logs = "".join(path.read_text() for path in cluster.folder.rglob("*.log*"))
    assert logs
    assert not [secret for secret in (token, root, "u's", "root's", "$2b$") if secret in logs]


def test_signed_tokens_need_no_memory_and_end_with_any_change(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    key.chmod(0o600)
    settings = {"auth": {"jwt": {"sign_method": "ES256", "private_key": str(key)}}}
    tables: dict[str, dict[str, Any]] = {"default": {}, "other": {}}
    with Cluster(tmp_path, nodes=1, shards=1, replicas=1, tables=tables, settings=settings) as cluster:
        cluster.wait_leaders()
        node = Node(cluster.endpoint("n1"))
        node.set_up("root", "u")
        token = node.log_in("u")
        assert token.count(".") == 2
        assert node.tried(token) == "OK"
        assert node.tried(token + "x") == "UNAUTHENTICATED"
        root = (("token", node.log_in("root")),)
        node.auth.RoleAdd(etcd.AuthRoleAddRequest(name="r"), metadata=root)
        assert node.tried(token) == "INVALID_ARGUMENT"  # its revision is old
        assert node.tried(node.log_in("u")) == "OK"
        node.channel.close()
