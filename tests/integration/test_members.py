"""A node comes to a running cluster, takes another's place, and leaves, with processes that are killed meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from config.process.names import ProcessName
from proto.etcd import rpc_pb2 as rpc
from tests.integration.cluster import Cluster
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

KEYS = 300


def members(cluster: Cluster, shard: int) -> tuple[set[str], set[str]]:
    """Voters and learners of a shard, as its leader has them."""
    cluster.reload()
    status = cluster.ask(shard)[cluster.leader(shard)]
    names = {node.id: node.name for node in cluster.config.nodes.values()}
    return {names[node] for node in status.voters}, {names[node] for node in status.learners}


def holds_all(cluster: Cluster, node: str) -> bool:
    """Whether the node's own replica answers what was written."""
    with cluster.client(node) as client:
        found = client.range(rpc.RangeRequest(key=b"k", range_end=b"l", serializable=True))
    return len(found.kvs) == KEYS


def fill(cluster: Cluster) -> None:
    with cluster.client() as client:
        for number in range(KEYS):
            client.put(rpc.PutRequest(key=b"k%04d" % number, value=b"v" * 100))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(
        tmp_path,
        nodes=3,
        shards=2,
        separate=True,
        tables={"default": {"shard": 2}},
        settings={"raft": {"log_tail_entries": 50}},
    )


def test_a_node_comes_is_killed_takes_a_place_and_goes(cluster: Cluster) -> None:
    with cluster:
        cluster.wait_leaders()
        fill(cluster)
        cluster.write_joining_node("n4", 4)
        cluster.start_node("n4")
        plan = cluster.cli_json("node", "replace", "n3", "n4", "--dry-run")
        assert [(step["shard"], step["step"]) for step in plan] == [
            (1, "learn"),
            (1, "vote"),
            (2, "learn"),
            (2, "vote"),
        ]
        done = cluster.cli("node", "replace", "n3", "n4")
        assert done.returncode == 0, done.stderr.decode() + cluster.describe()
        assert members(cluster, 2) == ({"n1", "n2", "n4"}, set())
        wait_until(lambda: holds_all(cluster, "n4"), timeout_s=20, what="n4 to hold what was written")
        # Who left runs no replica any more, and is missed by nobody.
        wait_until(
            lambda: not any(report.name.shard for report in cluster.reports("n3")),
            timeout_s=20,
            what="the replicas of n3 to be gone",
        )
        cluster.kill_node("n3")
        cluster.kill_node("n4")
        with cluster.client() as client:
            client.put(rpc.PutRequest(key=b"while it is away", value=b"v"))
        cluster.start_node("n4")
        cluster.kill(cluster.leader(2))
        with cluster.client("n1") as client:
            client.put(rpc.PutRequest(key=b"after that", value=b"v"))
        wait_until(lambda: ProcessName.replica("n4", 2) in cluster.ask(2), timeout_s=20, what="n4 to be back")
        refused = cluster.cli("node", "remove", "n4")
        assert refused.returncode == 0, refused.stderr.decode()
