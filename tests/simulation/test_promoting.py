"""A follower cluster that is promoted while clients write, through faults of all kinds."""

from __future__ import annotations

import os
from collections import Counter

from tests.simulation.pair import draw
from tests.simulation.promoting import run_promoting

FRESH = os.environ.get("BOATHOUSE_EXAMPLES") == "fresh"
SEEDS = 30 if FRESH else 2
START = int(os.environ.get("BOATHOUSE_SEED", "0")) * SEEDS + 1


def test_a_promotion_loses_nothing_in_every_seed() -> None:
    counts: Counter[str] = Counter()
    for seed in range(START, START + SEEDS):
        finding = run_promoting(draw(seed))
        again = f"python -m tests.simulation.promoting --seed {seed}"
        assert finding.violation is None, "\n".join([str(finding.violation), *finding.recent[-40:], again])
        counts += finding.counts
    for happened in (
        "promoted follower", "promoted sim", "promoter killed", "sim served", "follower served", "way cut"
    ):  # fmt: skip
        assert counts[happened], f"no {happened} in {SEEDS} seeds"
