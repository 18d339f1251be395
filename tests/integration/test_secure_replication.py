"""A follower cluster that reaches its leader cluster over TLS, with a certificate and a token of its own."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest

from config.process.names import ProcessName
from proto.etcd import auth_pb2
from proto.etcd import rpc_pb2 as etcd
from tests.integration.cluster import Cluster, run_cli
from tests.integration.test_replication import wait_level
from tests.stubs import stub
from tests.waiting import wait_until
from tools.admin.certificates import CertificateFiles, make_set

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN: Final = "a-token-of-the-island-0123"


@dataclass
class Pair:
    """Both clusters, and what they know each other by."""

    leader: Cluster
    follower: Cluster
    leader_certs: CertificateFiles
    follower_certs: CertificateFiles
    shown: Path
    """The follower's token."""
    known: Path
    """The leader's tokens."""

    def channel(self, cluster: Cluster, node: str = "n1") -> grpc.Channel:
        """Of a client of either cluster."""
        certs = self.leader_certs if cluster is self.leader else self.follower_certs
        files = (certs.ca, certs.client_key, certs.client)
        credentials = grpc.ssl_channel_credentials(*(path.read_bytes() for path in files))
        name = "harbour.example" if cluster is self.leader else "127.0.0.1"
        options = [("grpc.ssl_target_name_override", name)]
        return grpc.secure_channel(cluster.endpoint(node), credentials, options=options)

    def put(self, cluster: Cluster, key: bytes, value: bytes, node: str = "n1") -> int:
        with self.channel(cluster, node) as channel:
            kv: Any = stub(channel, etcd, "KV")
            put = etcd.PutRequest(key=key, value=value)
            return int(kv.Put(put, timeout=10, wait_for_ready=True).header.revision)

    def log(self) -> str:
        """What the replicators have said."""
        return "".join(
            (self.follower.config.node_dir(node) / "logs" / "replicator.log").read_text()
            for node in self.follower.config.nodes
        )


def secret(path: Path, text: str) -> Path:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def tls_of(certs: CertificateFiles) -> dict[str, Any]:
    return {
        "cert": str(certs.server),
        "key": str(certs.server_key),
        "ca": str(certs.ca),
        "client_cert_auth": True,
    }


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    leader_certs = make_set(tmp_path / "leader-certs", ["harbour.example"], "island")
    follower_certs = make_set(tmp_path / "follower-certs", ["127.0.0.1"], "app")
    known, shown = secret(tmp_path / "known", TOKEN), secret(tmp_path / "shown", TOKEN)
    (tmp_path / "leader").mkdir()
    (tmp_path / "follower").mkdir()
    keys = tmp_path / "keys"
    with contextlib.ExitStack() as stack:
        leader = stack.enter_context(
            Cluster(
                tmp_path / "leader",
                nodes=1,
                settings={
                    "cluster": "harbour",
                    "tls": {"client": tls_of(leader_certs)},
                    "replication": {"token_file": str(known)},
                },
            )
        )
        follower = Cluster(
            tmp_path / "follower",
            nodes=2,
            replicas=1,
            tables={},
            settings={
                "cluster": "island",
                "tls": {"client": tls_of(follower_certs), "peer": {"keys": str(keys)}},
                "follows": {
                    "cluster": "harbour",
                    "endpoints": list(leader.endpoints),
                    "tls": {
                        "ca": str(leader_certs.ca),
                        "cert": str(leader_certs.client),
                        "key": str(leader_certs.client_key),
                        "server_name": "harbour.example",
                    },
                    "token_file": str(shown),
                },
            },
        )
        done = run_cli("keygen", BOATHOUSE_FILE=str(follower.file))
        assert done.returncode == 0, done.stderr.decode()
        stack.enter_context(follower)
        yield Pair(leader, follower, leader_certs, follower_certs, shown, known)


def denied(kv: Any) -> bool:
    """Whether a read is, for who shows nothing but his certificate."""
    try:
        kv.Range(etcd.RangeRequest(key=b"here"), timeout=10)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.PERMISSION_DENIED
    return False


def check_users(pair: Pair) -> None:
    """They are made in the leader cluster, and hold in the follower cluster: for reads, watches and what it passes
    on."""
    with pair.channel(pair.leader) as channel:
        auth: Any = stub(channel, etcd, "Auth")
        auth.UserAdd(etcd.AuthUserAddRequest(name="root", password="r"), timeout=10)
        auth.UserGrantRole(etcd.AuthUserGrantRoleRequest(user="root", role="root"), timeout=10)
        auth.UserAdd(etcd.AuthUserAddRequest(name="app", password="a"), timeout=10)
        auth.RoleAdd(etcd.AuthRoleAddRequest(name="writer"), timeout=10)
        may = auth_pb2.Permission(permType=auth_pb2.Permission.READWRITE, key=b"app/", range_end=b"app0")
        auth.RoleGrantPermission(etcd.AuthRoleGrantPermissionRequest(name="writer", perm=may), timeout=10)
        auth.UserGrantRole(etcd.AuthUserGrantRoleRequest(user="app", role="writer"), timeout=10)
        auth.AuthEnable(etcd.AuthEnableRequest(), timeout=10)
    with pair.channel(pair.follower, "n2") as channel:
        auth, kv = stub(channel, etcd, "Auth"), stub(channel, etcd, "KV")
        # This client's certificate makes him the user app.
        wait_until(lambda: denied(kv), timeout_s=10, what="the users to be copied")
        token = auth.Authenticate(etcd.AuthenticateRequest(name="app", password="a"), timeout=10).token
        app = [("token", token)]
        written = kv.Put(etcd.PutRequest(key=b"app/k", value=b"v"), metadata=app, timeout=10)
        (found,) = kv.Range(etcd.RangeRequest(key=b"app/k"), metadata=app, timeout=10).kvs
        assert found.mod_revision == written.header.revision
        with pytest.raises(grpc.RpcError, match="permission denied"):
            kv.Range(etcd.RangeRequest(key=b"here"), metadata=app, timeout=10)
        with pytest.raises(grpc.RpcError, match="permission denied"):
            kv.Put(etcd.PutRequest(key=b"here"), metadata=app, timeout=10)
        root = auth.Authenticate(etcd.AuthenticateRequest(name="root", password="r"), timeout=10).token
        with pytest.raises(grpc.RpcError, match="write to cluster harbour"):
            auth.UserAdd(etcd.AuthUserAddRequest(name="x"), metadata=[("token", root)], timeout=10)
    with pair.channel(pair.leader) as channel:
        auth = stub(channel, etcd, "Auth")
        root = auth.Authenticate(etcd.AuthenticateRequest(name="root", password="r"), timeout=10).token
        auth.AuthDisable(etcd.AuthDisableRequest(), metadata=[("token", root)], timeout=10)
    with pair.channel(pair.follower, "n1") as channel:
        kv = stub(channel, etcd, "KV")
        wait_until(
            lambda: kv.Range(etcd.RangeRequest(key=b"here"), timeout=10).kvs,
            timeout_s=10,
            what="the users to be off again",
            not_yet=(grpc.RpcError,),
        )


def test_a_follower_cluster_copies_and_forwards_over_tls(pair: Pair) -> None:
    leader, follower = pair.leader, pair.follower
    pair.put(leader, b"there", b"1")
    wait_level(leader, follower)
    for node in follower.config.nodes:
        revision = pair.put(follower, b"here", node.encode(), node)
        with pair.channel(follower, node) as channel:
            kv: Any = stub(channel, etcd, "KV")
            (found,) = kv.Range(etcd.RangeRequest(key=b"here", serializable=True), timeout=10).kvs
        assert (found.value, found.mod_revision) == (node.encode(), revision)

    check_users(pair)

    # A token that the leader cluster does not know ends it, in words; a renewed one goes on, without a restart.
    secret(pair.known, "another-token-of-somebody")
    wait_until(lambda: "replication needs a token" in pair.log(), timeout_s=20, what="the refusal")
    secret(pair.shown, "another-token-of-somebody")
    pair.put(leader, b"there", b"2")
    wait_level(leader, follower)

    # Certificates of a new authority on both sides, without a restart either.
    renewed = make_set(follower.folder / "renewed", ["harbour.example"], "island")
    for new, old in (
        (renewed.ca, pair.leader_certs.ca),
        (renewed.server_key, pair.leader_certs.server_key),
        (renewed.server, pair.leader_certs.server),
        (renewed.client_key, pair.leader_certs.client_key),
        (renewed.client, pair.leader_certs.client),
    ):
        new.replace(old)
    for node in follower.config.nodes:
        # Who is connected already need not show the new certificate.
        coordinator = ProcessName.coordinator("n1")
        leader.wait_restarted(coordinator, leader.kill(coordinator))
        pair.put(follower, b"renewed", node.encode(), node)
    wait_level(leader, follower)

    seen = [*follower.config.data_dir.glob("*/logs/*.log"), *leader.config.data_dir.glob("*/logs/*.log")]
    assert not [path for path in seen if TOKEN in path.read_text()]
