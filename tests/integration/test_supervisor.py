"""The supervisor with the real processes: clients don't notice a killed worker, restarts roll, refusals are one
line."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import threading
import urllib.request
from typing import TYPE_CHECKING, Self

import pytest

from config.process.names import ProcessName
from config.process.report import State
from proto.etcd import rpc_pb2 as rpc
from tests.integration.cluster import BOATHOUSE, ROOT, Cluster, is_alive, run_cli
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(name="cluster", scope="module")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes under one supervisor. Every test leaves it whole."""
    with Cluster(tmp_path_factory.mktemp("three"), nodes=3, shards=2) as cluster:
        cluster.wait_leaders()
        yield cluster


class Writers:
    """Clients that put numbered keys without pause, each through another node first."""

    def __init__(self, cluster: Cluster, clients: int = 4) -> None:
        self.failures: list[str] = []
        self._cluster = cluster
        self._stop = threading.Event()
        self._acknowledged: list[dict[bytes, bytes]] = [{} for _ in range(clients)]
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def acknowledged(self) -> dict[bytes, bytes]:
        return {key: value for mine in self._acknowledged for key, value in mine.items()}

    def wait_more(self, count: int = 20) -> None:
        """Wait for so many further acknowledgements."""
        target = len(self.acknowledged) + count
        wait_until(
            lambda: self.failures or len(self.acknowledged) >= target,
            timeout_s=30,
            what=f"{count} more writes",
        )

    def _write(self, number: int) -> None:
        node = list(self._cluster.config.nodes)[number % len(self._cluster.config.nodes)]
        with self._cluster.client(node) as client:
            while not self._stop.is_set():
                mine = self._acknowledged[number]
                key, value = b"w/%d/%06d" % (number, len(mine)), b"v%d" % len(mine)
                try:
                    client.put(rpc.PutRequest(key=key, value=value))
                except Exception as error:
                    self.failures.append(f"{key!r}: {error}")
                    return
                mine[key] = value


def _check_all_there_once(cluster: Cluster, writers: Writers) -> None:
    assert writers.failures == []
    with cluster.client() as client:
        kvs = client.range(rpc.RangeRequest(key=b"w/", range_end=b"w0")).kvs
        found = {kv.key: kv for kv in kvs}
        for key, value in writers.acknowledged.items():
            assert found[key].value == value
            assert found[key].version == 1, f"{key!r} was applied {found[key].version} times"
        client.delete_range(rpc.DeleteRangeRequest(key=b"w/", range_end=b"w0"))


def _shard_of_default(cluster: Cluster) -> int:
    """Its shard, once a coordinator has made the table."""

    def holder() -> int | None:
        return next(
            (
                shard
                for shard in (1, 2)
                for status in cluster.ask(shard).values()
                for table in status.tables
                if table.name == "default"
            ),
            None,
        )

    return wait_until(holder, timeout_s=20, what="the table default")


def test_nobody_else_can_read_what_a_cluster_keeps(cluster: Cluster) -> None:
    places = (cluster.config.data_dir, cluster.config.runtime_dir)
    found = {path: path.lstat().st_mode & 0o077 for place in places for path in place.rglob("*")}
    assert any(path.suffix == ".log" for path in found)
    assert any(path.is_socket() for path in found)
    assert [path for path, mode in found.items() if mode] == []


@pytest.mark.parametrize("which", ["leader", "follower"])
def test_clients_do_not_notice_a_killed_worker(cluster: Cluster, which: str) -> None:
    shard = _shard_of_default(cluster)
    with Writers(cluster) as writers:
        writers.wait_more()
        leader = cluster.leader(shard)
        victim = (
            leader if which == "leader" else next(name for name in cluster.replicas(shard) if name != leader)
        )
        report = cluster.wait_restarted(victim, cluster.kill(victim))
        assert report.reason == "killed by SIGKILL"
        writers.wait_more()
    _check_all_there_once(cluster, writers)
    cluster.wait_leaders()


@pytest.mark.parametrize("target", ["shard", "node"])
def test_clients_do_not_notice_a_rolling_restart(cluster: Cluster, target: str) -> None:
    shard = _shard_of_default(cluster)
    names = (
        cluster.replicas(shard)
        if target == "shard"
        else [ProcessName.replica("n2", 1), ProcessName.replica("n2", 2)]
    )
    before = {name: cluster.pid(name) for name in names}
    with Writers(cluster) as writers:
        writers.wait_more()
        # Of the node only its workers: a coordinator's own connections end with it.
        for what in [f"shard-{shard}"] if target == "shard" else ["n2/shard-1", "n2/shard-2"]:
            done = cluster.cli("restart", what)
            assert done.returncode == 0, done.stderr.decode()
        writers.wait_more()
    assert all(cluster.pid(name) != pid for name, pid in before.items())
    _check_all_there_once(cluster, writers)
    cluster.wait_leaders()


def test_a_stopped_replica_stays_stopped_and_the_shard_serves(cluster: Cluster) -> None:
    shard = _shard_of_default(cluster)
    name = cluster.leader(shard)
    assert cluster.cli("stop", str(name)).returncode == 0
    try:
        with cluster.client() as client:
            client.put(rpc.PutRequest(key=b"while", value=b"stopped"))
            assert client.range(rpc.RangeRequest(key=b"while")).kvs[0].value == b"stopped"
        assert cluster.report(name).state is State.STOPPED
        with urllib.request.urlopen(f"http://{cluster.config.node(name.node).http_endpoint}/metrics") as page:
            assert f'boathouse_replica_up{{shard="{shard}"}} 0.0' in page.read().decode()
    finally:
        assert cluster.cli("start", str(name)).returncode == 0
    cluster.wait_leaders()


def test_a_paused_leader_is_replaced_and_comes_back_as_a_follower(cluster: Cluster) -> None:
    shard = _shard_of_default(cluster)
    old = cluster.leader(shard)
    pid = cluster.pause(old)
    try:
        new = wait_until(
            lambda: (now := cluster.leader(shard)) != old and now, timeout_s=20, what="another leader"
        )
        assert new != old
        with cluster.client() as client:
            client.put(rpc.PutRequest(key=b"paused", value=b"no"))
    finally:
        cluster.resume(pid)
    cluster.wait_leaders()
    assert cluster.pid(old) == pid


def test_a_coordinator_comes_back_alone(cluster: Cluster) -> None:
    name = ProcessName.coordinator("n1")
    others = {report.name: report.pid for report in cluster.reports() if report.name != name}
    cluster.wait_restarted(name, cluster.kill(name))
    with cluster.client("n1") as client:
        client.put(rpc.PutRequest(key=b"again", value=b"here"))
    assert {report.name: report.pid for report in cluster.reports() if report.name != name} == others


# ---- each with a cluster of its own ----------------------------------------------------------------------------


def test_data_outlives_the_cluster_and_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=1, shards=2)
    with cluster:
        pids = [report.pid for report in cluster.reports() if report.pid is not None]
        assert len(pids) == 3
        with cluster.client() as client:
            written = client.put(rpc.PutRequest(key=b"k", value=b"v")).header.revision
    assert not any(map(is_alive, pids))
    assert "SIGTERM: stopping in order" in cluster.output()
    with cluster, cluster.client() as client:
        kv = client.range(rpc.RangeRequest(key=b"k")).kvs[0]
        assert (kv.value, kv.mod_revision) == (b"v", written)


def test_nodes_with_supervisors_of_their_own_form_one_cluster(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=3, shards=1, separate=True) as cluster:
        cluster.wait_leaders()
        with cluster.client("n1") as client:
            client.put(rpc.PutRequest(key=b"k", value=b"v"))
        cluster.kill_node("n1")
        with cluster.client("n2") as client:
            assert client.range(rpc.RangeRequest(key=b"k")).kvs[0].value == b"v"
            client.put(rpc.PutRequest(key=b"k", value=b"w"))
        cluster.start()
        cluster.wait_leaders()
        with cluster.client("n1") as client:
            assert client.range(rpc.RangeRequest(key=b"k")).kvs[0].value == b"w"


def test_orphans_of_a_killed_supervisor_end_and_the_next_start_finds_their_data(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=1, shards=1)
    with cluster:
        with cluster.client() as client:
            client.put(rpc.PutRequest(key=b"k", value=b"v"))
        pids = [report.pid for report in cluster.reports() if report.pid is not None]
        cluster.supervisor("n1").kill()
        cluster.supervisor("n1").wait()
        wait_until(
            lambda: not any(map(is_alive, pids)), timeout_s=20, what="the orphans to end by themselves"
        )
    with cluster, cluster.client() as client:
        assert client.range(rpc.RangeRequest(key=b"k")).kvs[0].value == b"v"


def test_up_outlives_its_terminal_and_whoever_read_its_output(tmp_path: Path) -> None:
    """As `boathouse up | head -1` leaves it: the pipe has hung up, and everything else goes on."""
    cluster = Cluster(tmp_path, nodes=1, shards=1)
    supervisor = subprocess.Popen(
        [*BOATHOUSE, "up", str(cluster.file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert supervisor.stdout is not None
    try:
        assert supervisor.stdout.readline().startswith(b"cluster test-")
        supervisor.stdout.close()
        cluster.wait_running()
        name = ProcessName.replica("n1", 1)
        cluster.wait_restarted(name, cluster.kill(name))
        pids = [report.pid for report in cluster.reports() if report.pid is not None]
    finally:
        supervisor.terminate()
        _, errors = supervisor.communicate(timeout=40)
    assert (supervisor.returncode, errors) == (0, b"")
    assert not any(map(is_alive, pids))


def test_up_stops_in_order_when_its_terminal_is_closed(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=1, shards=1)
    terminal, inner = pty.openpty()
    supervisor = subprocess.Popen(
        ["env", "--default-signal", "setsid", "--ctty", *BOATHOUSE, "up", str(cluster.file)],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        cwd=ROOT,
    )
    os.close(inner)
    try:
        cluster.wait_running()
        pids = [report.pid for report in cluster.reports() if report.pid is not None]
        os.close(terminal)  # the kernel sends SIGHUP, and every write fails from now on
        assert supervisor.wait(40) == 0
    finally:
        supervisor.kill()
        supervisor.wait()
    assert not any(map(is_alive, pids))


def test_a_paused_process_is_killed_and_started_again(tmp_path: Path) -> None:
    settings = {"supervisor": {"hang_timeout_ms": 2_000}}
    with Cluster(tmp_path, nodes=1, shards=1, settings=settings) as cluster:
        name = ProcessName.coordinator("n1")
        report = cluster.wait_restarted(name, cluster.pause(name))
        assert report.reason == "did not answer for 2 s"
        with cluster.client("n1") as client:
            client.put(rpc.PutRequest(key=b"k", value=b"v"))


def test_clients_do_not_notice_a_planned_restart_of_their_coordinator(cluster: Cluster) -> None:
    before = cluster.pid(ProcessName.coordinator("n1"))
    with Writers(cluster) as writers:
        writers.wait_more()
        done = cluster.cli("restart", "n1/coordinator")
        assert done.returncode == 0, done.stderr.decode()
        writers.wait_more()
    assert cluster.pid(ProcessName.coordinator("n1")) != before
    _check_all_there_once(cluster, writers)


def _refused(cluster: Cluster) -> str:
    done = run_cli("up", str(cluster.file))
    assert done.returncode == 1
    assert done.stdout == b"", "nothing may be said before the refusal"
    line = done.stderr.decode()
    assert line.count("\n") == 1, f"more than one line: {line}"
    return line.removeprefix("boathouse: ").strip()


def test_a_second_up_on_the_same_data(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=1, shards=1) as cluster:
        pid = cluster.supervisor("n1").pid
        folder = cluster.config.node_dir("n1")
        assert (
            _refused(cluster)
            == f"node n1 is up already: process {pid} holds {folder}; `boathouse down` stops it"
        )
        assert {report.state for report in cluster.reports()} == {State.RUNNING}


def test_a_taken_port(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=1, shards=1)
    port = cluster.config.node("n1").client_port
    with socket.create_server(("127.0.0.1", port)):
        assert f"127.0.0.1:{port} (nodes.n1.client_port) is already in use by process" in _refused(cluster)


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, nodes=1, shards=1)
    (tmp_path / "data").write_text("not a folder")
    assert (
        _refused(cluster) == f"the data folder {tmp_path / 'data' / 'n1'} can't be written: Not a directory"
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda text: text.replace("shards: 2", "shards: 1"),
            "has had shards: 2 and the cluster file says shards: 1",
        ),
        (lambda text: text.replace("cluster: test-", "cluster: other-"), "holds data of cluster test-"),
        (lambda text: text.replace("n1:", "m1:"), None),
    ],
    ids=["shards", "cluster", "node"],
)
def test_data_of_another_layout(tmp_path: Path, change: Callable[[str], str], complaint: str | None) -> None:
    with Cluster(tmp_path, nodes=1, shards=2) as cluster, cluster.client() as client:
        client.put(rpc.PutRequest(key=b"k", value=b"v"))
    original = cluster.file.read_text()
    cluster.file.write_text(change(original))
    if complaint is None:
        (tmp_path / "data" / "n1").rename(tmp_path / "data" / "m1")
        complaint = "holds data of node n1 (id 1), not of node m1 (id 1)"
    assert complaint in _refused(cluster)


def test_an_optimized_python_is_refused(tmp_path: Path) -> None:
    done = run_cli("up", str(Cluster(tmp_path, nodes=1, shards=1).file), PYTHONOPTIMIZE="1")
    assert done.returncode == 1
    assert b"python -O strips the assertions that guard the data" in done.stderr


def test_a_terminal_interrupt_reaches_only_the_supervisor(tmp_path: Path) -> None:
    """Ctrl-C goes to the whole foreground process group; children live in sessions of their own."""
    with Cluster(tmp_path, nodes=1, shards=1) as cluster:
        pids = [report.pid for report in cluster.reports() if report.pid is not None]
        groups = subprocess.run(
            ["ps", "-o", "sid=", "-p", ",".join(map(str, pids))], capture_output=True, check=True
        ).stdout.split()
        assert sorted(map(int, groups)) == sorted(pids)


@pytest.mark.parametrize(("host", "nodes"), [("::1", 3), ("::", 1), ("localhost", 1), ("0.0.0.0", 1)])  # noqa: S104
def test_every_kind_of_host_is_served(tmp_path: Path, host: str, nodes: int) -> None:
    settings = {"data_dir": str(tmp_path / "d"), "insecure": True}
    with Cluster(tmp_path, nodes=nodes, shards=1, host=host, settings=settings, separate=True) as cluster:
        cluster.wait_leaders()
        with cluster.client() as client:
            client.put(rpc.PutRequest(key=b"k", value=b"v"))
            assert client.range(rpc.RangeRequest(key=b"k")).kvs[0].value == b"v"
        page = f"http://{cluster.config.node('n1').http_endpoint}/metrics"
        with urllib.request.urlopen(page, timeout=10) as answer:
            assert b"boathouse_replica_up" in answer.read()
