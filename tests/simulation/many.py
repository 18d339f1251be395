"""Many seeds in a few processes, and what they add up to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]


@dataclass(slots=True)
class Tally:
    """What a number of simulations came to."""

    seeds: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    operations: int = 0
    checks: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """One line of `python -m tests.simulation --json`."""
        found = json.loads(line)
        self.seeds += 1
        self.virtual_s += found["virtual_s"]
        self.cpu_s += found["cpu_s"]
        self.operations += found["operations"]
        self.checks += found["checks"]
        self.counts.update(found["counts"])
        if found["failure"]:
            self.failures.append(found["failure"])


def run_many(starts: Sequence[int], *, count: int, seconds: float | None = None) -> Tally:
    """Run `count` seeds from each start on, each start in a process of its own; begin none after `seconds`."""
    command = [sys.executable, "-m", "tests.simulation", "--json", "--shrink", "--count", str(count)]
    if seconds is not None:
        command += ["--seconds", str(seconds)]
    children = [
        subprocess.Popen([*command, "--seed", str(start)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for start in starts
    ]
    tally = Tally()
    try:
        for child in children:
            output, _ = child.communicate()
            for line in output.splitlines():
                tally.add(line)
            assert child.returncode in (0, 1), f"a simulation ended with exit code {child.returncode}"
    finally:
        for child in children:
            child.kill()
            child.wait()
    return tally
