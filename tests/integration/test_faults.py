"""A three-node cluster of real processes under 64 clients, while its processes are killed and paused.

What the clients were told is recorded and judged: linearizable per key, revisions in real time's order, every
acknowledged write there once. Killing a worker may not fail a single call.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from config.process.names import ProcessName
from tests.integration.clients import Load
from tests.integration.cluster import Cluster
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARDS = 2
TABLES = {"default": {"shard": 1}, "second": {"shard": 2}}
PAUSE_S_MAX = 2.0
READY_S = 60.0
CALM_ANSWERS = 300
"""Answers between two faults: the load runs again, and not only on what was in flight."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("faults")
    with Cluster(folder, nodes=3, shards=SHARDS, replicas=3, tables=TABLES) as running:
        running.wait_leaders()
        yield running


@contextmanager
def load_on(
    cluster: Cluster, *, seed: int, nodes: tuple[str, ...] = (), repeats: bool = False
) -> Iterator[Load]:
    """64 clients at work, on all nodes or on these; they have begun when the block does and go on until its end."""
    endpoints = tuple(cluster.endpoint(node) for node in nodes) or cluster.endpoints
    with Load(endpoints, tuple(TABLES), clients=64, seed=seed, retry_elsewhere=repeats) as load:
        load.wait_answers(CALM_ANSWERS)
        yield load
        load.wait_answers(CALM_ANSWERS)


def kill(cluster: Cluster, name: ProcessName) -> None:
    """SIGKILL, and wait until the supervisor has it running again and the shard's replicas agree on their leader."""
    cluster.wait_restarted(name, cluster.kill(name))
    cluster.wait_leaders()


@contextmanager
def paused(cluster: Cluster, *names: ProcessName) -> Iterator[None]:
    """SIGSTOP these processes, SIGCONT at the end."""
    pids = [cluster.pause(name) for name in names]
    try:
        yield
    finally:
        for pid in pids:
            cluster.resume(pid)


def check_unharmed(load: Load) -> None:
    """No call failed, nobody waited for long, and the recorded history is right."""
    assert load.failures == []
    load.check()
    assert load.longest_pause_s() <= PAUSE_S_MAX


@pytest.mark.parametrize("node", ["n1", "n2", "n3"])
def test_killing_each_worker_fails_no_request(cluster: Cluster, node: str) -> None:
    with load_on(cluster, seed=int(node[1])) as load:
        for shard in range(1, SHARDS + 1):
            kill(cluster, ProcessName.replica(node, shard))
            load.wait_answers(CALM_ANSWERS)
    check_unharmed(load)


@pytest.mark.parametrize("shard", range(1, SHARDS + 1))
def test_killing_a_shards_leader_fails_no_request(cluster: Cluster, shard: int) -> None:
    with load_on(cluster, seed=10 + shard) as load:
        for _ in range(2):
            kill(cluster, cluster.leader(shard))
            load.wait_answers(CALM_ANSWERS)
    check_unharmed(load)


def test_killing_a_coordinator_fails_only_calls_on_its_connections(cluster: Cluster) -> None:
    """And the client that repeats its write, with the same request id at another node, writes it once."""
    with load_on(cluster, seed=20, repeats=True) as load:
        kill(cluster, ProcessName.coordinator("n2"))
    assert load.failures, "no call was in flight on the coordinator: nothing was tested"
    assert {failure.endpoint for failure in load.failures} == {cluster.endpoint("n2")}
    assert {failure.code for failure in load.failures} == {"UNAVAILABLE"}
    load.check()


def test_a_write_lost_with_its_coordinator_is_applied_at_most_once(cluster: Cluster) -> None:
    """Clients that repeat nothing: the history has calls of unknown fate."""
    with load_on(cluster, seed=21) as load:
        kill(cluster, ProcessName.coordinator("n1"))
    assert {failure.endpoint for failure in load.failures} == {cluster.endpoint("n1")}
    assert {failure.code for failure in load.failures} == {"UNAVAILABLE"}
    load.check()


def test_a_paused_leader_is_replaced_and_steps_down_when_it_wakes(cluster: Cluster) -> None:
    with load_on(cluster, seed=30) as load:
        leader = cluster.leader(1)
        with paused(cluster, leader):
            wait_until(
                lambda: cluster.leader(1) != leader,
                timeout_s=READY_S,
                what="another leader while one is paused",
            )
            load.wait_answers(CALM_ANSWERS)
        cluster.wait_leaders()
    check_unharmed(load)


pytestmark = pytest.mark.alone


def test_a_paused_node_stops_only_its_own_clients(cluster: Cluster) -> None:
    names = [
        ProcessName.coordinator("n2"),
        *(ProcessName.replica("n2", shard) for shard in range(1, SHARDS + 1)),
    ]
    with load_on(cluster, seed=31, nodes=("n1", "n3")) as load:
        with paused(cluster, *names):
            load.wait_answers(2 * CALM_ANSWERS)
        cluster.wait_leaders()
    check_unharmed(load)
