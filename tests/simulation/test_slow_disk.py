"""Leadership leaves a disk whose syncs have become slow, once, and stays where all disks are slow."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tests.simulation.plan import Plan
from tests.simulation.simulation import run
from tests.simulation.world import MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.cluster import Cluster

SLOW_S = 0.5


def _leaders(make_slow: Callable[[Cluster], None], *, seed: int, seconds: int) -> list[int]:
    """The nodes that led one after the other; who leads first has been made slow, or more of them."""
    seen: list[int] = []

    def scenario(cluster: Cluster) -> None:
        def look() -> None:
            leader = cluster.leader()
            if leader is not None:
                seen.append(leader.core.settings.node)
            cluster.world.after(20 * MS, look)

        make_slow(cluster)
        look()

    plan = Plan(seed=seed, voters=3, spares=0, clients=2, safety_ms=seconds * 1_000, intensity=0.0)
    finding = run(plan, scenario=scenario)
    assert finding.violation is None, finding.violation
    return [node for node, _ in itertools.groupby(seen)]


def test_a_leader_with_a_slow_disk_hands_over_once() -> None:
    def make_slow(cluster: Cluster) -> None:
        leader = cluster.leader()
        assert leader is not None
        cluster.hosts[leader.core.settings.node - 1].disk.sync_s = SLOW_S

    first, *others = _leaders(make_slow, seed=1, seconds=30)
    assert len(others) == 1, others
    assert others != [first]


def test_where_all_disks_are_slow_nobody_hands_over() -> None:
    def make_slow(cluster: Cluster) -> None:
        for host in cluster.hosts:
            host.disk.sync_s = SLOW_S

    assert len(_leaders(make_slow, seed=2, seconds=15)) == 1
