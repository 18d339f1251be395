"""A data folder has one owner, and never serves another cluster, node or layout."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import apsw
import psutil
import pytest

from config.loading import parse
from coordinator.supervisor import folder as folder_module
from coordinator.supervisor.folder import NodeFolder, living_holder, lock_holder
from coordinator.supervisor.refusal import StartRefused
from tests.waiting import wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from config import ClusterConfig

FILE = """\
cluster: demo
data_dir: {data}
nodes:
  n1: {{client_port: 2379, http_port: 8079, peer_port: 7101}}
  n2: {{client_port: 2389, http_port: 8089, peer_port: 7201}}
  n3: {{client_port: 2399, http_port: 8099, peer_port: 7301}}
shards: 4
replicas: 3
"""


def _cluster(data: Path, old: str = "", new: str = "") -> ClusterConfig:
    text = FILE.format(data=data)
    assert old in text
    return parse(text.replace(old, new) if old else text, "cluster.yaml")


def _claim_and_release(cluster: ClusterConfig, node: str = "n1") -> None:
    NodeFolder.claim(cluster, node).release()


def _refusal(cluster: ClusterConfig, node: str = "n1") -> str:
    with pytest.raises(StartRefused) as caught:
        _claim_and_release(cluster, node)
    return str(caught.value)


def test_a_new_folder_learns_whose_it_is(tmp_path: Path) -> None:
    cluster = _cluster(tmp_path / "deep" / "data")
    _claim_and_release(cluster)
    identity = json.loads((cluster.node_dir("n1") / "node.json").read_text())
    assert identity == {
        "format": 1,
        "cluster": "demo",
        "cluster_id": "58e5513ff559bc28",
        "node": "n1",
        "node_id": 1,
        "shards": 4,
        "replicas": 3,
        "nodes": {"n1": 1, "n2": 2, "n3": 3},
    }
    _claim_and_release(cluster)


def test_ports_hosts_and_tables_may_change(tmp_path: Path) -> None:
    _claim_and_release(_cluster(tmp_path))
    _claim_and_release(_cluster(tmp_path, "2379", "5379"))
    _claim_and_release(_cluster(tmp_path, "n1: {", "n1: {host: 127.0.0.9, "))
    _claim_and_release(_cluster(tmp_path, "shards: 4", "shards: 4\ntables: {other: {}}"))


def test_there_may_be_more_shards_and_then_not_fewer(tmp_path: Path) -> None:
    _claim_and_release(_cluster(tmp_path))
    grown = _cluster(tmp_path, "shards: 4", "shards: 6")
    _claim_and_release(grown)
    assert json.loads((grown.node_dir("n1") / "node.json").read_text())["shards"] == 6
    assert "has had shards: 6 and the cluster file says shards: 4" in _refusal(_cluster(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "cluster: demo",
            "cluster: other",
            "holds data of cluster demo, not of other; use another data_dir, or the file of cluster demo",
        ),
        (
            "shards: 4",
            "shards: 3",
            (
                "has had shards: 4 and the cluster file says shards: 3; there can be more of them and not fewer: "
                "set it back, or use another data_dir"
            ),
        ),
        (
            "replicas: 3",
            "replicas: 1",
            (
                "was made with replicas: 3 and the cluster file says replicas: 1; it can't change once there is data: "
                "set it back, or use another data_dir"
            ),
        ),
        (
            "n1: {",
            "n1: {id: 9, ",
            "holds data of node n1 (id 1), not of node n1 (id 9); move the folder back, or set the name and id back",
        ),
        (
            "n3: {",
            "n4: {",
            (
                "was made for the nodes n1 (id 1), n2 (id 2), n3 (id 3); the ids of these can't change once there is "
                "data: set them back, or use another data_dir. A node that comes later is written with `joins: true`; "
                "one that founded the cluster may go from the file once `boathouse node remove` has taken it out of "
                "its shards"
            ),
        ),
    ],
)
def test_data_of_another_layout_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    _claim_and_release(_cluster(tmp_path))
    before = (tmp_path / "n1" / "node.json").read_bytes()
    assert _refusal(_cluster(tmp_path, old, new)) == f"{tmp_path / 'n1'} {complaint}"
    assert (tmp_path / "n1" / "node.json").read_bytes() == before


def test_a_folder_moved_from_another_node_is_refused(tmp_path: Path) -> None:
    _claim_and_release(_cluster(tmp_path))
    (tmp_path / "n1").rename(tmp_path / "n2")
    assert "holds data of node n1 (id 1), not of node n2 (id 2)" in _refusal(_cluster(tmp_path), "n2")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    _claim_and_release(_cluster(tmp_path))
    (tmp_path / "n1" / "node.json").write_text('{"format": 2}')
    assert "was written in format 2, this version reads format 1" in _refusal(_cluster(tmp_path))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_identity_is_refused(tmp_path: Path, content: bytes) -> None:
    _claim_and_release(_cluster(tmp_path))
    (tmp_path / "n1" / "node.json").write_bytes(content)
    assert "node.json is damaged; restore it, or use another data_dir" in _refusal(_cluster(tmp_path))


def test_shards_of_nobody_are_refused(tmp_path: Path) -> None:
    (tmp_path / "n1" / "shard-1").mkdir(parents=True)
    assert "holds shards but no node.json" in _refusal(_cluster(tmp_path))


def test_a_crash_while_the_identity_was_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1" / "node.json.new").write_text('{"form')
    _claim_and_release(_cluster(tmp_path))


def test_the_names_of_new_folders_are_on_disk_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    cluster = _cluster(tmp_path / "a" / "b")
    _claim_and_release(cluster)
    assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")} <= set(synced)
    synced.clear()
    _claim_and_release(cluster)
    assert not synced


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    complaint = _refusal(_cluster(tmp_path / "file"))
    assert complaint == f"the data folder {tmp_path / 'file' / 'n1'} can't be written: Not a directory"


def test_the_second_claim_names_the_holder(tmp_path: Path) -> None:
    cluster = _cluster(tmp_path)
    folder = NodeFolder.claim(cluster, "n1")
    assert lock_holder(folder.path) == {"pid": os.getpid(), "control": str(cluster.control_socket("n1"))}
    assert _refusal(cluster) == (
        f"node n1 is up already: process {os.getpid()} holds {tmp_path / 'n1'}; `boathouse down` stops it"
    )
    NodeFolder.claim(cluster, "n2").release()
    folder.release()
    _claim_and_release(cluster)


def _holder_that_died(tmp_path: Path) -> tuple[ClusterConfig, subprocess.Popen[bytes]]:
    """A folder whose supervisor is gone and whose child, which inherited the lock, is not."""
    cluster = _cluster(tmp_path)
    folder = NodeFolder.claim(cluster, "n1")
    orphan = subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        pass_fds=(folder.lock_fd,),
    )
    dead = subprocess.Popen([sys.executable, "-S", "-c", ""])
    dead.wait()
    os.pwrite(folder.lock_fd, json.dumps({"pid": dead.pid}).encode().ljust(200), 0)
    folder.release()
    return cluster, orphan


def test_orphans_of_a_dead_supervisor_keep_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "ORPHANS_WAIT_S", 0.2)
    cluster, orphan = _holder_that_died(tmp_path)
    try:
        assert "processes of an earlier start still use" in _refusal(cluster)
    finally:
        orphan.communicate()


def test_a_start_waits_for_orphans_to_end(tmp_path: Path) -> None:
    cluster, orphan = _holder_that_died(tmp_path)
    assert orphan.stdin is not None
    orphan.stdin.close()  # as when the supervisor dies: the child sees the end of its stdin
    _claim_and_release(cluster)
    orphan.wait()


def test_a_killed_supervisor_that_nobody_has_collected_does_not_count(tmp_path: Path) -> None:
    cluster, orphan = _holder_that_died(tmp_path)
    killed = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (tmp_path / "n1" / "lock").write_text(json.dumps({"pid": killed.pid}))
        killed.kill()
        wait_until(
            lambda: psutil.Process(killed.pid).status() == psutil.STATUS_ZOMBIE, timeout_s=5, what="a zombie"
        )
        assert orphan.stdin is not None
        orphan.stdin.close()
        _claim_and_release(cluster)
    finally:
        killed.communicate()
        orphan.wait()


def test_no_holder_is_known_where_nobody_was(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) == {}
    for content in (b"", b"[]", b"{"):
        (tmp_path / "lock").write_bytes(content)
        assert lock_holder(tmp_path) == {}


def test_a_living_holder_is_known_and_a_dead_one_is_not(tmp_path: Path) -> None:
    cluster = _cluster(tmp_path)
    assert living_holder(tmp_path / "n1") is None
    folder = NodeFolder.claim(cluster, "n1")
    assert living_holder(folder.path) == os.getpid()
    folder.release()
    assert living_holder(folder.path) is None


def test_a_path_too_long_for_sqlite_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    def data(length: int) -> Path:
        stem = tmp_path / "a" / ("x" * 200)
        rest = length - len(str(stem)) - 1
        return stem / ("y" * (rest // 2)) / ("z" * (rest - rest // 2 - 1))

    limit = 480 - len("/n1/shard-1")
    assert _refusal(_cluster(data(limit + 1))) == (
        f"the path of data_dir is too long for SQLite: it may have {limit} bytes here, "
        f"{data(limit + 1)} has {limit + 1}"
    )
    assert not (tmp_path / "a").exists()
    cluster = _cluster(data(limit))
    _claim_and_release(cluster)
    # The name that a replica's database has, and the longest beside it.
    replica = cluster.replica_dir("n1", 1)
    replica.mkdir()
    with contextlib.closing(apsw.Connection(str(replica / "replica-00000001.db"))) as connection:
        assert connection.pragma("journal_mode", "wal") == "wal"
        connection.execute("CREATE TABLE t (a)")


def test_what_was_open_to_others_is_closed_at_the_start(tmp_path: Path) -> None:
    cluster = _cluster(tmp_path / "data")
    _claim_and_release(cluster)
    node = cluster.node_dir("n1")
    logs = node / "logs"
    logs.mkdir()
    (logs / "worker.log").write_text("what clients store")
    outside = tmp_path / "outside"
    outside.write_text("another's")
    (node / "link").symlink_to(outside)
    for path in (node, logs, logs / "worker.log", node / "node.json", outside):
        path.chmod(0o755)
    _claim_and_release(cluster)
    found = {path: path.stat().st_mode & 0o777 for path in (node, *node.rglob("*"), outside)}
    assert found.pop(outside) == found.pop(node / "link") == 0o755
    assert {path.name: mode for path, mode in found.items()} == {
        "n1": 0o700, "logs": 0o700, "worker.log": 0o600, "node.json": 0o600, "lock": 0o600,
    }  # fmt: skip
