"""Two shards and a table that moves between them, through faults of all kinds; and would it notice?"""

from __future__ import annotations

import os
from collections import Counter
from unittest import mock

from shardworker.machine import StateMachine
from tests.simulation.moving import run_moving
from tests.simulation.pair import draw

FRESH = os.environ.get("BOATHOUSE_EXAMPLES") == "fresh"
SEEDS = 60 if FRESH else 4
START = int(os.environ.get("BOATHOUSE_SEED", "0")) * SEEDS
MUTANT_SEEDS = 40


def test_a_table_that_moves_keeps_its_promises_in_every_seed() -> None:
    counts: Counter[str] = Counter()
    for seed in range(START, START + SEEDS):
        finding = run_moving(draw(seed))
        again = f"python -m tests.simulation.moving --seed {seed}"
        assert finding.violation is None, "\n".join([str(finding.violation), *finding.recent[-40:], again])
        counts += finding.counts
    for happened in ("MOVED", "STAYED", "followed", "mover killed", "kill"):
        assert counts[happened], f"no {happened} in {SEEDS} seeds"


def test_a_source_that_goes_on_answering_reads_is_found() -> None:
    with mock.patch.object(StateMachine, "check_serves"):
        findings = (run_moving(draw(seed)).violation for seed in range(MUTANT_SEEDS))
        found = next((violation for violation in findings if violation is not None), None)
    assert found is not None
    assert found.checker in {"linearizability", "revisions"}
