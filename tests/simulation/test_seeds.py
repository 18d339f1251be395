"""The fixed seeds of `make test`.

What a seed does changes whenever the simulator learns a new kind of fault, so a seed that found a bug proves nothing
later: the bug itself is kept, among the mutants, and has to be found again. BOATHOUSE_SEED, set by a soak, moves them
to where nobody has been.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.many import run_many

SEEDS = 100
SHARE = 20  # of one test, so that the processes of a run have something to share out
START = int(os.environ.get("BOATHOUSE_SEED", "0")) * SEEDS


@pytest.mark.parametrize("first", range(START, START + SEEDS, SHARE))
def test_all_promises_hold_in_every_seed(first: int) -> None:
    tally = run_many([first], count=SHARE)
    assert tally.seeds == SHARE
    assert not tally.failures, "\n\n".join(tally.failures[:3])
