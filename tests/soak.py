"""Long randomised runs: `python -m tests.soak --seconds 1800` (make soak SECONDS=1800).

A round is one pytest run of the randomised tests with a seed never used before: Hypothesis takes it by option, a
simulation from BOATHOUSE_SEED. Rounds start until the time is up; the first that fails ends the soak and leaves
the one command that replays it.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDERS = ["tests/property", "tests/simulation", "tests/history"]
TEST_TIMEOUT_S = 3600  # of one test: fresh examples are many more than the fixed ones


def environment_of(seed: int) -> dict[str, str]:
    return {"BOATHOUSE_EXAMPLES": "fresh", "BOATHOUSE_SEED": str(seed)}


def command_of(seed: int) -> list[str]:
    options = ["-x", "-q", f"--timeout={TEST_TIMEOUT_S}", f"--hypothesis-seed={seed}"]
    return [sys.executable, "-m", "pytest", *options, *FOLDERS]


def replay_of(seed: int) -> str:
    """The shell command that runs the round of this seed again."""
    variables = [f"{name}={value}" for name, value in environment_of(seed).items()]
    return " ".join(variables) + " " + shlex.join(command_of(seed))


def run_round(seed: int) -> bool:
    """Run all randomised tests with this seed; True if none failed."""
    finished = subprocess.run(command_of(seed), env=os.environ | environment_of(seed))
    return finished.returncode == 0


def soak(
    seconds: float,
    *,
    run: Callable[[int], bool] = run_round,
    clock: Callable[[], float] = time.monotonic,
    draw_seed: Callable[[], int] = lambda: secrets.randbits(32),
    say: Callable[[str], object] = lambda line: sys.stdout.write(line + "\n"),
) -> bool:
    """Run rounds for this long, at least one; True if all of them passed."""
    end = clock() + seconds
    rounds = 0
    while rounds == 0 or clock() < end:
        seed = draw_seed()
        say(f"soak: round {rounds + 1}, seed {seed}")
        if not run(seed):
            say(f"soak: failed; replay with\n  {replay_of(seed)}")
            return False
        rounds += 1
    say(f"soak: {rounds} rounds passed")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="long randomised runs")
    parser.add_argument("--seconds", type=float, default=600, help="start no new round after this long")
    return 0 if soak(parser.parse_args().seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
