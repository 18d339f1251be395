"""`boathouse backup` and `restore` on real clusters, under load, between clusters, and with processes killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import apsw
import cramjam
import grpc

from config.process.names import COORDINATOR, SHARDWORKER, ProcessName
from proto.etcd import rpc_pb2 as etcd
from proto.regatta import maintenance_pb2 as maintenance
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import replication_pb2 as replication
from tests.integration.cluster import Cluster
from tests.stubs import stub
from tests.terminal import on_terminal
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVERYTHING = etcd.RangeRequest(key=b"\0", range_end=b"\0")


class Kv:
    """A table of a cluster, by etcd's API."""

    def __init__(self, cluster: Cluster, table: str = "default") -> None:
        self._channel = grpc.insecure_channel(cluster.endpoint("n1"))
        self._kv: Any = stub(self._channel, etcd, "KV")
        self._metadata = (("table", table),)

    def put(self, key: str, value: str = "v", lease: int = 0) -> int:
        request = etcd.PutRequest(key=key.encode(), value=value.encode(), lease=lease)
        revision: int = self._kv.Put(request, metadata=self._metadata, timeout=10).header.revision
        return revision

    def delete(self, request: etcd.DeleteRangeRequest) -> None:
        self._kv.DeleteRange(request, metadata=self._metadata, timeout=10)

    def wipe(self) -> None:
        self.delete(etcd.DeleteRangeRequest(key=b"\0", range_end=b"\0"))

    def at(self, revision: int = 0) -> dict[bytes, tuple[bytes, int, int, int]]:
        """What it holds then: value, create and mod revision, version."""
        request = etcd.RangeRequest(key=b"\0", range_end=b"\0", revision=revision)
        found = self._kv.Range(request, metadata=self._metadata, timeout=10).kvs
        return {kv.key: (kv.value, kv.create_revision, kv.mod_revision, kv.version) for kv in found}

    def revision(self) -> int:
        found: int = self._kv.Range(EVERYTHING, metadata=self._metadata, timeout=10).header.revision
        return found


def run(cluster: Cluster, *words: str, code: int = 0) -> Any:
    """A command with -o json; what it printed."""
    done = cluster.cli(*words, "--endpoint", cluster.endpoint("n1"), "-o", "json")
    assert done.returncode == code, done.stderr.decode()
    return json.loads(done.stdout) if code == 0 else done.stderr.decode()


def test_a_backup_under_load_is_the_table_at_one_revision(tmp_path: Path) -> None:
    """Full, incremental, wiped, restored; then into another cluster with more shards."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    folder = tmp_path / "backup"
    tables: dict[str, Any] = {"default": {}, "brief": {"history": "none"}}
    with Cluster(tmp_path / "one", nodes=1, shards=1, tables=tables, calls=True) as cluster:
        kv = Kv(cluster)
        Kv(cluster, "brief").put("b")
        stop = threading.Event()

        def write() -> None:
            number = 0
            mine = Kv(cluster)
            while not stop.is_set():
                number += 1
                mine.put(f"k{number % 50}", str(number))
                if number % 7 == 0:
                    mine.delete(etcd.DeleteRangeRequest(key=f"k{number % 11}".encode()))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            wait_until(lambda: kv.revision() > 100, timeout_s=20, what="100 writes")
            (_, first) = run(cluster, "backup", "--dir", str(folder))
            wait_until(lambda: kv.revision() > first["revision"] + 50, timeout_s=20, what="50 writes")
            (brief, second) = run(cluster, "backup", "--dir", str(folder), "--incremental")
        finally:
            stop.set()
            writer.join()
        assert (first["table"], first["incremental"]) == ("default", False)
        assert second["incremental"]
        assert brief["incremental"], "nothing has changed"
        expected = kv.at(second["revision"])
        assert second["keys"] == len(expected)
        kv.wipe()
        before = kv.revision()
        refusal = run(cluster, "restore", "--dir", str(folder), "-t", "brief", code=1)
        assert "table brief holds 1 keys, which would be replaced; --yes does it" in refusal
        run(cluster, "restore", "--dir", str(folder), "-t", "default")
        assert kv.at() == expected
        assert kv.revision() > before
        kv.put("k", "goes on")
        # What comes now is of another past than the backup.
        (_, third) = run(cluster, "backup", "--dir", str(folder), "--incremental")
        assert not third["incremental"]
        assert "is no longer known" in third["why_full"]
        run(cluster, "restore", "--dir", str(folder), "--verify")
    with Cluster(tmp_path / "other", nodes=1, shards=3, tables={}, calls=True) as other:
        (_, restored) = run(other, "restore", "--dir", str(folder))
        assert restored["revision"] == third["revision"]
        assert Kv(other).at() == expected | {b"k": Kv(other).at()[b"k"]}


def test_the_last_that_is_left_of_a_deleted_table_stays_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    with Cluster(tmp_path, nodes=1, shards=1, tables={"a": {}, "users": {}}, calls=True) as cluster:
        saved = ("backup", "--dir", str(folder), "--endpoint", cluster.endpoint("n1"))
        Kv(cluster, "users").put("k", "the only copy")
        assert cluster.cli(*saved).returncode == 0
        run(cluster, "table", "delete", "users", "--yes")
        for more in ((), ("--incremental",), ("-t", "a")):
            said = cluster.cli(*saved, *more)
            assert b"kept as they were, since the cluster has no such tables: users" in said.stderr
            tables = run(cluster, "restore", "--dir", str(folder), "--verify")
            assert [one["table"] for one in tables] == ["a", "users"]
        run(cluster, "restore", "--dir", str(folder), "-t", "users")
        assert Kv(cluster, "users").at()[b"k"][0] == b"the only copy"
        run(cluster, "table", "delete", "users", "--yes")
        said = cluster.cli(*saved, "--prune")
        assert b"dropped, since the cluster has no such tables: users" in said.stderr
        (only,) = run(cluster, "restore", "--dir", str(folder), "--verify")
        assert only["table"] == "a"
        assert sorted(file.name for file in folder.iterdir()) == [only_file(folder), "manifest.json"]


def only_file(folder: Path) -> str:
    (table,) = json.loads((folder / "manifest.json").read_bytes())["tables"]
    return str(table["file_name"])


def stream(keys: int) -> bytes:
    puts = [
        mvcc.Command(kv=mvcc.KeyValue(key=b"new/%08d" % n, value=b"v" * 256)).SerializeToString()
        for n in range(keys)
    ]
    return bytes(cramjam.snappy.compress(b"".join(len(one).to_bytes(8, "little") + one for one in puts)))


def messages(data: bytes, hold: threading.Event) -> Iterator[maintenance.RestoreMessage]:
    """All but the last byte; that one once it is let go."""
    yield maintenance.RestoreMessage(info=maintenance.RestoreInfo(table=b"default"))
    for start in range(0, len(data) - 1, 1 << 20):
        piece = data[: len(data) - 1][start : start + (1 << 20)]
        yield maintenance.RestoreMessage(chunk=replication.SnapshotChunk(data=piece))
    hold.wait(60)
    yield maintenance.RestoreMessage(chunk=replication.SnapshotChunk(data=data[-1:]))


def test_killed_in_the_middle_of_a_restore_a_table_is_what_it_was(tmp_path: Path) -> None:
    """The coordinator's death ends a restore. A worker's does not: each part is sent again until it is taken."""
    with Cluster(tmp_path, nodes=1, shards=1, tables={"default": {}}, calls=True) as cluster:
        for number in range(20):
            Kv(cluster).put(f"old{number}")
        before = Kv(cluster).at()
        data = stream(10_000)
        channel = grpc.insecure_channel(cluster.endpoint("n1"))
        restore: Any = stub(channel, maintenance, "Maintenance").Restore
        seen: set[int | None] = {None}
        for victim in (ProcessName("n1", COORDINATOR), ProcessName("n1", SHARDWORKER, 1)):
            hold = threading.Event()
            under_way = restore.future(messages(data, hold), timeout=60, wait_for_ready=True)
            wait_until(lambda: attempt_of(cluster) not in seen, timeout_s=20, what="a few parts")
            seen.add(attempt_of(cluster))
            cluster.wait_restarted(victim, cluster.kill(victim))
            wait_until(lambda: answers(cluster), timeout_s=20, what="an answer")
            assert Kv(cluster).at() == before
            hold.set()
            if victim.kind is COORDINATOR:
                assert under_way.exception() is not None
            else:
                under_way.result()
        assert len(Kv(cluster).at()) == 10_000
        channel.close()


def attempt_of(cluster: Cluster) -> int | None:
    """Which restore the replica holds parts of, by its number."""
    database = cluster.config.replica_dir("n1", 1) / "replica-00000001.db"
    connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.set_busy_timeout(1_000)
        row: Any = connection.execute("SELECT attempt FROM restores_begun WHERE parts > 1").fetchone()
        return None if row is None else int(row[0])
    finally:
        connection.close()


def answers(cluster: Cluster) -> bool:
    try:
        Kv(cluster).revision()
    except grpc.RpcError:
        return False
    return True


def test_an_interrupted_backup_goes_on_and_leaves_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    with Cluster(tmp_path, nodes=1, shards=1, tables={"a": {}, "b": {}}, calls=True) as cluster:
        for table in ("a", "b"):
            for number in range(50):
                Kv(cluster, table).put(f"k{number}", os.urandom(400).hex())
        run(cluster, "backup", "--dir", str(folder))
        before = {file.name: file.read_bytes() for file in folder.iterdir()}
        slow = (
            sys.executable, "-m", "tools.cli", "backup", "--dir", str(folder), "--rate", "20KiB",
            "--endpoint", cluster.endpoint("n1"),
        )  # fmt: skip
        with subprocess.Popen(slow, stderr=subprocess.PIPE) as process:
            unfinished = folder / "manifest.unfinished.json"
            wait_until(unfinished.exists, timeout_s=20, what="the first table")
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            said = process.stderr.read().decode()
        assert process.returncode != 0
        assert "with --resume it goes on" in said
        for name, content in before.items():
            assert (folder / name).read_bytes() == content
        run(cluster, "restore", "--dir", str(folder), "--verify")
        (only,) = run(cluster, "backup", "--dir", str(folder), "--resume")
        assert only["table"] == "b"
        assert len(run(cluster, "restore", "--dir", str(folder), "--verify")) == 2
        assert not unfinished.exists()
        refusal = run(cluster, "backup", "--dir", str(folder), "--resume", code=1)
        assert "holds no interrupted backup" in refusal

        # Who waits for it at a terminal is shown how far it is.
        seen = at_a_terminal(cluster, "backup", "--dir", str(folder), "--incremental", awaited=b"saved b")
        assert re.search(rb"saving b +\S.*100%.*keys/s", seen)
        seen = at_a_terminal(cluster, "restore", "--dir", str(folder), "--yes", awaited=b"restored b")
        assert re.search(rb"restoring b +\S.*100%", seen)


def at_a_terminal(cluster: Cluster, *words: str, awaited: bytes) -> bytes:
    """All that a command writes there until this."""
    command = [sys.executable, "-m", "tools.cli", *words, "--endpoint", cluster.endpoint("n1")]
    with on_terminal(command, os.environ, columns=120) as terminal:
        terminal.wait_shows(awaited, "the end")
        return bytes(terminal.seen)


def test_leases_users_and_a_quota_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    with Cluster(tmp_path, nodes=1, shards=1, tables={"default": {}, "other": {}}, calls=True) as cluster:
        channel = grpc.insecure_channel(cluster.endpoint("n1"))
        leases: Any = stub(channel, etcd, "Lease")
        auth: Any = stub(channel, etcd, "Auth")
        leases.LeaseGrant(etcd.LeaseGrantRequest(ID=7, TTL=600), timeout=10)
        leases.LeaseGrant(etcd.LeaseGrantRequest(ID=8, TTL=3), timeout=10)
        Kv(cluster).put("leased", lease=7)
        Kv(cluster).put("brief", lease=8)
        auth.UserAdd(etcd.AuthUserAddRequest(name="root", password="secret"), timeout=10)
        auth.UserGrantRole(etcd.AuthUserGrantRoleRequest(user="root", role="root"), timeout=10)
        run(cluster, "backup", "--dir", str(folder), "-t", "default")
        run(cluster, "restore", "--dir", str(folder), "-t", "default", "--as", "copy")
        metadata = (("table", "copy"),)
        left = leases.LeaseTimeToLive(
            etcd.LeaseTimeToLiveRequest(ID=7, keys=True), metadata=metadata, timeout=10
        )
        assert (left.grantedTTL, list(left.keys)) == (600, [b"leased"])
        users = auth.UserList(etcd.AuthUserListRequest(), metadata=metadata, timeout=10)
        assert list(users.users) == ["root"]
        wait_until(
            lambda: b"brief" not in Kv(cluster, "copy").at(), timeout_s=20, what="the end of the brief lease"
        )
        assert b"leased" in Kv(cluster, "copy").at()
        run(cluster, "table", "create", "limited", "--quota", "2MiB")
        run(cluster, "backup", "--dir", str(folder), "-t", "limited")
        run(cluster, "table", "delete", "limited", "--yes")
        run(cluster, "restore", "--dir", str(folder), "-t", "limited")
        assert run(cluster, "table", "describe", "limited")["quota"] == 2 << 20
