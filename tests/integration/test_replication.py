"""A follower cluster beside its leader cluster, both of real processes, while processes on both sides are killed."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from config.loading import load
from config.process.names import REPLICATOR, ProcessName
from proto.etcd import lock_pb2 as lock
from proto.etcd import rpc_pb2 as etcd
from proto.regatta import maintenance_pb2 as maintenance
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import regatta_pb2 as regatta
from tests.integration.cluster import ROOT, Cluster
from tests.integration.proxy import FaultProxy, Link
from tests.stubs import stub
from tests.waiting import wait_until
from tools.admin.control_client import NodeControl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proto.internal import frames_pb2 as frames

KEEP_BYTES = 200_000
EVERYTHING = etcd.RangeRequest(key=b"\0", range_end=b"\0")


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[Cluster]:
    """As config/examples/leader-cluster.yaml has it, on other ports, with one node."""
    example = load(ROOT / "config/examples/leader-cluster.yaml")
    folder = tmp_path / "leader"
    folder.mkdir()
    with Cluster(
        folder,
        nodes=1,
        shards=example.shards,
        tables={"default": {}, "brief": {"history": "none"}},
        settings={"cluster": example.cluster, "replication": {"keep_bytes": KEEP_BYTES}},
        calls=True,
    ) as cluster:
        yield cluster


@pytest.fixture
def link(leader: Cluster) -> Iterator[Link]:
    """The follower cluster's way to the leader cluster."""
    with FaultProxy(0) as proxy:
        yield proxy.link(leader.config.node("n1").client_port)


@pytest.fixture
def follower(tmp_path: Path, leader: Cluster, link: Link) -> Iterator[Cluster]:
    """As config/examples/follower-cluster.yaml has it, on other ports, with two nodes."""
    example = load(ROOT / "config/examples/follower-cluster.yaml")
    assert example.follows is not None
    folder = tmp_path / "follower"
    folder.mkdir()
    with Cluster(
        folder,
        nodes=2,
        shards=example.shards,
        replicas=1,
        tables={},
        settings={
            "cluster": example.cluster,
            "follows": {"cluster": example.follows.cluster, "endpoints": [f"127.0.0.1:{link.port}"]},
        },
        calls=True,
    ) as cluster:
        yield cluster


def tables(cluster: Cluster) -> dict[str, frames.TableStatus]:
    """What the shards hold, by name, but for boathouse's own."""
    return {
        table.name: table
        for shard in range(1, cluster.config.shards + 1)
        for status in cluster.ask(shard).values()
        for table in status.tables
        if not table.name.startswith("_")
    }


def positions(cluster: Cluster) -> dict[str, tuple[int, int, int]]:
    return {name: (table.revision, table.checksum, table.keys) for name, table in tables(cluster).items()}


def wait_level(leader: Cluster, follower: Cluster, timeout_s: float = 20.0) -> None:
    def level() -> bool:
        return positions(leader) == positions(follower)

    try:
        wait_until(level, timeout_s=timeout_s, what="the follower cluster to be level", interval_s=0.05)
    except AssertionError as error:
        raise AssertionError(
            f"{error}\n{positions(leader)}\n{positions(follower)}\n{follower.describe()}"
        ) from None


def contents(cluster: Cluster, table: str) -> list[Any]:
    with cluster.client(table=table) as client:
        return list(client.range(EVERYTHING).kvs)


def metrics(cluster: Cluster, node: str) -> list[bytes]:
    with urllib.request.urlopen(
        f"http://{cluster.config.node(node).http_endpoint}/metrics", timeout=10
    ) as page:
        return bytes(page.read()).splitlines()


def logs(cluster: Cluster) -> str:
    """What the replicators have said."""
    return "".join(
        (cluster.config.node_dir(node) / "logs" / "replicator.log").read_text()
        for node in cluster.config.nodes
    )


def reported(cluster: Cluster) -> set[str]:
    """The tables whose copies `boathouse status` tells of."""
    rows = [row for row in cluster.cli_json("status") if row["process"] == "replicator"]
    assert all(row["state"] == "running" for row in rows)
    return {copy["name"] for copy in (rows[0]["replication"] or {"copies": []})["copies"]}


def said(cluster: Cluster) -> str:
    """What `boathouse status` prints."""
    return cluster.cli("status").stdout.decode()


def findings(cluster: Cluster) -> list[dict[str, Any]]:
    """What `boathouse doctor` finds."""
    found: list[dict[str, Any]] = json.loads(cluster.cli("doctor", "-o", "json").stdout)
    return found


def fill_and_compact(cluster: Cluster, size_bytes: int) -> int:
    """The revision that the table is compacted at, its newest."""
    with cluster.client(table="default") as client:
        for _ in range(size_bytes // 10_000):
            newest = client.put(etcd.PutRequest(key=b"unseen", value=b"v" * 10_000)).header.revision
    with grpc.insecure_channel(cluster.endpoint("n1")) as channel:
        kv: Any = stub(channel, etcd, "KV")
        kv.Compact(etcd.CompactionRequest(revision=newest), metadata=[("table", "default")], timeout=10)
    return newest


@pytest.mark.long
def test_a_follower_cluster_comes_to_the_same_whatever_is_killed(
    leader: Cluster, follower: Cluster, link: Link
) -> None:
    written = threading.Event()

    def write() -> None:
        with leader.client(table="default") as one, leader.client(table="brief") as two:
            for number in range(150):
                put = etcd.PutRequest(key=b"k%03d" % (number % 70), value=b"%d" % number)
                one.put(put)
                two.put(put)
                if number % 50 == 49:
                    one.delete_range(etcd.DeleteRangeRequest(key=b"k01", range_end=b"k02"))
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: len(tables(follower)) == 2, timeout_s=20, what="the tables to be made")
    replicators = [ProcessName(node, REPLICATOR) for node in ("n1", "n2")]
    for name in replicators:
        follower.kill(name)
    follower.kill(follower.leader(1))
    leader.kill(leader.leader(1))
    leader.kill(leader.leader(2))
    writer.join(90)
    assert written.is_set()
    wait_level(leader, follower)
    for table in ("default", "brief"):
        assert contents(follower, table) == contents(leader, table)

    # Who replicates says so once a second.
    wait_until(lambda: reported(follower) == {"default", "brief"}, timeout_s=10, what="the report")
    assert f"follows cluster {leader.config.cluster} at" in follower.cli("status").stdout.decode()
    for node in follower.config.nodes:
        wait_until(
            lambda node=node: b"boathouse_replication_tables 2.0" in metrics(follower, node),  # type: ignore[misc]
            timeout_s=5,
            what="the metrics to say what is replicated",
        )

    # What is compacted meanwhile is kept for the follower cluster, up to a bound; beyond that a snapshot comes.
    kept_bytes = {False: KEEP_BYTES // 4, True: 2 * KEEP_BYTES}
    for by_snapshot, size_bytes in kept_bytes.items():
        for name in replicators:
            NodeControl(follower.config, name.node).operate("stop", [name.local], timeout_s=20)
        replaced = logs(follower).count("was replaced by a snapshot")
        newest = fill_and_compact(leader, size_bytes)
        for shard in (1, 2):
            leader.kill(leader.leader(shard))  # and with it what its replica remembers of the last changes
        for name in replicators:
            NodeControl(follower.config, name.node).operate("start", [name.local], timeout_s=20)
        wait_level(leader, follower)
        assert (logs(follower).count("was replaced by a snapshot") > replaced) is by_snapshot
        assert tables(follower)["default"].compacted_revision == newest
        assert contents(follower, "default") == contents(leader, "default")
    assert "island" in leader.cli("status").stdout.decode()

    # A single put with nothing behind it is there within a second, for who watches there, at the leader's revision.
    with grpc.insecure_channel(follower.endpoint("n2")) as channel, leader.client(table="default") as client:
        watch: Any = stub(channel, etcd, "Watch")
        asked = etcd.WatchRequest(create_request=etcd.WatchCreateRequest(key=b"news"))
        done = threading.Event()

        def requests() -> Iterator[etcd.WatchRequest]:
            yield asked
            done.wait(10)

        answers = watch.Watch(requests(), metadata=[("table", "default")], timeout=10)
        assert next(answers).created
        written_there = client.put(etcd.PutRequest(key=b"news", value=b"!"))
        (event,) = next(answers).events
        done.set()
    assert event.kv.mod_revision == written_there.header.revision

    # A node that hangs is replaced by the other one, whichever it is.
    for name in replicators:
        stopped = follower.pause(name)
        with leader.client(table="default") as client:
            client.put(etcd.PutRequest(key=b"hung", value=name.node.encode()))
        wait_level(leader, follower, timeout_s=8)
        follower.resume(stopped)

    # Who writes here reads here what he has written, also where the read may be stale; refusals come from there.
    with grpc.insecure_channel(follower.endpoint("n2")) as channel:
        kv = stub(channel, etcd, "KV")
        for number in range(10):
            put = etcd.PutRequest(key=b"mine", value=b"%d" % number, prev_kv=True)
            answer = kv.Put(put, metadata=[("table", "default")], timeout=10)
            read = etcd.RangeRequest(key=b"mine", serializable=True)
            (pair,) = kv.Range(read, metadata=[("table", "default")], timeout=10).kvs
            assert (pair.value, pair.mod_revision) == (b"%d" % number, answer.header.revision)
            assert answer.prev_kv.version == number
        with pytest.raises(grpc.RpcError) as refusal:
            kv.Compact(etcd.CompactionRequest(revision=10**6), metadata=[("table", "default")], timeout=10)
    assert refusal.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert refusal.value.details() == "etcdserver: mvcc: required revision is a future revision"

    # The link between them is cut: it says so, and goes on soon after it is back.
    link.cut()
    link.reset()
    with leader.client(table="default") as client:
        client.put(etcd.PutRequest(key=b"cut off"))
    wait_until(lambda: "which tables it has is not known" in said(follower), timeout_s=30, what="the trouble")
    assert "leader-cluster-unknown" in {finding["code"] for finding in findings(follower)}
    link.heal()
    wait_level(leader, follower, timeout_s=8)

    # Tables come and go as they do there, and a name never shows the data of an earlier table.
    assert leader.cli("table", "delete", "brief", "--yes").returncode == 0
    assert leader.cli("table", "create", "brief").returncode == 0
    with leader.client(table="brief") as client:
        client.put(etcd.PutRequest(key=b"anew"))
    wait_level(leader, follower)
    assert [kv.key for kv in contents(follower, "brief")] == [b"anew"]


def test_calls_of_either_api_go_to_the_leader_cluster_and_are_read_here(
    leader: Cluster, follower: Cluster
) -> None:
    wait_level(leader, follower)
    with grpc.insecure_channel(follower.endpoint("n1")) as channel:
        _regatta_calls(stub(channel, regatta, "KV"))
        _lease_calls(stub(channel, etcd, "Lease"), stub(channel, etcd, "KV"))
        locks: Any = stub(channel, lock, "Lock")
        held = locks.Lock(lock.LockRequest(name=b"only", lease=0), timeout=10)
        locks.Unlock(lock.UnlockRequest(key=held.key), timeout=10)
        users: Any = stub(channel, etcd, "Auth")
        with pytest.raises(grpc.RpcError) as refusal:
            users.UserAdd(etcd.AuthUserAddRequest(name="root", password="p"), timeout=10)
    assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert f"write to cluster {leader.config.cluster} at 127.0.0.1:" in str(refusal.value.details())
    deletion = follower.cli("table", "delete", "default", "--yes")
    assert deletion.returncode == 1
    assert b"table default is a copy: delete it in the cluster that is copied" in deletion.stderr
    wait_level(leader, follower)
    assert [kv.key for kv in contents(leader, "default")] == [b"t", b"two"]

    assert "island" in leader.cli("status").stdout.decode()
    follower.stop()
    assert set(leader.cli_json("forget", "island")["tables"]) == {"default", "brief"}
    assert "island" not in leader.cli("status").stdout.decode()
    assert b"is followed by a cluster island" in leader.cli("forget", "island").stderr


def _regatta_calls(kv: Any) -> None:
    put = kv.Put(regatta.PutRequest(table=b"default", key=b"one", value=b"1"), timeout=10)
    read = regatta.RangeRequest(table=b"default", key=b"one")
    assert [pair.value for pair in kv.Range(read, timeout=10).kvs] == [b"1"]
    again = kv.Put(regatta.PutRequest(table=b"default", key=b"one", value=b"2", prev_kv=True), timeout=10)
    assert again.prev_kv.value == b"1"
    assert again.header.revision == put.header.revision + 1
    two = mvcc.RequestOp(request_put=mvcc.RequestOp.Put(key=b"two", value=b"2"))
    one = mvcc.RequestOp(request_range=mvcc.RequestOp.Range(key=b"one"))
    exists = mvcc.Compare(key=b"one", result=mvcc.Compare.EQUAL, value=b"2")
    written = kv.Txn(regatta.TxnRequest(table=b"default", compare=[exists], success=[two, one]), timeout=10)
    assert written.succeeded
    assert [pair.value for pair in written.responses[1].response_range.kvs] == [b"2"]
    only_read = kv.Txn(regatta.TxnRequest(table=b"default", compare=[exists], success=[one]), timeout=10)
    assert [pair.value for pair in only_read.responses[0].response_range.kvs] == [b"2"]
    assert only_read.header.revision == written.header.revision
    deleted = kv.DeleteRange(regatta.DeleteRangeRequest(table=b"default", key=b"one", count=True), timeout=10)
    assert deleted.deleted == 1
    assert not kv.Range(read, timeout=10).kvs
    with pytest.raises(grpc.RpcError) as refusal:
        kv.Put(regatta.PutRequest(table=b"nobody", key=b"k"), timeout=10)
    assert refusal.value.details() == "table not found"
    long = regatta.PutRequest(table=b"default", key=b"k" * 2_000)
    with pytest.raises(grpc.RpcError) as refusal:
        kv.Put(long, timeout=10)
    assert refusal.value.details() == "key length exceeded max allowed value"


def _lease_calls(leases: Any, kv: Any) -> None:
    granted = leases.LeaseGrant(etcd.LeaseGrantRequest(TTL=600), timeout=10)
    brief = leases.LeaseGrant(etcd.LeaseGrantRequest(TTL=600), timeout=10).ID
    kv.Put(etcd.PutRequest(key=b"t", lease=granted.ID), timeout=10)
    kv.Put(etcd.PutRequest(key=b"brief", lease=brief), timeout=10)
    asked = iter([etcd.LeaseKeepAliveRequest(ID=granted.ID), etcd.LeaseKeepAliveRequest(ID=7)])
    assert [kept.TTL for kept in leases.LeaseKeepAlive(asked, timeout=10)] == [600, 0]
    left = leases.LeaseTimeToLive(etcd.LeaseTimeToLiveRequest(ID=granted.ID, keys=True), timeout=10)
    assert left.grantedTTL == 600
    assert list(left.keys) == [b"t"]
    assert left.TTL > 500
    listed = leases.LeaseLeases(etcd.LeaseLeasesRequest(), timeout=10).leases
    assert {lease.ID for lease in listed} == {granted.ID, brief}
    leases.LeaseRevoke(etcd.LeaseRevokeRequest(ID=brief), timeout=10)
    assert not kv.Range(etcd.RangeRequest(key=b"brief", serializable=True), timeout=10).kvs


@pytest.mark.long
def test_a_copy_that_is_reset_is_taken_anew(leader: Cluster, follower: Cluster) -> None:
    with grpc.insecure_channel(leader.endpoint("n1")) as channel:
        kv: Any = stub(channel, etcd, "KV")
        for number in range(20):
            kv.Put(etcd.PutRequest(key=b"k%d" % number, value=b"v"), timeout=10)
    wait_level(leader, follower)
    before = tables(follower)["default"]
    with grpc.insecure_channel(follower.endpoint("n1")) as channel:
        reset: Any = stub(channel, maintenance, "Maintenance").Reset
        for refused, text in (
            (maintenance.ResetRequest(), "table must be set"),
            (maintenance.ResetRequest(table=b"nobody"), "table not found"),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                reset(refused, timeout=10)
            assert raised.value.details() == text
        reset(maintenance.ResetRequest(table=b"default"), timeout=10)
        restore: Any = stub(channel, maintenance, "Maintenance").Restore
        info = maintenance.RestoreMessage(info=maintenance.RestoreInfo(table=b"default"))
        with pytest.raises(grpc.RpcError) as raised:
            restore(iter([info]), timeout=10)
        assert raised.value.details() == "method Restore not implemented"
        read: Any = stub(channel, etcd, "KV").Range
        assert len(read(EVERYTHING, timeout=10).kvs) == 20, "it is read until it is replaced"
    wait_until(
        lambda: tables(follower)["default"].compacted_revision == before.revision,
        timeout_s=30,
        what="a snapshot in the place of the copy",
    )
    wait_level(leader, follower)


@pytest.mark.long
def test_another_node_replicates_within_five_seconds_of_the_death_of_the_one_that_did(
    tmp_path: Path, leader: Cluster
) -> None:
    """The whole node goes, as in a power cut: its replicator, its coordinator, and whatever its replicas led."""
    folder = tmp_path / "three"
    folder.mkdir()
    follows = {"cluster": leader.config.cluster, "endpoints": list(leader.endpoints)}
    settings = {"cluster": "three", "follows": follows}
    with Cluster(folder, nodes=3, shards=1, tables={}, separate=True, settings=settings) as follower:
        wait_level(leader, follower)
        wait_until(lambda: reported(follower) == {"default", "brief"}, timeout_s=10, what="the report")
        rows = [row for row in follower.cli_json("status") if row["process"] == "replicator"]
        (killed,) = {row["replication"]["node"] for row in rows if row["replication"]}
        survivor = next(node for node in follower.config.nodes if node != killed)
        died_at = time.monotonic()
        follower.kill_node(killed)
        with leader.client(table="default") as client:
            client.put(etcd.PutRequest(key=b"after", value=b"the death"))
        with grpc.insecure_channel(follower.endpoint(survivor)) as channel:
            kv: Any = stub(channel, etcd, "KV")
            read = etcd.RangeRequest(key=b"after", serializable=True)
            metadata = [("table", "default")]
            wait_until(
                lambda: kv.Range(read, metadata=metadata, timeout=10).kvs, timeout_s=10, what="the change"
            )
        took_s = time.monotonic() - died_at
        assert took_s < 5.0, f"{took_s:.1f} s\n{logs(follower)}"
