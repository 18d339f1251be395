"""The fixed seeds of `make test`.

What a seed does changes whenever the simulator learns a new kind of fault, so a seed that found a bug proves nothing
later: the bug itself is kept, among the mutants, and has to be found again. The seeds are shared out to two
processes. BOATHOUSE_SEED, set by a soak, moves them to where nobody has been.
"""

from __future__ import annotations

import multiprocessing
import os

from tests.simulation.report import describe
from tests.simulation.simulation import run_seed

SEEDS = 320
PROCESSES = 2
START = int(os.environ.get("BOATHOUSE_SEED", "0")) * SEEDS


def _failure(seed: int) -> str | None:
    """What to tell of this seed, if its promises were not kept."""
    finding = run_seed(seed)
    return None if finding.violation is None else describe(finding, 0.0, shrink=True)


def test_all_promises_hold_in_every_seed() -> None:
    # Spawned, not forked: a fork would inherit SQLite's state, and the threads of other tests.
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        failures = [text for text in pool.imap(_failure, range(START, START + SEEDS), chunksize=8) if text]
        pool.close()
        pool.join()
    assert not failures, "\n\n".join(failures[:3])
