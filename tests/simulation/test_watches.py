"""Watchers through faults of many kinds: each hears of everything, once and in order."""

from __future__ import annotations

from collections import Counter
from typing import Final

from tests.simulation.plan import Plan
from tests.simulation.report import failure
from tests.simulation.simulation import run
from tests.simulation.watchers import watch

KINDS: Final = frozenset(
    ("kill", "partition", "drop", "duplicate", "pause", "transfer", "snapshot", "compaction")
)
"""Not changes of the membership: here a coordinator goes on asking a replica that is a member no longer, where a
topology would take it away."""
SEEDS: Final = 16


def test_watchers_hear_everything_through_every_fault() -> None:
    counts: Counter[str] = Counter()
    for seed in range(SEEDS):
        plan = Plan(
            seed=seed, voters=3, spares=0, clients=3, safety_ms=8_000, intensity=0.6, kinds=KINDS, lessees=1
        )
        finding = run(plan, scenario=watch)
        assert finding.violation is None, failure(finding, do_shrink=False)
        counts += finding.counts
    for fault in (
        "kill",
        "partition",
        "snapshot installed",
        "compaction",
        "watched history",
        "watch resumed",
    ):
        assert counts[fault], f"no {fault} in {SEEDS} seeds"
