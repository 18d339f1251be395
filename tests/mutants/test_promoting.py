"""Would the simulation of a promotion notice? Each known bug is found in few seeds, by a checker named beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.mutants.promoting import FORCING_MUTANTS, PROMOTION_MUTANTS
from tests.simulation.forcing import Forcing
from tests.simulation.pair import failure
from tests.simulation.promoting import Promoting, run_promoting

if TYPE_CHECKING:
    from tests.mutants.following import PairMutant

pytestmark = pytest.mark.long

MUTANTS = [
    *(pytest.param(mutant, Promoting, id=mutant.name) for mutant in PROMOTION_MUTANTS),
    *(pytest.param(mutant, Forcing, id=mutant.name) for mutant in FORCING_MUTANTS),
]


@pytest.mark.parametrize(("mutant", "make"), MUTANTS)
def test_the_simulation_finds(mutant: PairMutant, make: type[Promoting]) -> None:
    seen = []
    for seed in range(mutant.seeds_max):
        with mutant.applied():
            finding = run_promoting(mutant.plan(seed), arrange=mutant.arrange, make=make)
        if finding.violation is not None:
            if finding.violation.checker in mutant.seen_by:
                return
            seen.append(f"seed {seed}: {finding.violation}")
    pytest.fail(f"{mutant.seeds_max} seeds, and none of {mutant.seen_by} noticed; seen: {seen}")


@pytest.mark.parametrize(("mutant", "make"), MUTANTS)
def test_without_the_bug_nothing_is_found_under(mutant: PairMutant, make: type[Promoting]) -> None:
    finding = run_promoting(mutant.plan(0), make=make)
    assert finding.violation is None, failure(finding)
