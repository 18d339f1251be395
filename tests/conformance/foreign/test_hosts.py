"""docs/hosts.md, walked through: certificates and keys, three hosts with addresses of their own, the first restart, and
the way to another version host by host while a client writes."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.conformance.foreign.hosts import BOATHOUSE, ROOT, Hosts
from tests.waiting import wait_until
from tools.bench.systems import etcd_program

if TYPE_CHECKING:
    from collections.abc import Iterator

NODES = {"n1": "10.77.0.1", "n2": "10.77.0.2", "n3": "10.77.0.3"}
CLIENT = {"client": "10.77.0.9"}
ENDPOINTS = ",".join(f"https://{address}:2379" for address in NODES.values())
START_S = 90
UNDER_WAY = range(50)
"""Entries that a replica may be behind by."""


class Cluster:
    """The cluster of the walk."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.file = hosts.shared / "etc" / "cluster.yaml"
        certs = hosts.folder("client", "etc")
        self.environment = {
            "BOATHOUSE_FILE": str(self.file),
            "BOATHOUSE_ENDPOINT": ENDPOINTS,
            "BOATHOUSE_CACERT": str(certs / "certs/ca.pem"),
            "BOATHOUSE_CERT": str(certs / "certs/client.pem"),
            "BOATHOUSE_KEY": str(certs / "certs/client-key.pem"),
        }

    def boathouse(self, host: str, *words: str) -> str:
        done = self.hosts.run(host, *BOATHOUSE, *words, **self.environment)
        assert done.returncode == 0, f"{host}: {words}: {done.stderr}{done.stdout}"
        return done.stdout

    def up(self, node: str) -> None:
        self.hosts.start(node, *BOATHOUSE, "up", str(self.file), "--node", node)

    def wait_whole(self, host: str = "n1") -> None:
        """Until each shard has a leader, and nobody is away, or behind by more than a client that goes on may cause."""

        def is_whole() -> bool:
            shards = json.loads(self.boathouse(host, "shard", "list", "-o", "json"))
            return all(
                shard["leader"]
                and all(each["answers"] and each["behind"] in UNDER_WAY for each in shard["replicas"])
                for shard in shards
            )

        wait_until(is_whole, timeout_s=START_S, what="all replicas to keep up", interval_s=0.5)


@pytest.fixture(name="cluster")
def _cluster() -> Iterator[Cluster]:
    with Hosts(NODES | CLIENT) as hosts:
        yield Cluster(hosts)


def _prepare(cluster: Cluster) -> None:
    """As the page says: made on one machine, each host gets what it needs and no more."""
    hosts, shared = cluster.hosts, cluster.hosts.shared
    document = yaml.safe_load((ROOT / "config/examples/systemd/cluster.yaml").read_text())
    text = (
        json.dumps(document)
        .replace("/etc/boathouse", f"{shared}/etc")
        .replace("/var/lib/boathouse", f"{shared}/var")
    )
    document = json.loads(text) | {"shards": 2}
    for name, address in NODES.items():
        document["nodes"][name]["host"] = address
    made = hosts.folder("client", "etc")
    (made / "cluster.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    cluster.boathouse("client", "tls", "init", "--dir", f"{shared}/etc/certs")
    cluster.boathouse("client", "keygen", "--dir", f"{shared}/etc/keys")
    for node in NODES:
        etc = hosts.folder(node, "etc")
        (etc / "certs").mkdir()
        (etc / "keys").mkdir()
        for name in ("cluster.yaml", "certs/ca.pem", "certs/server.pem", "certs/server-key.pem"):
            shutil.copy(made / name, etc / name)
        for name in (*(f"{other}.public" for other in NODES), f"{node}.secret"):
            shutil.copy(made / "keys" / name, etc / "keys" / name)


def test_from_certificates_to_the_next_version(cluster: Cluster) -> None:
    _prepare(cluster)
    for node in NODES:
        assert "fine; cluster harbour" in cluster.boathouse(node, "check", str(cluster.file), "--node", node)
        cluster.up(node)
    cluster.wait_whole()
    states = {
        (row["node"], row["state"]) for row in json.loads(cluster.boathouse("n2", "status", "-o", "json"))
    }
    assert states == {("n1", "running"), ("n2", "running"), ("n3", "running")}
    cluster.boathouse("client", "kv", "put", "greeting", "hello")
    etcdctl = (str(etcd_program("etcdctl")), "--endpoints", ENDPOINTS)
    files = [
        f"--{name}={cluster.environment[f'BOATHOUSE_{name.upper()}']}" for name in ("cacert", "cert", "key")
    ]
    assert cluster.hosts.run("client", *etcdctl, *files, "get", "greeting").stdout == "greeting\nhello\n"
    stranger = cluster.hosts.run("client", *etcdctl, files[0], "get", "greeting")
    assert stranger.returncode != 0, "a client without a certificate is let in"

    cluster.hosts.start(
        "client", sys.executable, "-m", "tests.conformance.foreign.writer", ENDPOINTS, **cluster.environment
    )
    for node in NODES:  # the first restart
        *_, sighting = cluster.boathouse(node, "restart", node).splitlines()
        assert sighting.startswith("clients saw 0 failed"), sighting
        cluster.wait_whole(node)
    for node in NODES:  # the next version
        cluster.boathouse(node, "down", "--node", node)
        cluster.up(node)
        cluster.wait_whole(node)
    cluster.boathouse("n1", "shard", "balance")
    seen = json.loads(cluster.hosts.stop("client"))
    assert seen["failed"] == []
    assert seen["written"] > 100
    value = cluster.boathouse("client", "kv", "get", "counter", "-o", "json")
    assert json.loads(value)["kvs"][0]["version"] == seen["written"], (
        "a write was applied twice, or not at all"
    )
    print(f"{seen['written']} writes, slowest {seen['slowest_s']:.2f} s")  # noqa: T201
