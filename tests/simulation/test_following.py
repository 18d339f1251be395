"""A leader and a follower cluster through faults of all kinds, on both sides and between them."""

from __future__ import annotations

import os
from collections import Counter

from tests.simulation.pair import draw, draw_returning, failure, run_pair
from tests.simulation.returning import Returning

FRESH = os.environ.get("BOATHOUSE_EXAMPLES") == "fresh"
SEEDS = 40 if FRESH else 5  # of fresh ones every fifth replaces a copy
START = int(os.environ.get("BOATHOUSE_SEED", "0")) * SEEDS


def test_copies_are_what_their_origins_are_in_every_seed() -> None:
    counts: Counter[str] = Counter()
    for seed in range(START, START + SEEDS):
        finding = run_pair(draw(seed))
        assert finding.violation is None, failure(finding)
        counts += finding.counts
    for happened in ("way cut", "replicator killed", "kill", "table made", "copy replaced", "compared"):
        assert counts[happened], f"no {happened} in {SEEDS} seeds"


def test_a_cluster_that_led_loses_nothing_of_its_own_in_every_seed() -> None:
    counts: Counter[str] = Counter()
    for seed in range(START, START + SEEDS):
        finding = run_pair(draw_returning(seed), arrange=Returning)
        assert finding.violation is None, failure(finding, "--returning")
        counts += finding.counts
    assert counts["set aside"] >= SEEDS


def test_a_seed_always_does_the_same() -> None:
    first, second = (run_pair(draw(START + 3)) for _ in range(2))
    assert first.digest == second.digest
