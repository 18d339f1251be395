"""Same seed, same trace, byte for byte: without that no failure could be replayed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

from tests.simulation.many import ROOT
from tests.simulation.plan import draw
from tests.simulation.simulation import run

SEEDS = (27, 52, 110)


def simulate(seed: int) -> tuple[str, list[str]]:
    """The digest of a trace, and the trace."""
    trace: list[str] = []
    return run(draw(seed), write=trace.append).digest, trace


known = functools.cache(simulate)
"""The same, of the first time that it ran here."""


def test_a_seed_has_one_trace_whatever_ran_before_in_the_process() -> None:
    first = [known(seed) for seed in SEEDS]
    assert all(len(trace) > 1_000 for _, trace in first)
    for seed, (digest, trace) in zip(SEEDS, first, strict=True):
        again = simulate(seed)
        assert again[1] == trace
        assert again[0] == digest


def test_other_processes_have_the_same_trace() -> None:
    seed = SEEDS[0]
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed)]
    expected = f"trace {known(seed)[0]}"
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert expected in done.stdout


def test_different_seeds_differ() -> None:
    assert len({known(seed)[0] for seed in SEEDS}) == len(SEEDS)
