"""Would the simulation of a promotion notice? Each known bug is found in few seeds, by a checker named beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.mutants.promoting import PROMOTION_MUTANTS
from tests.simulation.pair import failure
from tests.simulation.promoting import run_promoting

if TYPE_CHECKING:
    from tests.mutants.following import PairMutant

pytestmark = pytest.mark.long


@pytest.mark.parametrize("mutant", PROMOTION_MUTANTS, ids=lambda mutant: mutant.name)
def test_the_simulation_finds(mutant: PairMutant) -> None:
    seen = []
    for seed in range(mutant.seeds_max):
        with mutant.applied():
            finding = run_promoting(mutant.plan(seed), arrange=mutant.arrange)
        if finding.violation is not None:
            if finding.violation.checker in mutant.seen_by:
                return
            seen.append(f"seed {seed}: {finding.violation}")
    pytest.fail(f"{mutant.seeds_max} seeds, and none of {mutant.seen_by} noticed; seen: {seen}")


@pytest.mark.parametrize("mutant", PROMOTION_MUTANTS, ids=lambda mutant: mutant.name)
def test_without_the_bug_nothing_is_found_under(mutant: PairMutant) -> None:
    finding = run_promoting(mutant.plan(0))
    assert finding.violation is None, failure(finding)
