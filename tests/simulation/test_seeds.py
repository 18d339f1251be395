"""The fixed seeds of `make test`.

What a seed does changes whenever the simulator learns a new kind of fault, so a seed that found a bug proves nothing
later: the bug itself is kept, among the mutants, and has to be found again. The seeds are shared out to two
processes. BOATHOUSE_SEED, set by a soak, moves them to where nobody has been.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.many import run_many

SEEDS = 240
PROCESSES = 2
START = int(os.environ.get("BOATHOUSE_SEED", "0")) * SEEDS


@pytest.mark.timeout(900)
def test_all_promises_hold_in_every_seed() -> None:
    share = SEEDS // PROCESSES
    tally = run_many([START + share * process for process in range(PROCESSES)], count=share)
    assert tally.seeds == SEEDS
    assert not tally.failures, "\n\n".join(tally.failures[:3])
