"""A rolling upgrade: the machine level rises once the last voter can apply it, and not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.machine import REGISTRY
from tests.mutants import scenarios
from tests.simulation.plan import Plan
from tests.simulation.simulation import run
from tests.simulation.upgrade import NEWER
from tests.simulation.world import MS

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster


def levels(cluster: Cluster) -> set[int]:
    return {process.machine.level for process in cluster.processes()}


def test_the_level_rises_with_the_last_voter() -> None:
    seen: list[tuple[int, set[int]]] = []

    def scenario(cluster: Cluster) -> None:
        scenarios.upgrade(cluster)

        def look() -> None:
            builds = [host.registry.level for host in cluster.hosts]
            seen.append((min(builds), levels(cluster)))
            cluster.world.after(50 * MS, look)

        look()

    plan = Plan(seed=1, voters=3, spares=0, clients=2, safety_ms=5_000, intensity=0.0)
    finding = run(plan, scenario=scenario)
    assert finding.violation is None, finding.violation
    assert all(
        max(reached, default=0) <= REGISTRY.level for build, reached in seen if build == REGISTRY.level
    )
    assert seen[-1] == (NEWER.level, {NEWER.level})


def test_a_shard_whose_builds_are_alike_is_at_their_level() -> None:
    """Also one that is born with a build of a later version."""
    reached: list[set[int]] = []

    def scenario(cluster: Cluster) -> None:
        for host in cluster.hosts:
            host.kill()
            host.registry = NEWER
            host.start()
        cluster.world.after(1_500 * MS, lambda: reached.append(levels(cluster)))

    finding = run(
        Plan(seed=2, voters=3, spares=0, clients=2, safety_ms=2_000, intensity=0.0), scenario=scenario
    )
    assert finding.violation is None, finding.violation
    assert reached == [{NEWER.level}]
