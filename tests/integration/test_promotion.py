"""A follower cluster that is made to lead: with the old leader cluster there, and without."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from proto.etcd import rpc_pb2 as etcd
from tests.integration.cluster import Cluster
from tests.integration.test_replication import contents, fill_and_compact, positions, tables
from tests.stubs import stub
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def make(folder: Path, name: str, **settings: Any) -> Cluster:
    folder.mkdir()
    return Cluster(folder, nodes=1, tables=settings.pop("tables", {}), settings={"cluster": name, **settings})


@pytest.fixture
def harbour(tmp_path: Path) -> Iterator[Cluster]:
    with make(tmp_path / "harbour", "harbour", tables={"default": {}, "mine": {"type": "local"}}) as cluster:
        yield cluster


@pytest.fixture
def island(tmp_path: Path, harbour: Cluster) -> Iterator[Cluster]:
    follows = {"cluster": "harbour", "endpoints": list(harbour.endpoints)}
    with make(tmp_path / "island", "island", follows=follows) as cluster:
        yield cluster


@pytest.fixture
def reef(tmp_path: Path, island: Cluster) -> Iterator[Cluster]:
    """Follows the follower."""
    follows = {"cluster": "island", "endpoints": list(island.endpoints)}
    with make(tmp_path / "reef", "reef", follows=follows) as cluster:
        yield cluster


def restart_following(cluster: Cluster, leader: Cluster) -> None:
    """As a follower of that one."""
    cluster.stop()
    lines, endpoints = cluster.file.read_text(), ", ".join(leader.endpoints)
    cluster.file.write_text(
        f"{lines}\nfollows: {{cluster: {leader.config.cluster}, endpoints: [{endpoints}]}}\n"
    )
    cluster.reload()
    cluster.start()


class Watching:
    """A client that watches everything in a cluster, from a revision on."""

    def __init__(self, cluster: Cluster, revision: int) -> None:
        self.seen: list[tuple[int, bytes]] = []
        self.events: list[bytes] = []
        """The same, whole."""
        self._channel = grpc.insecure_channel(cluster.endpoint("n1"))
        self._done = threading.Event()
        self._asked = etcd.WatchRequest(
            create_request=etcd.WatchCreateRequest(key=b"\0", range_end=b"\0", start_revision=revision)
        )
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _requests(self) -> Iterator[etcd.WatchRequest]:
        yield self._asked
        self._done.wait()

    def _watch(self) -> None:
        watch: Any = stub(self._channel, etcd, "Watch")
        try:
            for answer in watch.Watch(self._requests(), metadata=[("table", "default")]):
                self.events += [event.SerializeToString(deterministic=True) for event in answer.events]
                self.seen += [(event.kv.mod_revision, event.kv.key) for event in answer.events]
        except grpc.RpcError:
            pass  # the test has ended

    def stop(self) -> None:
        self._done.set()
        self._channel.close()
        self._thread.join(5)


def put(cluster: Cluster, key: bytes, value: bytes = b"v", **options: int) -> int:
    with cluster.client(table="default") as client:
        return client.put(etcd.PutRequest(key=key, value=value, **options)).header.revision  # type: ignore[arg-type]


def refused(cluster: Cluster) -> str:
    """What a put is refused with, without any patience."""
    with grpc.insecure_channel(cluster.endpoint("n1")) as channel:
        kv: Any = stub(channel, etcd, "KV")
        with pytest.raises(grpc.RpcError) as refusal:
            kv.Put(etcd.PutRequest(key=b"refused"), metadata=[("table", "default")], timeout=10)
    return str(refusal.value.details())


def said(cluster: Cluster, *words: str) -> str:
    done = cluster.cli(*words)
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
    return done.stdout.decode()


def replicated(cluster: Cluster) -> dict[str, tuple[int, int, int]]:
    return {name: position for name, position in positions(cluster).items() if name != "mine"}


def wait_same(one: Cluster, other: Cluster) -> None:
    """Both have the same of what is replicated."""
    wait_until(lambda: replicated(one) == replicated(other), timeout_s=20, what="the follower to be level")


def test_a_planned_promotion_loses_nothing_and_fails_no_write(
    harbour: Cluster, island: Cluster, reef: Cluster
) -> None:
    with grpc.insecure_channel(harbour.endpoint("n1")) as channel:
        lease: Any = stub(channel, etcd, "Lease")
        held = lease.LeaseGrant(
            etcd.LeaseGrantRequest(TTL=600), metadata=[("table", "default")], timeout=10
        ).ID
    begin = put(harbour, b"lock", lease=held)
    wait_same(harbour, island)
    wait_same(island, reef)
    assert put(reef, b"from afar") == replicated(harbour)["default"][0] == replicated(reef)["default"][0]
    watching, watching_there = Watching(island, begin), Watching(harbour, begin)
    acknowledged: list[tuple[int, bytes]] = []
    done = threading.Event()

    def write() -> None:
        with island.client(table="default", timeout_s=20) as client:
            for number in range(100_000):
                if done.is_set():
                    return
                key = b"k%05d" % number
                acknowledged.append((client.put(etcd.PutRequest(key=key)).header.revision, key))

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: len(acknowledged) > 20, timeout_s=20, what="writes through the follower")

    unasked = island.cli("promote")
    assert unasked.returncode == 2, "nobody was asked"
    assert b"nothing is lost of what it has" in unasked.stdout
    assert b"nothing as of now" in unasked.stdout
    output = said(island, "promote", "--yes")
    assert "cluster harbour has given way" in output
    assert "cluster island leads since epoch 2" in output
    before = len(acknowledged)
    wait_until(lambda: len(acknowledged) > before + 20, timeout_s=20, what="writes to the new leader cluster")
    done.set()
    writer.join(30)
    assert not writer.is_alive()

    # Each write that was acknowledged is there, once, and a watch that was opened before saw all of them in order.
    revisions = [revision for revision, _ in acknowledged]
    assert revisions == sorted(set(revisions))
    wait_until(lambda: set(acknowledged) <= set(watching.seen), timeout_s=10, what="the watch to see all")
    assert watching.seen == sorted(watching.seen)
    # What was told where the cluster led is what was told here, event by event.
    of_harbour = sum(revision <= positions(harbour)["default"][0] for revision, _ in watching.seen)
    wait_until(lambda: len(watching_there.events) >= of_harbour, timeout_s=10, what="the other watch")
    assert watching_there.events == watching.events[:of_harbour]
    assert len(watching.events) > of_harbour > 20
    for each in (watching, watching_there):
        each.stop()
    wait_same(island, reef)
    assert put(reef, b"from afar") == replicated(island)["default"][0] == replicated(reef)["default"][0]

    assert "table is replicated from another cluster" in refused(harbour)
    gave_way = "cluster island leads since epoch 2, and the file of cluster harbour names none to follow"
    assert gave_way in said(harbour, "status")
    assert gave_way.encode() in harbour.cli("doctor").stdout
    with harbour.client(table="mine") as client:
        client.put(etcd.PutRequest(key=b"local tables are nobody else's"))
    assert "leads since epoch 2" in said(island, "status")
    assert said(island, "promote", "--yes").endswith("leads since epoch 2\n")

    # The lease that a key names lives here now, and can be kept alive and ended.
    with grpc.insecure_channel(island.endpoint("n1")) as channel:
        lease = stub(channel, etcd, "Lease")
        metadata = [("table", "default")]
        (answer,) = lease.LeaseKeepAlive(
            iter([etcd.LeaseKeepAliveRequest(ID=held)]), metadata=metadata, timeout=10
        )
        assert answer.TTL == 600
        lease.LeaseRevoke(etcd.LeaseRevokeRequest(ID=held), metadata=metadata, timeout=10)
    assert b"lock" not in {kv.key for kv in contents(island, "default")}


@pytest.mark.long
@pytest.mark.parametrize("compacted", [False, True])
def test_an_old_leader_that_was_away_gives_way_and_becomes_a_follower(
    harbour: Cluster, island: Cluster, compacted: bool
) -> None:
    put(harbour, b"both")
    wait_same(harbour, island)
    island.stop()
    put(harbour, b"alone")
    harbour.stop()
    island.start()
    island.wait_leaders()
    refusal = island.cli("promote", "--yes")
    assert refusal.returncode == 1
    assert b"can't be asked to give way" in refusal.stderr
    assert "leads since epoch 2" in said(island, "promote", "--yes", "--force")
    put(island, b"here")

    # It comes back, and takes a write before it hears of the new epoch: that write is lost, and no later one is taken.
    harbour.start()
    wait_until(lambda: "has given way" in said(island, "status"), timeout_s=20, what="the fence")
    assert "table is replicated from another cluster" in refused(harbour)
    put(island, b"after")
    if compacted:
        fill_and_compact(island, 50_000)

    # It follows, once its file says so: the same tables, and what it alone had is gone.
    restart_following(harbour, island)
    wait_same(island, harbour)
    assert put(harbour, b"forwarded") == positions(island)["default"][0]
    assert contents(harbour, "default") == contents(island, "default")
    assert "mine" in tables(harbour)

    # What it alone had is in a file, as good as any snapshot.
    (kept,) = (harbour.config.node_dir("n1") / "copies-set-aside").glob("default-*.snapshot")
    assert "table default at revision" in said(harbour, "snapshot", "verify", str(kept))
    said(island, "table", "create", "found")
    said(island, "snapshot", "restore", str(kept), "--table", "found")
    assert [kv.key for kv in contents(island, "found")] == [b"alone", b"both"]

    # And back again.
    assert "cluster harbour leads since epoch 3" in said(harbour, "promote", "--yes")
    put(harbour, b"home")
    assert put(island, b"forwarded again") == positions(harbour)["default"][0]
    wait_same(harbour, island)


@pytest.mark.long
def test_of_clusters_that_follow_each_other_one_has_to_be_promoted(harbour: Cluster, island: Cluster) -> None:
    put(harbour, b"both")
    wait_same(harbour, island)
    restart_following(harbour, island)
    for cluster in (harbour, island):
        wait_until(
            lambda cluster=cluster: "promote one of them" in said(cluster, "status"),  # type: ignore[misc]
            timeout_s=20,
            what="the circle to be found",
        )
    assert "default" in tables(island)


@pytest.mark.long
def test_what_is_not_copied_is_given_up_by_nobody(harbour: Cluster, island: Cluster) -> None:
    put(harbour, b"both")
    for cluster in (island, harbour):  # the island has one of its own, so that of the harbour is not copied
        assert cluster.cli("table", "create", "secret").returncode == 0
    with harbour.client(table="secret") as client:
        client.put(etcd.PutRequest(key=b"k", value=b"of the harbour"))
    wait_until(
        lambda: replicated(island).get("default") == replicated(harbour)["default"],
        timeout_s=20,
        what="the copy",
    )

    refusal = island.cli("promote", "--yes")
    assert refusal.returncode == 1
    assert b"all of it: it is not copied" in refusal.stdout
    assert b"Nothing was changed" in refusal.stderr
    put(harbour, b"still leads")
    assert "leads since epoch 2" in said(island, "promote", "--yes", "--force")
    put(island, b"here")

    # What the island never had stays as it is, though it follows, and though that has a table of this name.
    restart_following(harbour, island)
    wait_until(
        lambda: positions(harbour)["default"] == positions(island)["default"],
        timeout_s=20,
        what="the new copy",
    )
    wait_until(lambda: "it led before" in said(harbour, "status"), timeout_s=10, what="the report")
    assert [kv.value for kv in contents(harbour, "secret")] == [b"of the harbour"]
    assert said(harbour, "table", "delete", "secret", "--yes")
    wait_until(
        lambda: positions(harbour).get("secret") == positions(island)["secret"],
        timeout_s=20,
        what="the copy of the other one",
    )


@pytest.mark.long
def test_a_fence_by_hand_and_the_way_back(harbour: Cluster) -> None:
    put(harbour, b"k")
    assert harbour.cli("fence", "--leader", "island", "--epoch", "7").returncode == 2
    assert "has given way to cluster island" in said(
        harbour, "fence", "--leader", "island", "--epoch", "7", "--yes"
    )
    assert "table is replicated from another cluster" in refused(harbour)
    older = harbour.cli("fence", "--leader", "reef", "--epoch", "6", "--yes")
    assert older.returncode == 1
    assert b"cluster island leads since epoch 7" in older.stderr

    unforced = harbour.cli("promote", "--yes")
    assert unforced.returncode == 1
    assert b"names none to follow" in unforced.stderr
    assert "cluster harbour leads since epoch 8" in said(harbour, "promote", "--yes", "--force")
    assert "names none to follow" not in said(harbour, "status")
    put(harbour, b"again")
    already = harbour.cli("promote", "--yes")
    assert already.returncode == 1
    assert b"leads already" in already.stderr
