"""The paper's guarantees hold in random trouble, and the group serves again once it ends."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.property.raft.chaos import ChaosCluster, Trouble, run_seed

KINDS = {
    "three": Trouble(),
    "five": Trouble(voters=5, spares=0),
    "lone": Trouble(voters=1, spares=2),
    "learners": Trouble(learners=2, spares=0),
    "no-pre-vote": Trouble(pre_vote=False),
    "no-check-quorum": Trouble(check_quorum=False),
    "plain-raft": Trouble(pre_vote=False, check_quorum=False),
    "changes": Trouble().reweighted(change=60, compact=20, crash=10),
    "reads": Trouble(spares=0).reweighted(read=100, campaign=15, transfer=15, isolate=10),
    "full-disks": Trouble(spares=0).reweighted(fill_disk=20, free_disk=20, crash=15),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_random_trouble(kind: str, seed: int) -> None:
    run_seed(seed, KINDS[kind], steps=1500)


def test_the_trouble_is_not_idle() -> None:
    """Runs in which nothing happens would pass, too."""
    clusters = [run_seed(seed, Trouble(), steps=1500) for seed in range(5)]
    assert sum(cluster.reads_answered for cluster in clusters) > 10
    assert sum(max(r.disk.applied for r in cluster.replicas.values()) for cluster in clusters) > 50
    assert sum(max(r.raft.term for r in cluster.replicas.values()) for cluster in clusters) > 10


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (run_seed(7, Trouble(), steps=800) for _ in range(2))
    for node, replica in first.replicas.items():
        assert replica.raft.status() == second.replicas[node].raft.status()
        assert replica.disk.state == second.replicas[node].disk.state
    assert first.network == second.network


class DrawnChoices:
    """Choices from hypothesis' list, so that a failing run is shrunk; the lists end, the run with them."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = iter(numbers)

    def randrange(self, start: int, stop: int) -> int:
        return start + next(self._numbers, 0) % (stop - start)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(numbers=st.lists(st.integers(0, 2000), min_size=300, max_size=900), kind=st.sampled_from(list(KINDS)))
def test_drawn_trouble(numbers: list[int], kind: str) -> None:
    cluster = ChaosCluster(DrawnChoices(numbers), KINDS[kind])
    cluster.run(len(numbers) // 2)
    cluster.heal()
