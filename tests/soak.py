"""Long randomised runs: `python -m tests.soak --seconds 1800` (make soak SECONDS=1800).

Most of the time goes to simulations with seeds never used before, in a few processes at once. The rest goes to rounds:
a round is one pytest run of the other randomised tests (real clusters under random faults, and programs that real etcd
has to answer alike, among them), with a fresh seed that Hypothesis takes by option and the tests' own programs from
BOATHOUSE_SEED. The first round that fails ends the soak and leaves the one command that replays it; a simulation that
fails leaves its own. What all of it came to is written into RELIABILITY.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.simulation.many import ROOT, Tally, run_many
from tests.simulation.plan import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

FOLDERS = [
    "tests/property",
    "tests/history",
    "tests/simulation/test_following.py",
    "tests/integration/test_promotion.py",
    "tests/simulation/test_moving.py",
    "tests/simulation/test_promoting.py",
    "tests/simulation/test_forcing.py",
    "tests/integration/test_replication.py",
    "tests/integration/test_crash_matrix.py",
    "tests/integration/test_random_faults.py",
    "tests/integration/test_hostile.py",
    "tests/conformance/test_differential.py",
    "tests/conformance/test_watch_differential.py",
    "tests/conformance/test_auth_differential.py",
    "tests/integration/test_moves.py",
    "tests/integration/test_growth.py",
]
TEST_TIMEOUT_S = 3600  # of one test: fresh examples are many more than the fixed ones

SIMULATION_SHARE: Final = 0.75
"""Of the soak's time."""

FIGURES: Final = ROOT / "RELIABILITY.md"
BEGIN: Final = "<!-- figures of the last soak: written by make soak -->"
END: Final = "<!-- end of the figures -->"


def environment_of(seed: int) -> dict[str, str]:
    return {"BOATHOUSE_EXAMPLES": "fresh", "BOATHOUSE_SEED": str(seed)}


def command_of(seed: int) -> list[str]:
    options = ["-x", "-q", f"--timeout={TEST_TIMEOUT_S}", f"--hypothesis-seed={seed}"]
    return [sys.executable, "-m", "pytest", *options, *FOLDERS]


def replay_of(seed: int) -> str:
    """The shell command that runs the round of this seed again."""
    variables = [f"{name}={value}" for name, value in environment_of(seed).items()]
    return " ".join(variables) + " " + shlex.join(command_of(seed))


@dataclass(slots=True)
class RealClusters:
    """What the rounds came to on clusters of real processes."""

    operations: int = 0
    events: int = 0
    leases: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, line: str) -> None:
        """One line that tests/integration/test_random_faults.py leaves in BOATHOUSE_FIGURES."""
        found = json.loads(line)
        self.operations += found["operations"]
        self.events += found["events"]
        self.leases += found["leases"]
        self.faults.update(found["faults"])


@dataclass(slots=True)
class Rounds:
    """Rounds so far."""

    passed: int = 0
    failed: int = 0
    real: RealClusters = field(default_factory=RealClusters)

    def run(self, seed: int) -> bool:
        """Run all randomised tests with this seed; True if none failed."""
        with tempfile.NamedTemporaryFile("r", prefix="soak-") as figures:
            variables = {**environment_of(seed), "BOATHOUSE_FIGURES": figures.name}
            passed = subprocess.run(command_of(seed), env=os.environ | variables).returncode == 0
            for line in figures:
                self.real.add(line)
        return passed

    def soak(
        self,
        seconds: float,
        *,
        run: Callable[[int], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
        draw_seed: Callable[[], int] = lambda: secrets.randbits(32),
        say: Callable[[str], object] = lambda line: sys.stdout.write(line + "\n"),
    ) -> None:
        """Run rounds for this long, at least one, until one fails."""
        end = clock() + seconds
        while self.passed == 0 or clock() < end:
            seed = draw_seed()
            say(f"soak: round {self.passed + 1}, seed {seed}")
            if not (run or self.run)(seed):
                self.failed += 1
                say(f"soak: failed; replay with\n  {replay_of(seed)}")
                return
            self.passed += 1
        say(f"soak: {self.passed} rounds passed")


def simulate(seconds: float, processes: int) -> Tally:
    """Fresh seeds for this long. Each process starts far from the others and counts up."""
    starts = [secrets.randbits(48) for _ in range(processes)]
    return run_many(starts, count=1 << 40, seconds=seconds)


def table_of(tally: Tally, rounds: Rounds, date: datetime.date) -> str:
    """The figures of a soak in Markdown."""
    counts = tally.counts
    rows = [
        ("seeds", f"{tally.seeds:,}"),
        ("simulated time", f"{tally.virtual_s / 3600:.1f} hours, in {tally.cpu_s / 3600:.2f} hours of CPU"),
        ("client operations in checked histories", f"{tally.operations:,}"),
        ("steps of a replica, each followed by the checks", f"{tally.checks:,}"),
        (
            "envelopes sent, lost, doubled",
            ", ".join(f"{counts[kind]:,}" for kind in ("sent", "lost", "doubled")),
        ),
        ("snapshots installed", f"{counts['snapshot installed']:,}"),
        (
            "replicas that refused damaged data, and were replaced",
            f"{counts['refused']:,}, {counts['replaced']:,}",
        ),
        ("histories too hard to decide", f"{counts['undecided histories']:,}"),
        ("seeds without a healable quorum, checked for safety only", f"{counts['no quorum left']:,}"),
        ("faults by kind", _by_kind(counts, KINDS)),
        ("violations", f"{len(tally.failures):,}"),
        ("rounds of property tests, crash matrix and real clusters", f"{rounds.passed + rounds.failed:,}"),
        ("client operations on real clusters, in checked histories", f"{rounds.real.operations:,}"),
        ("events that watchers of them heard, each checked", f"{rounds.real.events:,}"),
        (
            "leases on real clusters, each held against what its holder was promised",
            f"{rounds.real.leases:,}",
        ),
        ("faults on real clusters by kind", _by_kind(rounds.real.faults, sorted(rounds.real.faults))),
        ("rounds that failed", f"{rounds.failed:,}"),
    ]
    lines = [f"Soak of {date.isoformat()}:", "", "| figure | value |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(lines)


def _by_kind(counts: Mapping[str, int], kinds: Iterable[str]) -> str:
    return ", ".join(f"{kind} {counts[kind]:,}" for kind in kinds if counts[kind])


def put_figures(text: str, table: str) -> str:
    """The page with this table between its marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="long randomised runs")
    parser.add_argument("--seconds", type=float, default=600, help="start no new round after this long")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="simulations at a time")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="page that takes the table")
    options = parser.parse_args()
    tally, rounds = simulate(options.seconds * SIMULATION_SHARE, options.processes), Rounds()
    sys.stdout.write("".join(f"{failure}\n\n" for failure in tally.failures))
    sys.stdout.flush()
    rounds.soak(options.seconds * (1 - SIMULATION_SHARE))
    table = table_of(tally, rounds, datetime.datetime.now(tz=datetime.UTC).date())
    options.figures.write_text(put_figures(options.figures.read_text(), table))
    sys.stdout.write(f"{table}\n")
    return 1 if tally.failures or rounds.failed else 0


if __name__ == "__main__":
    sys.exit(main())
