"""Would the simulator notice? Each known bug is found in few seeds, by a checker that was named beforehand."""

from __future__ import annotations

import pytest

from tests.mutants.known import MUTANTS, Mutant
from tests.simulation.report import failure
from tests.simulation.simulation import run

_CLEAN_SEEDS = 1
_CIRCUMSTANCES = {(mutant.plan(0), mutant.scenario, mutant.birth): mutant for mutant in MUTANTS}
"""In which several mutants may be looked for."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_simulator_finds(mutant: Mutant) -> None:
    seen = []
    for seed in range(mutant.seeds_max):
        with mutant.applied():
            finding = run(mutant.plan(seed), mutant.build, scenario=mutant.scenario, birth=mutant.birth)
        if finding.violation is not None:
            if finding.violation.checker in mutant.seen_by:
                return
            seen.append(f"seed {seed}: {finding.violation}")
    pytest.fail(f"{mutant.seeds_max} seeds, and none of {mutant.seen_by} noticed; seen: {seen}")


@pytest.mark.parametrize("mutant", _CIRCUMSTANCES.values(), ids=lambda mutant: mutant.name)
def test_without_the_bug_nothing_is_found_under(mutant: Mutant) -> None:
    for seed in range(_CLEAN_SEEDS):
        finding = run(mutant.plan(seed), scenario=mutant.scenario, birth=mutant.birth)
        assert finding.violation is None, failure(finding, do_shrink=False)
