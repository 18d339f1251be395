"""What a canary says that clients saw: only what it probed, and every failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from config import ClusterConfig
from tests.waiting import free_ports, wait_until
from tools.admin.canary import Canary
from tools.admin.reach import IN_THE_CLEAR

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.tools.fake_coordinator import Coordinator


def _more(canary: Canary, count: int = 20) -> Callable[[], bool]:
    wanted = canary.sighting().probes + count
    return lambda: canary.sighting().probes >= wanted


def test_it_writes_and_reads_the_oldest_table_of_each_shard(
    coordinator: tuple[Coordinator, ClusterConfig],
) -> None:
    made, cluster = coordinator
    with Canary(cluster, IN_THE_CLEAR) as canary:
        wait_until(_more(canary), timeout_s=10, what="probes")
    seen = canary.sighting()
    assert made.asked == {("default", "Txn"), ("default", "Range"), ("users", "Txn"), ("users", "Range")}
    assert (seen.failed, seen.first_failure, seen.coordinators, seen.shards) == (0, "", ("n1",), (1, 2))
    assert seen.slowest_ms > 0
    gone, without = seen.not_probed
    assert gone.startswith("n2: ")
    assert without == "shard 3: it holds no table, or none that answered"
    assert str(seen).startswith("clients saw 0 failed, slowest ")


def test_every_failure_counts(coordinator: tuple[Coordinator, ClusterConfig]) -> None:
    made, cluster = coordinator
    with Canary(cluster, IN_THE_CLEAR) as canary:
        made.failing = {"users"}
        wait_until(_more(canary), timeout_s=10, what="probes")
    seen = canary.sighting()
    assert 0 < seen.failed < seen.probes
    assert seen.first_failure == "n1, table users: no luck (UNAVAILABLE)"
    assert f"clients saw {seen.failed} failed" in str(seen)


def test_what_fails_before_is_left_out_and_named(coordinator: tuple[Coordinator, ClusterConfig]) -> None:
    made, cluster = coordinator
    made.failing = {"users"}
    with Canary(cluster, IN_THE_CLEAR) as canary:
        wait_until(_more(canary), timeout_s=10, what="probes")
    seen = canary.sighting()
    assert (seen.failed, seen.shards) == (0, (1,))
    assert "n1, table users: no luck (UNAVAILABLE)" in seen.not_probed


def test_without_a_probe_nothing_is_claimed() -> None:
    here, http, peer = free_ports(3)
    node = {"client_port": here, "http_port": http, "peer_port": peer}
    with Canary(ClusterConfig.model_validate({"nodes": {"n1": node}, "shards": 1}), IN_THE_CLEAR) as canary:
        pass
    assert str(canary.sighting()).startswith("what clients saw is not known: nothing could be probed (n1: ")
