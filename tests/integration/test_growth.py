"""A running cluster gets more shards by its file, node by node, and rebalance fills them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from config.process.report import State
from proto.etcd import rpc_pb2 as etcd
from tests.integration.cluster import Cluster
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

TABLES = tuple(f"t{number}" for number in range(4))
NODES = ("n1", "n2", "n3") if os.environ.get("BOATHOUSE_EXAMPLES") == "fresh" else ("n1",)
"""A soak takes three: each of them is restarted."""


def test_new_shards_begin_empty_and_are_filled(tmp_path: Path) -> None:
    tables = {name: {"shard": 1} for name in TABLES}
    with Cluster(tmp_path, nodes=len(NODES), shards=2, tables=tables, separate=True, shards_max=3) as cluster:
        cluster.wait_leaders()
        revisions = {name: put(cluster, name) for name in TABLES}
        cluster.grow(3)
        for node in NODES:
            cluster.stop_node(node)
            cluster.start_node(node)
            wait_until(lambda: runs(cluster, node), timeout_s=60, what=f"{node} to run")  # noqa: B023
        cluster.wait_leaders()
        plan = cluster.cli_json("shard", "rebalance", str(cluster.file), "--dry-run")
        assert {move["to"] for move in plan} == {2, 3}
        done = cluster.cli_json("shard", "rebalance", str(cluster.file))
        assert done == plan
        assert cluster.cli_json("shard", "rebalance", str(cluster.file)) == []
        held = {
            shard: sorted(one.name for one in next(iter(cluster.ask(shard).values())).tables)
            for shard in (1, 2, 3)
        }
        assert sorted(name for names in held.values() for name in names) == ["_catalog", *TABLES]
        assert all(held.values())
        for node in NODES:
            for name in TABLES:
                with cluster.client(node, table=name) as client:
                    found = client.range(etcd.RangeRequest(key=b"k"))
                    assert (found.kvs[0].mod_revision, found.count) == (revisions[name], 1)


def put(cluster: Cluster, table: str) -> int:
    with cluster.client("n1", table=table) as client:
        return client.put(etcd.PutRequest(key=b"k", value=b"v")).header.revision


def runs(cluster: Cluster, node: str) -> bool:
    """Whether all processes that the file now says are up on the node."""
    states = [report.state for report in cluster.reports(node)]
    return len(states) == 4 and set(states) == {State.RUNNING}
