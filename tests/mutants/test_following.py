"""Would the simulation of two clusters notice? Each known bug is found in few seeds, by a checker named beforehand."""

from __future__ import annotations

import pytest

from tests.mutants.following import PAIR_MUTANTS, PairMutant
from tests.simulation.pair import failure, run_pair


@pytest.mark.parametrize("mutant", PAIR_MUTANTS, ids=lambda mutant: mutant.name)
def test_the_simulation_finds(mutant: PairMutant) -> None:
    seen = []
    for seed in range(mutant.seeds_max):
        with mutant.applied():
            finding = run_pair(mutant.plan(seed), arrange=mutant.arrange)
        if finding.violation is not None:
            if finding.violation.checker in mutant.seen_by:
                return
            seen.append(f"seed {seed}: {finding.violation}")
    pytest.fail(f"{mutant.seeds_max} seeds, and none of {mutant.seen_by} noticed; seen: {seen}")


@pytest.mark.parametrize("mutant", PAIR_MUTANTS, ids=lambda mutant: mutant.name)
def test_without_the_bug_nothing_is_found_under(mutant: PairMutant) -> None:
    finding = run_pair(mutant.plan(0))
    assert finding.violation is None, failure(finding)
