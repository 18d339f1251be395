"""A follower cluster that is promoted by force while the one that led goes on, through faults in both."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.simulation.forcing import Forcing
from tests.simulation.pair import draw
from tests.simulation.promoting import run_promoting

FRESH = os.environ.get("BOATHOUSE_EXAMPLES") == "fresh"
SEEDS = 20 if FRESH else 3
START = int(os.environ.get("BOATHOUSE_SEED", "0")) * SEEDS + 1


@pytest.mark.long
def test_what_is_lost_by_force_is_known_and_kept_in_every_seed() -> None:
    counts: Counter[str] = Counter()
    for seed in range(START, START + SEEDS):
        finding = run_promoting(draw(seed), make=Forcing)
        again = f"python -m tests.simulation.forcing --seed {seed}"
        assert finding.violation is None, "\n".join([str(finding.violation), *finding.recent[-40:], again])
        counts += finding.counts
    for happened in ("promoted by force", "follower served", "was ahead", "set aside", "lost by force"):
        assert counts[happened], f"no {happened} in {SEEDS} seeds"
