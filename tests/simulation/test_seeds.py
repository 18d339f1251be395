"""The fixed seeds of `make test`.

What a seed does changes whenever the simulator learns a new kind of fault, so a seed that found a bug proves nothing
later: the bug itself is kept, among the mutants, and has to be found again. These see what is broken in most plans;
breadth is a soak's, among seeds that nobody has seen. BOATHOUSE_SEED moves these elsewhere.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.many import run_many

SEEDS = 40
SHARE = 10  # of one test, so that the processes of a run have something to share out
START = int(os.environ.get("BOATHOUSE_SEED", "0")) * SEEDS


@pytest.mark.parametrize("first", range(START, START + SEEDS, SHARE))
def test_all_promises_hold_in_every_seed(first: int) -> None:
    tally = run_many([first], count=SHARE)
    assert tally.seeds == SHARE
    assert not tally.failures, "\n\n".join(tally.failures[:3])
