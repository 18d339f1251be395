"""A node comes to a running cluster, takes another's place, and leaves, with processes that are killed meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from config.process.names import ProcessName
from config.process.report import State
from proto.etcd import rpc_pb2 as rpc
from tests.integration.clients import Load
from tests.integration.cluster import Cluster, run_cli
from tests.waiting import wait_until
from tools.admin.moves import move_table
from tools.admin.reach import Connection
from tools.admin.tables import TablesClient
from tools.bench.systems import etcd_program

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
        calls=True,
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
        # A machine whose file never heard of n4, and that holds no data, sees the same cluster.
        elsewhere = file_without(cluster, "n4", data_dir=str(cluster.folder / "nothing-here"))
        assert [
            seen["voters"] for seen in json.loads(run_cli("shard", "list", elsewhere, "-o", "json").stdout)
        ] == [
            ["n1", "n2", "n4"],
            ["n1", "n2", "n4"],
        ]
        cluster.kill_node("n4")
        step, *_ = json.loads(
            run_cli("restart", "n2/shard-2", file_without(cluster, "n4"), "--dry-run", "-o", "json").stdout
        )
        assert step["quorum_lost_with"] == ["n4/shard-2"]
        with cluster.client() as client:
            client.put(rpc.PutRequest(key=b"while it is away", value=b"v"))
        cluster.start_node("n4")
        cluster.kill(cluster.leader(2))
        with cluster.client("n1") as client:
            client.put(rpc.PutRequest(key=b"after that", value=b"v"))
        wait_until(lambda: ProcessName.replica("n4", 2) in cluster.ask(2), timeout_s=20, what="n4 to be back")
        removed = cluster.cli("node", "remove", "n4")
        assert removed.returncode == 0, removed.stderr.decode()
        # Two voters are left, of the three that the file asks for: it comes again, beside them.
        added = cluster.cli("node", "add", "n4")
        assert added.returncode == 0, added.stderr.decode() + cluster.describe()
        assert members(cluster, 1) == members(cluster, 2) == ({"n1", "n2", "n4"}, set())
        cluster.kill_node("n4")
        refused = cluster.cli("node", "remove", "n2")
        assert refused.returncode == 3, refused.stderr.decode()
        assert b"would lose its quorum without n2 while n4 is away; nothing was done" in refused.stderr


def file_without(cluster: Cluster, node: str, **changed: str) -> str:
    """The path of a cluster file that does not name a node."""
    document = yaml.safe_load(cluster.file.read_text()) | changed
    del document["nodes"][node]
    file = cluster.folder / f"without-{node}-{len(changed)}.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return str(file)


def etcdctl(cluster: Cluster, *words: str, node: str = "n1") -> subprocess.CompletedProcess[str]:
    """What it prints, asked of one node."""
    return subprocess.run(
        [str(etcd_program("etcdctl")), "--endpoints", cluster.endpoint(node), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"ETCDCTL_API": "3"},
    )


def listed(cluster: Cluster, node: str = "n1") -> dict[str, dict[str, Any]]:
    """The members that a node tells of, by their names."""
    done = etcdctl(cluster, "member", "list", "-w", "json", node=node)
    assert done.returncode == 0, done.stderr
    return {member.get("name", ""): member for member in json.loads(done.stdout)["members"]}


def test_etcdctl_adds_promotes_and_removes_a_member(cluster: Cluster) -> None:
    with cluster:
        cluster.wait_leaders()
        fill(cluster)
        cluster.write_joining_node("n4", 4)
        url = f"http://127.0.0.1:{cluster.config.node('n4').peer_port}"
        added = etcdctl(cluster, "member", "add", "n4", f"--peer-urls={url}", "--learner")
        assert added.returncode == 0, added.stderr + cluster.describe()
        assert 'ETCD_INITIAL_CLUSTER_STATE="existing"' in added.stdout
        number = f"{listed(cluster)['']['ID']:x}"
        assert listed(cluster)[""]["isLearner"] is True
        for words, text in (
            (("add", "n5", f"--peer-urls={url}"), "etcdserver: Peer URLs already exists"),
            (
                ("add", "n5", "--peer-urls=http://127.0.0.1:1", "--learner"),
                "etcdserver: too many learner members",
            ),
            (("promote", number), "can only promote a learner member which is in sync with leader"),
            (("remove", "1234"), "etcdserver: member not found"),
        ):
            assert text in etcdctl(cluster, "member", *words).stderr, words
        cluster.start_node("n4")
        wait_until(lambda: "n4" in listed(cluster), timeout_s=30, what="n4 to say who it is")
        assert listed(cluster)["n4"]["clientURLs"] == [f"http://{cluster.endpoint('n4')}"]

        def promoted() -> bool:
            return etcdctl(cluster, "member", "promote", number, node="n2").returncode == 0

        wait_until(promoted, timeout_s=30, what="n4 to vote", interval_s=0.3)
        assert "can only promote a learner member" in etcdctl(cluster, "member", "promote", number).stderr
        assert members(cluster, 1)[0] == members(cluster, 2)[0] == {"n1", "n2", "n3", "n4"}
        for words, text in (
            (("1234", f"--peer-urls={url}"), "etcdserver: member not found"),
            (
                (f"{listed(cluster)['n3']['ID']:x}", f"--peer-urls={url}"),
                "etcdserver: Peer URLs already exists",
            ),
        ):
            assert text in etcdctl(cluster, "member", "update", *words).stderr, words
        again = url.replace("127.0.0.1", "localhost")
        updated = etcdctl(cluster, "member", "update", number, f"--peer-urls={again}")
        assert updated.returncode == 0, updated.stderr
        assert listed(cluster, "n2")["n4"]["peerURLs"] == [again]
        wait_until(lambda: holds_all(cluster, "n4"), timeout_s=20, what="n4 to hold what was written")
        # Its own header names the member that the list names.
        status = etcdctl(cluster, "endpoint", "status", "-w", "json", node="n4")
        assert json.loads(status.stdout)[0]["Status"]["header"]["member_id"] == listed(cluster)["n4"]["ID"]
        # A voter is gone: no further one may go, nor may one come; the dead one may.
        n3 = f"{listed(cluster)['n3']['ID']:x}"
        cluster.kill_node("n3")
        unhealthy = (
            ("add", "n5", "--peer-urls=http://127.0.0.1:1"),
            ("add", "n5", "--peer-urls=http://127.0.0.1:1", "--learner"),
        )
        wait_until(
            lambda: all(
                "etcdserver: unhealthy cluster" in etcdctl(cluster, "member", *words).stderr
                for words in unhealthy
            ),
            timeout_s=20,
            what="the leaders to miss n3",
        )
        gone = etcdctl(cluster, "member", "remove", n3)
        assert gone.returncode == 0, gone.stderr
        assert set(listed(cluster, "n4")) == {"n1", "n2", "n4"}
        assert etcdctl(cluster, "put", "after", "that", node="n4").stdout == "OK\n"


@pytest.mark.long
def test_tables_move_and_leaders_spread_while_a_node_comes(cluster: Cluster) -> None:
    """Every shard changes its members, and a table goes from one to the other and back, under load."""
    with cluster:
        cluster.wait_leaders()
        fill(cluster)
        cluster.write_joining_node("n4", 4)
        cluster.start_node("n4")
        tables = TablesClient(Connection(cluster.endpoints[:3], None, ""), 60.0)
        with (
            Load(cluster.endpoints[:3], clients=12, seed=4, retry_elsewhere=True) as load,
            ThreadPoolExecutor(1) as pool,
        ):
            load.wait_answers(100)
            added = pool.submit(cluster.cli, "node", "replace", "n3", "n4")
            moves = 0
            while not added.done() or moves < 2:
                (entry,) = [each for each in tables.list() if each.name == "default"]
                move_table(tables, "default", 3 - entry.shard)
                moves += 1
            assert added.result().returncode == 0, added.result().stderr.decode() + cluster.describe()
            balanced = cluster.cli("shard", "balance")
            assert balanced.returncode == 0, balanced.stderr.decode()
            load.wait_answers(100)
        assert {failure.code for failure in load.failures} <= {"UNAVAILABLE"}, load.failures[:5]
        load.check()
        assert members(cluster, 1) == members(cluster, 2) == ({"n1", "n2", "n4"}, set())
        assert holds_all(cluster, "n4")


@pytest.mark.long
def test_a_shard_is_not_lost_while_a_member_lives_that_the_file_does_not_name(cluster: Cluster) -> None:
    with cluster:
        cluster.wait_leaders()
        cluster.write_joining_node("n4", 4)
        cluster.start_node("n4")
        done = cluster.cli("node", "replace", "n3", "n4")
        assert done.returncode == 0, done.stderr.decode() + cluster.describe()
        file = file_without(cluster, "n4")
        for node in ("n1", "n2", "n3"):
            cluster.kill_node(node)
        members_file = cluster.config.node_dir("n1") / "members.json"
        for learned in (True, False):
            if not learned:
                members_file.unlink()
            needless = run_cli("recover", "n1", file)
            assert needless.returncode == 1
            for shard in (1, 2):
                assert f"shard {shard} is not lost: n4 answer".encode() in needless.stderr, needless
        assert b"n4 answers, and is not lost" in run_cli("recover", "n1", file, "--lost", "n4").stderr
        cluster.kill_node("n4")
        assert b"Lost is what n2, n4 acknowledged" in run_cli("recover", "n1", file, "--dry-run").stdout


@pytest.mark.long
def test_one_replica_goes_on_when_the_majority_is_lost(cluster: Cluster) -> None:
    with cluster:
        cluster.wait_leaders()
        fill(cluster)
        wait_until(lambda: holds_all(cluster, "n3"), timeout_s=20, what="n3 to hold what was written")
        running = cluster.cli("recover", "n3")
        assert running.returncode == 1
        assert b"is up" in running.stderr
        cluster.kill_node("n3")
        needless = cluster.cli("recover", "n3")
        assert needless.returncode == 1
        assert b"is not lost" in needless.stderr
        for node in ("n1", "n2"):
            cluster.kill_node(node)
            cluster.config.node_dir(node).rename(cluster.folder / f"lost-{node}")
        assert b"up to entry" in cluster.cli("recover", "n3", "--dry-run").stdout
        one = cluster.cli("recover", "n3", "--shard", "1")
        assert one.returncode == 0, one.stderr.decode()
        # It goes on where it was interrupted, and once nothing is left says so.
        done = cluster.cli("recover", "n3")
        assert done.returncode == 0, done.stderr.decode()
        assert b"n3 is all of shard 1 already" in done.stdout
        assert b"Lost is what n1, n2 acknowledged" in done.stdout
        assert cluster.cli("recover", "n3").returncode == 1
        cluster.start_node("n3")
        wait_until(lambda: holds_all(cluster, "n3"), timeout_s=30, what="n3 to serve")
        with cluster.client("n3") as client:
            client.put(rpc.PutRequest(key=b"after that", value=b"v"))
        # The lost ones come back with what they had: they are a majority of the group that was.
        for node in ("n1", "n2"):
            (cluster.folder / f"lost-{node}").rename(cluster.config.node_dir(node))
            cluster.start_node(node)
        for node in ("n1", "n2"):
            wait_until(
                lambda node=node: (
                    not any(  # type: ignore[misc]
                        report.name.shard and report.state is State.RUNNING
                        for report in cluster.reports(node)
                    )
                ),
                timeout_s=20,
                what=f"the replicas of {node} to end",
            )
        with cluster.client("n1") as client:
            client.put(rpc.PutRequest(key=b"through a node that was lost", value=b"v"))
        for node in ("n1", "n2"):
            cluster.stop_node(node)
            shutil.rmtree(cluster.config.node_dir(node))
        for node in ("n1", "n2"):
            cluster.start_node(node)
            added = cluster.cli("node", "add", node)
            assert added.returncode == 0, added.stderr.decode() + cluster.describe()
        assert members(cluster, 2) == ({"n1", "n2", "n3"}, set())
        cluster.kill(ProcessName.replica("n3", 2))
        wait_until(lambda: holds_all(cluster, "n1"), timeout_s=30, what="n1 to hold what was kept")
