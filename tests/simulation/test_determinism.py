"""Same seed, same trace, byte for byte: without that no failure could be replayed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.many import ROOT
from tests.simulation.plan import draw
from tests.simulation.simulation import run, run_seed

SEEDS = (27, 52, 110)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_has_one_trace(seed: int) -> None:
    traces: list[list[str]] = [[], []]
    for trace in traces:
        run(draw(seed), write=trace.append)
    assert len(traces[0]) > 1_000
    assert traces[0] == traces[1]


def test_what_ran_before_in_the_process_does_not_matter() -> None:
    first = run_seed(SEEDS[0])
    run_seed(SEEDS[1])
    assert run_seed(SEEDS[0]).digest == first.digest


def test_other_processes_have_the_same_trace() -> None:
    seed = SEEDS[0]
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed)]
    expected = f"trace {run_seed(seed).digest}"
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
    assert run_seed(SEEDS[0]).digest != run_seed(SEEDS[1]).digest
