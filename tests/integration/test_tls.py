"""Three nodes with TLS for clients and keys between nodes: everybody who may gets in, by every way, and nobody else."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import zmq
from cryptography import x509
from cryptography.x509.oid import NameOID

from config.process.names import ProcessName
from config.tls_files import peer_keys
from proto.internal import frames_pb2 as frames
from proto.internal import sockets, wire
from tests.integration.cluster import Cluster, run_cli
from tests.waiting import wait_until
from tools.admin.certificates import CertificateFiles
from tools.admin.cluster_source import ClusterSource
from tools.admin.reach import Reach
from tools.bench.systems import etcd_program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proto.internal.curve import PeerKeys

ANSWER_MS: Final = 5_000
SILENCE_MS: Final = 1_000


class SecureCluster(Cluster):
    """Its certificates and keys are made by the commands that an operator has."""

    def __init__(self, folder: Path, *, shards: int = 1) -> None:
        self.certs = CertificateFiles.in_folder(folder / "certs")
        self.keys = folder / "keys"
        tls = {
            "client": {
                "cert": str(self.certs.server),
                "key": str(self.certs.server_key),
                "ca": str(self.certs.ca),
                "client_cert_auth": True,
            },
            "peer": {"keys": str(self.keys)},
        }
        super().__init__(folder, nodes=3, shards=shards, separate=True, settings={"tls": tls})
        for command in (("tls", "init", "--dir", str(folder / "certs")), ("keygen",)):
            done = run_cli(*command, BOATHOUSE_FILE=str(self.file))
            assert done.returncode == 0, done.stderr.decode()

    def etcdctl(self, *words: str, node: str = "n1", with_certificate: bool = True) -> list[str]:
        """The command line of etcdctl for one node."""
        files = {"--cacert": self.certs.ca}
        if with_certificate:
            files |= {"--cert": self.certs.client, "--key": self.certs.client_key}
        options = [part for name, path in files.items() for part in (name, str(path))]
        return [str(etcd_program("etcdctl")), "--endpoints", self.endpoint(node), *options, *words]

    def said(self, *words: str, node: str = "n1") -> str:
        """What etcdctl answers; it has to succeed."""
        done = subprocess.run(self.etcdctl(*words, node=node), capture_output=True, timeout=30, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr.decode()}\n{self.describe()}"
        return done.stdout.decode()

    def client_context(self) -> ssl.SSLContext:
        """Of a client that has a certificate."""
        context = ssl.create_default_context(cafile=self.certs.ca)
        context.load_cert_chain(self.certs.client, self.certs.client_key)
        return context

    @property
    def secrets(self) -> list[bytes]:
        """A line of every secret file that nobody but its reader may ever see."""
        names = [*self.keys.glob("*.secret"), *self.certs.ca.parent.glob("*-key.pem")]
        assert len(names) == 6
        return [
            next(line for line in path.read_bytes().splitlines() if b"-----" not in line) for path in names
        ]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureCluster]:
    with SecureCluster(tmp_path_factory.mktemp("tls")) as running:
        running.wait_leaders()
        yield running


@pytest.fixture
def as_client(cluster: SecureCluster, monkeypatch: pytest.MonkeyPatch) -> SecureCluster:
    """The cluster, for commands of ours that find the client's certificate in their environment."""
    for name, path in (
        ("CACERT", cluster.certs.ca),
        ("CERT", cluster.certs.client),
        ("KEY", cluster.certs.client_key),
    ):
        monkeypatch.setenv(f"BOATHOUSE_{name}", str(path))
    return cluster


def test_top_and_restart_look_at_it_as_a_client(as_client: SecureCluster) -> None:
    as_client.said("put", "seen", "by top")
    by_file = run_cli("top", str(as_client.file), "--once")
    assert by_file.returncode == 0, by_file.stderr.decode()
    endpoint = as_client.config.node("n1").client_endpoint
    by_endpoint = run_cli("top", "--endpoints", f"https://{endpoint}", "--once")
    assert by_endpoint.returncode == 0, by_endpoint.stderr.decode()
    assert b"shards 1/1 have a leader" in by_file.stdout
    assert b"shards 1/1 have a leader" in by_endpoint.stdout
    assert by_endpoint.stdout.startswith(as_client.config.cluster.encode()), "it is taken for a plain etcd"
    reach = Reach(tls=as_client.client_context())
    with ClusterSource(as_client.config, supervisor_timeout_s=5, reach=reach, counts_calls=True) as source:
        called = {(series.method, series.table) for series in source.poll().calls}
    assert ("/etcdserverpb.KV/Put", "default") in called
    done = run_cli("restart", "n2/coordinator", str(as_client.file), "-o", "json")
    assert done.returncode == 0, done.stderr.decode()
    sighting = json.loads(done.stdout)["clients"]
    assert (sighting["failed"], sighting["coordinators"]) == (0, ["n1", "n2", "n3"])


def test_etcdctl_puts_gets_and_watches(cluster: SecureCluster) -> None:
    for node in cluster.config.nodes:
        assert cluster.said("put", "greeting", node, node=node) == "OK\n", (
            "also where the leader is elsewhere"
        )
    for node in cluster.config.nodes:
        assert cluster.said("get", "greeting", "--print-value-only", node=node) == "n3\n"
    watch = subprocess.Popen(
        cluster.etcdctl("watch", "greeting", "--rev", "1", node="n2"), stdout=subprocess.PIPE, text=True
    )
    try:
        assert watch.stdout is not None
        heard = [watch.stdout.readline().strip() for _ in range(9)]
    finally:
        watch.terminate()
        watch.communicate()
    assert heard == ["PUT", "greeting", "n1", "PUT", "greeting", "n2", "PUT", "greeting", "n3"]


def test_members_are_listed_with_https(cluster: SecureCluster) -> None:
    members = json.loads(cluster.said("member", "list", "-w", "json"))["members"]
    urls = {url for member in members for url in member["clientURLs"]}
    assert urls == {f"https://{endpoint}" for endpoint in cluster.endpoints}


def test_a_client_without_a_certificate_is_refused(cluster: SecureCluster) -> None:
    command = cluster.etcdctl(
        "--dial-timeout=1s", "--command-timeout=1s", "get", "greeting", with_certificate=False
    )
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert done.returncode != 0
    assert b"n3" not in done.stdout
    log = (cluster.config.node_dir("n1") / "logs" / "coordinator.log").read_text()
    assert "a client's TLS handshake failed" in log


def test_our_own_commands_know_tls(as_client: SecureCluster) -> None:
    cluster = as_client
    cluster.cli_json("kv", "put", "ours", "v")
    urls = ",".join(f"https://{endpoint}" for endpoint in cluster.endpoints)
    assert cluster.cli_json("kv", "get", "ours", "-e", urls)["count"] == 1
    assert [table["name"] for table in cluster.cli_json("table", "list")] == ["default"]
    refused = cluster.cli("kv", "get", "ours", "-e", urls.replace("https", "http"))
    assert refused.returncode == 2
    assert b"http:// is without TLS" in refused.stderr


def test_pages_are_served_over_tls_on_both_ports(cluster: SecureCluster) -> None:
    context = ssl.create_default_context(cafile=str(cluster.certs.ca))
    context.load_cert_chain(cluster.certs.client, cluster.certs.client_key)
    context.set_alpn_protocols(["h2", "http/1.1"])  # as curl does
    node = cluster.config.node("n1")
    for endpoint in (node.client_endpoint, node.http_endpoint):
        with urllib.request.urlopen(f"https://{endpoint}/health", context=context, timeout=10) as page:
            assert json.loads(page.read())["health"] == "true"


def status_of(cluster: Cluster, endpoint: str, keys: PeerKeys | None, timeout_ms: int) -> bytes | None:
    """What a worker of n1 answers to who has these keys; None if nothing."""
    request = frames.Request(call=1, method=frames.REPLICA_STATUS)
    with zmq.Context() as context:
        socket = sockets.asking(context)
        sockets.connect(socket, endpoint, keys, cluster.config.node("n1").id)
        socket.send(wire.encode(frames.Envelope(requests=[request]), cluster.config.group(1)), zmq.NOBLOCK)
        answer = socket.recv() if socket.poll(timeout_ms) else None
        socket.close()
        return answer


def test_a_stranger_learns_nothing_from_a_worker(cluster: SecureCluster) -> None:
    by_tcp, by_unix_socket = cluster.config.worker_tcp("n1", 1), cluster.config.worker_ipc("n1", 1)
    assert status_of(cluster, by_tcp, peer_keys(cluster.config, "n2"), ANSWER_MS)
    assert status_of(cluster, by_unix_socket, None, ANSWER_MS)
    assert status_of(cluster, by_tcp, None, SILENCE_MS) is None


def test_processes_are_seen_and_restarted(cluster: SecureCluster) -> None:
    status = cluster.cli("status").stdout.decode().split()
    assert (status.count("leader"), status.count("follower")) == (1, 2)
    before = cluster.pid(ProcessName.replica("n1", 1))
    done = cluster.cli("restart", "n1/shard-1")
    assert done.returncode == 0, done.stderr.decode()
    assert cluster.pid(ProcessName.replica("n1", 1)) != before
    wait_until(lambda: len(cluster.ask(1)) == 3, timeout_s=10, what="all replicas")
    assert cluster.said("put", "after", "restart") == "OK\n"


def test_no_secret_is_printed_logged_or_on_a_command_line(cluster: SecureCluster) -> None:
    pids = [report.pid for report in cluster.reports() if report.pid is not None]
    seen = [Path(f"/proc/{pid}/{file}") for pid in pids for file in ("cmdline", "environ")]
    seen += [*cluster.folder.glob("up-*.out"), *cluster.config.data_dir.glob("*/logs/*.log")]
    assert len(seen) > 2 * len(pids)
    for path in seen:
        content = path.read_bytes()
        assert not [secret for secret in cluster.secrets if secret in content], path


def test_who_a_certificate_names_is_a_user_of_the_table(cluster: SecureCluster) -> None:
    """Here root, without any password, through every node. Who shows a token is whom that names; the gateway's callers
    are nobody without one."""
    certificate = x509.load_pem_x509_certificate(cluster.certs.client.read_bytes())
    assert [one.value for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["root"]
    for words in (
        ("user", "add", "root", "--no-password"),
        ("user", "grant-role", "root", "root"),
        ("user", "add", "other:secret"),
        ("auth", "enable"),
    ):
        cluster.said(*words)
    try:
        for node in cluster.config.nodes:
            assert cluster.said("put", "greeting", node, node=node) == "OK\n"
            command = cluster.etcdctl("--user", "other:secret", "put", "greeting", "other", node=node)

            def is_refused(command: list[str] = command) -> bool:
                """And not only unanswered, as while a disk stands still for so long that another one leads."""
                done = subprocess.run(command, capture_output=True, timeout=30, check=False)
                assert done.returncode != 0, "whoever has no permission has put"
                return b"permission denied" in done.stderr

            wait_until(is_refused, timeout_s=60, what="a put without permission to be refused")
        with contextlib.closing(
            http.client.HTTPSConnection(cluster.endpoint("n1"), context=cluster.client_context(), timeout=10)
        ) as gateway:
            gateway.request("POST", "/v3/kv/range", b'{"key":"Zw=="}')
            assert json.loads(gateway.getresponse().read())["error"] == "etcdserver: user name is empty"
    finally:
        cluster.said("auth", "disable")


@pytest.mark.long
def test_a_node_comes_whose_key_the_others_never_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their files do not name it, and nothing of theirs is restarted: the shards' logs tell its key."""
    with SecureCluster(tmp_path, shards=2) as cluster:
        cluster.wait_leaders()
        pids = {report.name: report.pid for report in cluster.reports() if report.name.shard is None}
        cluster.write_joining_node("n4", 4)
        assert cluster.cli("keygen").returncode == 0
        made = cluster.cli("tls", "init", "--dir", str(tmp_path / "certs"))
        assert made.returncode in (0, 1), made.stderr.decode()
        cluster.start_node("n4")
        added = cluster.cli("node", "add", "n4")
        assert added.returncode == 0, added.stderr.decode() + cluster.describe()
        cluster.reload()
        (held,) = cluster.config.shards_of("n4")  # its coordinator has to be let in by the other shard, too
        moved = cluster.cli("shard", "move-leader", str(held), "--to", "n4")
        assert moved.returncode == 0, moved.stderr.decode() + cluster.describe()
        for node in ("n1", "n4"):
            cluster.said("put", f"through {node}", "v", node=node)
        wait_until(
            lambda: cluster.said("get", "through n1", "--print-value-only", node="n4") == "v\n",
            timeout_s=20,
            what="n4's coordinator to reach the shards",
        )
        # After a restart they know it before anybody has told them again.
        old_pid = cluster.kill(ProcessName.coordinator("n2"))
        cluster.wait_restarted(ProcessName.coordinator("n2"), old_pid)
        cluster.said("put", "through n2", "v", node="n2")
        assert {
            report.name: report.pid for report in cluster.reports() if report.name.node == "n1"
        }.items() >= {name: pid for name, pid in pids.items() if name.node == "n1"}.items()
        removed = cluster.cli("node", "remove", "n4")
        assert removed.returncode == 0, removed.stderr.decode()
