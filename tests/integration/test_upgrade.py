"""Real replicas are upgraded one by one: what only the newer build can apply waits for the last of them."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.methods import LEVEL
from tests.integration import newer_build, newer_worker
from tests.integration.clients import Load
from tests.integration.cluster import Cluster
from tests.integration.workers import TABLE, WorkerProcess, Workers
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from proto.internal import frames_pb2 as frames

NEWER = newer_worker.__name__


def ask_new(worker: WorkerProcess, key: bytes, request_id: bytes) -> frames.Reply:
    body = etcd.PutRequest(key=key, value=b"new").SerializeToString()
    return worker.ask(newer_worker.NEW_COMMAND, body, table_id=TABLE, request_id=request_id)


def level(worker: WorkerProcess) -> int:
    return worker.status().statistics["machine_level"]


@pytest.mark.long
def test_nodes_are_upgraded_one_by_one_under_load(tmp_path: Path) -> None:
    """Old coordinators speak to new workers and the other way round, and old workers to new ones."""
    newer = (sys.executable, "-m", newer_build.__name__)
    with Cluster(tmp_path, nodes=3, shards=2, separate=True) as cluster:
        cluster.wait_leaders()
        wait_until(lambda: levels(cluster) == {LEVEL}, timeout_s=30, what="the level of this build")
        with Load(cluster.endpoints, clients=12, seed=18, retry_elsewhere=True) as load:
            load.wait_answers(100)
            for node in ("n1", "n2", "n3"):
                assert levels(cluster) == {LEVEL}, "it rises once all are new"
                cluster.stop_node(node)
                cluster.builds[node] = newer
                cluster.start_node(node)
                cluster.wait_running()
                wait_until(lambda: not behind(cluster), timeout_s=60, what=f"{node} to be level")
                # Mixed, whoever leads: leaders of the new build, and then of the old one.
                assert cluster.cli("shard", "balance").returncode == 0
                load.wait_answers(200)
                seen = cluster.cli_json("status")
                assert {row["state"] for row in seen} == {"running"}
        assert {failure.code for failure in load.failures} <= {"UNAVAILABLE"}, load.failures[:5]
        load.check()
        wait_until(lambda: levels(cluster) == {LEVEL + 1}, timeout_s=30, what="the level to rise")


def levels(cluster: Cluster) -> set[int]:
    """Of all replicas."""
    return {status.statistics["machine_level"] for shard in (1, 2) for status in cluster.ask(shard).values()}


def behind(cluster: Cluster) -> bool:
    """Whether any replica is away, or lacks something."""
    return any(
        not replica["serves"] for seen in cluster.cli_json("shard", "list") for replica in seen["replicas"]
    )


def test_a_rolling_upgrade_and_a_node_that_goes_back(tmp_path: Path) -> None:
    with Workers(tmp_path, 3) as workers:
        workers.start_all()
        workers.at_leader(WorkerProcess.create_table)
        for worker in workers:  # one that has not begun yet would take itself for one that lost its disk
            workers.wait_alike(worker)
        wait_until(lambda: {level(worker) for worker in workers} == {LEVEL}, timeout_s=10, what="this level")
        with pytest.raises(errors.MethodNotServed):
            workers.at_leader(partial(ask_new, key=b"a", request_id=b"refused by old__"))
        *upgraded, behind = workers
        for worker in upgraded:
            worker.stop()
            worker.start(build=NEWER)
        workers.lead(upgraded[0])
        refusal = f"machine level {LEVEL}, this needs {LEVEL + 1}; it rises when every voter"
        with pytest.raises(errors.UpgradeInProgress, match=refusal):
            ask_new(upgraded[0], b"a", b"refused by level")
        # More than a round of questions, each of which the node behind answers.
        applied = behind.status().applied_index
        workers.at_leader(partial(WorkerProcess.put, key=b"k", value=b"v", request_id=b"an ordinary put_"))
        wait_until(lambda: behind.status().applied_index > applied, timeout_s=10, what="the put to arrive")
        assert {level(worker) for worker in workers} == {LEVEL}

        behind.stop()
        behind.start(build=NEWER)
        workers.lead(upgraded[0])
        wait_until(lambda: level(upgraded[0]) == LEVEL + 1, timeout_s=10, what="the level to rise")
        reply = ask_new(upgraded[0], b"a", b"taken, and once_")
        for worker in workers:
            workers.wait_alike(worker)
            assert worker.range(b"a", linearizable=False).kvs[0].value == b"new"
        assert ask_new(upgraded[0], b"a", b"taken, and once_").revision == reply.revision

        behind.stop()
        behind.start()
        assert behind.wait_dead() == 1
        said = b"".join(behind.said)
        assert f"gone on to machine level {LEVEL + 1}, and this version can apply".encode() in said
        assert workers.leader(other_than=behind).range(b"a").count == 1, "the others serve"
