"""Three nodes as on three machines: cut off both ways or one way, slow, without power; histories are judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.clients import Load
from tests.integration.proxied import TABLES, ProxiedCluster
from tests.integration.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

CALM_ANSWERS = 200
SEED = 7


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedCluster]:
    with FaultProxy(SEED) as proxy, ProxiedCluster(tmp_path_factory.mktemp("partitions"), proxy) as running:
        running.wait_leaders()
        yield running


@pytest.mark.parametrize(("how", "seed"), [("isolate", 41), ("silence", 42)])
def test_a_leader_cut_off_is_replaced_and_comes_back(cluster: ProxiedCluster, how: str, seed: int) -> None:
    """Clients of the other nodes see no error, and what the cut-off leader had proposed happens once or never."""
    leader = cluster.leader(1).node
    others = [cluster.endpoint(node) for node in cluster.config.nodes if node != leader]
    with Load(others, tuple(TABLES), clients=32, seed=seed) as load:
        load.wait_answers(CALM_ANSWERS)
        getattr(cluster, how)(leader)
        load.wait_answers(2 * CALM_ANSWERS)
        cluster.heal()
        cluster.wait_leaders()
        load.wait_answers(CALM_ANSWERS)
    assert load.failures == []
    load.check()


def test_slow_links_change_no_answer(cluster: ProxiedCluster) -> None:
    cluster.slow_down(0.0, 0.04)
    with Load(cluster.endpoints, tuple(TABLES), clients=64, seed=50) as load:
        load.wait_answers(3 * CALM_ANSWERS)
    cluster.heal()
    assert load.failures == []
    load.check()


def test_a_machine_without_power_fails_only_its_own_clients(cluster: ProxiedCluster) -> None:
    """Its processes, the leader of a shard among them, are gone at once; then it comes back with what it had."""
    node = cluster.leader(1).node
    others = [cluster.endpoint(other) for other in cluster.config.nodes if other != node]
    with Load(others, tuple(TABLES), clients=32, seed=60) as load:
        load.wait_answers(CALM_ANSWERS)
        cluster.kill_node(node)
        load.wait_answers(2 * CALM_ANSWERS)
        cluster.start_node(node)
        cluster.wait_running()
        cluster.wait_leaders()
        load.wait_answers(CALM_ANSWERS)
    assert load.failures == []
    load.check()
