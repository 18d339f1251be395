"""Would the simulator notice? Each known bug is found in few seeds, by a checker that was named beforehand."""

from __future__ import annotations

import pytest

from tests.mutants.known import MUTANTS, Mutant
from tests.simulation.report import failure
from tests.simulation.simulation import run

_CLEAN_SEEDS = 1
_FIRST_SEEDS = {
    "snapshot installed without its configuration": 8,
    "learner counted in a quorum": 20,
    "a change of membership said to be made when it is proposed": 12,
    "changes kept through the installation of a snapshot": 8,
    "a lease renewed by a deposed leader": 5,
    "a renewal that the next leader does not know of": 8,
    "the past taken for the present": 7,
    "a gap in the news that nobody is told of": 6,
}
"""Where to begin, for bugs that need many seeds: at the one that finds them as the simulator is. A change of the
simulator may move that, and the search goes on from there."""
_CIRCUMSTANCES = {(mutant.plan(0), mutant.scenario, mutant.birth): mutant for mutant in MUTANTS}
"""In which several mutants may be looked for."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_simulator_finds(mutant: Mutant) -> None:
    seen = []
    first = _FIRST_SEEDS.get(mutant.name, 0)
    for seed in range(first, first + mutant.seeds_max):
        with mutant.applied():
            finding = run(mutant.plan(seed), mutant.build, scenario=mutant.scenario, birth=mutant.birth)
        if finding.violation is not None:
            if finding.violation.checker in mutant.seen_by:
                return
            seen.append(f"seed {seed}: {finding.violation}")
    pytest.fail(f"{mutant.seeds_max} seeds, and none of {mutant.seen_by} noticed; seen: {seen}")


def test_each_first_seed_is_a_mutants() -> None:
    assert _FIRST_SEEDS.keys() <= {mutant.name for mutant in MUTANTS}


@pytest.mark.parametrize("mutant", _CIRCUMSTANCES.values(), ids=lambda mutant: mutant.name)
def test_without_the_bug_nothing_is_found_under(mutant: Mutant) -> None:
    for seed in range(_CLEAN_SEEDS):
        finding = run(mutant.plan(seed), scenario=mutant.scenario, birth=mutant.birth)
        assert finding.violation is None, failure(finding, do_shrink=False)
