"""A follower cluster whose leader cluster is not what it was: restored from a backup, or made anew."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import yaml

from proto.etcd import rpc_pb2 as etcd
from tests.integration.cluster import Cluster
from tests.integration.test_replication import contents, findings, positions, said, tables, wait_level
from tests.stubs import stub
from tests.waiting import wait_until
from tools.admin.client import CallFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def make(folder: Path, name: str, **settings: Any) -> Cluster:
    folder.mkdir()
    return Cluster(folder, nodes=1, tables=settings.pop("tables", {}), settings={"cluster": name, **settings})


@pytest.fixture
def harbour(tmp_path: Path) -> Iterator[Cluster]:
    with make(tmp_path / "harbour", "harbour", tables={"default": {}}) as cluster:
        yield cluster


@pytest.fixture
def island(tmp_path: Path, harbour: Cluster) -> Iterator[Cluster]:
    follows = {"cluster": "harbour", "endpoints": list(harbour.endpoints)}
    with make(tmp_path / "island", "island", follows=follows) as cluster:
        yield cluster


def put(cluster: Cluster, key: bytes, value: bytes = b"v") -> int:
    with cluster.client(table="default") as client:
        return client.put(etcd.PutRequest(key=key, value=value)).header.revision


@pytest.mark.long
def test_a_table_that_is_restored_there_is_what_its_copy_becomes(
    tmp_path: Path, harbour: Cluster, island: Cluster
) -> None:
    put(harbour, b"saved")
    backup = ("--dir", str(tmp_path / "backup"), "--endpoint", harbour.endpoint("n1"))
    assert harbour.cli("backup", *backup).returncode == 0
    newest = put(harbour, b"written since")
    wait_level(harbour, island)
    with grpc.insecure_channel(island.endpoint("n1")) as channel:
        watch: Any = stub(channel, etcd, "Watch")
        create = etcd.WatchCreateRequest(key=b"\0", range_end=b"\0", start_revision=newest + 1)
        done = threading.Event()

        def requests() -> Iterator[etcd.WatchRequest]:
            yield etcd.WatchRequest(create_request=create)
            done.wait(60)

        answers = watch.Watch(requests(), metadata=[("table", "default")], timeout=30)
        assert next(answers).created
        assert harbour.cli("restore", *backup, "-t", "default", "--yes").returncode == 0
        wait_level(harbour, island)
        assert tables(island)["default"].revision > newest, "the counter never goes back"
        assert contents(island, "default") == contents(harbour, "default")
        assert [kv.key for kv in contents(island, "default")] == [b"saved"]
        assert next(answers).compact_revision, "who watched is told that the past is another one"
        done.set()
    assert put(island, b"passed on") == tables(harbour)["default"].revision
    wait_level(harbour, island)


@pytest.mark.long
def test_a_cluster_that_was_made_anew_takes_no_copies_away(harbour: Cluster, island: Cluster) -> None:
    assert harbour.cli("table", "create", "users").returncode == 0
    put(harbour, b"precious")
    wait_level(harbour, island)
    before = positions(island)
    assert before.keys() == {"default", "users"}

    harbour.stop()
    shutil.rmtree(harbour.config.data_dir)
    harbour.start()
    harbour.wait_running()
    put(harbour, b"of another cluster")
    wait_until(
        lambda: "not the one whose tables were copied" in said(island), timeout_s=20, what="the refusal"
    )
    assert "leader-cluster-unknown" in {finding["code"] for finding in findings(island)}
    assert positions(island) == before
    with pytest.raises(CallFailed, match="this is another cluster"):
        put(island, b"through the other")
    assert [kv.key for kv in contents(harbour, "default")] == [b"of another cluster"]
    refusal = island.cli("promote", "--yes")
    assert refusal.returncode == 1
    assert b"not the one whose tables were copied" in refusal.stderr

    # Who wants the other one says so in the file.
    identity = refusal.stderr.split(b"follows.identity: ")[1][:32].decode()
    island.stop()
    document = yaml.safe_load(island.file.read_text())
    document["follows"]["identity"] = identity
    island.file.write_text(yaml.safe_dump(document, sort_keys=False))
    island.reload()
    island.start()
    wait_level(harbour, island)
    assert [kv.key for kv in contents(island, "default")] == [b"of another cluster"]
