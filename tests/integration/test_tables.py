"""Tables of a real cluster that come and go: on every node, under kill -9, by ports and unix sockets of their own."""

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from proto.boathouse import moves_pb2 as moves
from proto.catalog import TableSettings
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from tests.conformance.keyspace import Keyspace
from tests.conformance.watching import WatchStream
from tests.integration.cluster import Cluster
from tests.waiting import free_ports, wait_until
from tools.admin.client import CallFailed
from tools.admin.reach import Connection
from tools.admin.tables import TablesClient
from tools.bench.systems import etcd_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NODES = ("n1", "n2", "n3")
KEYS = 3_000
EVERYTHING = etcd.RangeRequest(key=b"\0", range_end=b"\0")


@pytest.fixture(name="cluster", scope="module")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("tables")
    tables: dict[str, dict[str, Any]] = {
        "default": {"shard": 2},
        "users": {
            "shard": 2,
            "client_port": dict(zip(NODES, free_ports(3), strict=True)),
            "client_socket": {"n1": str(folder / "users.sock")},
        },
    }
    with Cluster(
        folder, nodes=3, shards=2, tables=tables, settings={"store": {"compaction_rows_max": 50}}
    ) as running:
        running.wait_leaders()
        yield running


def fill(cluster: Cluster, table: str) -> None:
    with cluster.client("n1", table=table) as client:
        for first in range(0, KEYS, 100):
            request = etcd.TxnRequest()
            for number in range(first, first + 100):
                put = etcd.PutRequest(key=b"old%d" % number, value=bytes(500))
                request.success.add().request_put.CopyFrom(put)
            client.txn(request)


def settled(cluster: Cluster) -> bool:
    """Whether all replicas of shard 2 have freed what was deleted, and agree on the rest."""
    answers = cluster.ask(2).values()
    states = {
        tuple((table.id, table.revision, table.checksum) for table in status.tables) for status in answers
    }
    unfreed = sum(status.statistics["dead_tables_unfreed"] for status in answers)
    return len(answers) == len(NODES) and len(states) == 1 and not unfreed


def test_a_table_goes_and_comes_while_a_worker_dies(cluster: Cluster) -> None:
    tables = TablesClient(Connection(tuple(cluster.endpoints), None, ""), 30.0)
    on_shard_2 = TableSettings(shard=ShardId(2))
    first = tables.create("jobs", on_shard_2)
    for node in NODES:  # at once, on every node
        with cluster.client(node, table="jobs") as client:
            client.put(etcd.PutRequest(key=node.encode(), value=b"old"))
    fill(cluster, "jobs")
    with Keyspace(cluster.endpoint("n2"), "jobs") as keyspace, WatchStream(keyspace) as stream:
        stream.create(b"\0", b"\0")
        leader = cluster.leader(2)
        cluster.pause(leader)
        deletion = threading.Thread(target=tables.delete, args=("jobs",))
        deletion.start()
        wait_until(
            lambda: all(entry.name != "jobs" for entry in tables.list()),
            timeout_s=10,
            what="the first step, which shard 1 takes",
        )
        assert deletion.is_alive(), "the second step waits for shard 2"
        old_pid = cluster.kill(leader)
        deletion.join()
        canceled = stream.hear()
        assert (canceled.canceled, canceled.cancel_reason) == (True, "etcdserver: table was deleted")
    for node in NODES:
        with cluster.client(node, table="jobs", timeout_s=5) as client:
            with pytest.raises(CallFailed, match="table not found"):
                client.range(EVERYTHING)
    assert tables.create("jobs", on_shard_2) > first
    for node in NODES:
        with cluster.client(node, table="jobs") as client:
            assert client.range(EVERYTHING).count == 0
            assert client.range(etcd.RangeRequest(key=b"n1", serializable=True)).count == 0
            assert client.range(EVERYTHING).header.revision == 1
    cluster.wait_restarted(leader, old_pid)
    wait_until(lambda: settled(cluster), timeout_s=10, what="the rows of the deleted table to be gone")


def test_the_quota_that_a_table_is_made_with_holds_whoever_leads_it(cluster: Cluster) -> None:
    tables = TablesClient(Connection(tuple(cluster.endpoints), None, ""), 30.0)
    made = tables.create("small", TableSettings(shard=ShardId(2), quota=64 << 10))

    def quotas(shard: int) -> set[int]:
        statuses = [*cluster.ask(shard).values()]
        tables = [table for status in statuses for table in status.tables if table.id == made]
        return {table.quota_bytes for table in tables} if len(tables) == len(NODES) else set()

    def is_kept(shard: int) -> None:
        wait_until(lambda: quotas(shard) == {64 << 10}, timeout_s=10, what="all replicas to know the quota")
        with cluster.client(table="small") as client:
            with pytest.raises(CallFailed, match="mvcc: database space exceeded"):
                client.put(etcd.PutRequest(key=b"too much", value=bytes(65 << 10)))
            client.put(etcd.PutRequest(key=b"k", value=b"there is room for this"))

    is_kept(2)
    leader = cluster.leader(2)
    cluster.wait_restarted(leader, cluster.kill(leader))
    is_kept(2)
    done = moves.MoveProgress.DONE
    wait_until(lambda: tables.move("small", 1).phase == done, timeout_s=30, what="the move")
    is_kept(1)
    tables.delete("small")


def etcdctl(endpoint: str, *words: str) -> str:
    command = [str(etcd_program("etcdctl")), "--endpoints", endpoint, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_etcdctl_finds_a_table_by_its_own_port_and_unix_socket(cluster: Cluster) -> None:
    users = cluster.config.tables["users"]
    port, path = users.port_on("n2"), users.socket_on("n1")
    assert etcdctl(f"127.0.0.1:{port}", "put", "who", "ada") == "OK\n"
    assert etcdctl(f"unix://{path}", "get", "who") == "who\nada\n"
    with cluster.client("n3", table="users") as client:
        assert client.range(etcd.RangeRequest(key=b"who")).count == 1
    with cluster.client("n3") as client:
        assert client.range(etcd.RangeRequest(key=b"who")).count == 0
    assert (
        cluster.cli("kv", "get", "who", "--endpoint", f"unix://{path}")
        .stdout.splitlines()[1]
        .startswith(b"who ")
    )
