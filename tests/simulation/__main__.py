"""`python -m tests.simulation --seed N [--without kind ...]`: run one seed, or replay a failure."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from typing import Final

from tests.simulation import plan as plans
from tests.simulation.report import as_json, describe
from tests.simulation.simulation import run

FAILURES_MAX: Final = 3
"""More of them seldom say more, and each is shrunk."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, default=1, help="run so many seeds, from --seed on")
    parser.add_argument(
        "--without", action="append", default=[], choices=plans.KINDS, help="leave a kind of fault out"
    )
    parser.add_argument("--safety-ms", type=int, help="length of the first phase, if not the seed's")
    parser.add_argument("--trace", help="write the whole trace to this file")
    parser.add_argument("--shrink", action="store_true", help="look for a shorter way to the same violation")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each seed")
    parser.add_argument("--seconds", type=float, help="begin no seed after this long")
    options = parser.parse_args()
    end = float("inf") if options.seconds is None else time.monotonic() + options.seconds
    failed = 0
    for seed in range(options.seed, options.seed + options.count):
        if time.monotonic() > end or failed >= FAILURES_MAX:
            break
        plan = plans.draw(seed).without(frozenset(options.without))
        if options.safety_ms is not None:
            plan = replace(plan, safety_ms=options.safety_ms)
        started = time.process_time()
        if options.trace:
            with open(options.trace, "w") as file:
                outcome = run(plan, write=lambda line: file.write(line + "\n"))
        else:
            outcome = run(plan)
        seconds = time.process_time() - started
        text = describe(outcome, seconds, shrink=options.shrink)
        sys.stdout.write((as_json(outcome, seconds, text) if options.json else text) + "\n")
        sys.stdout.flush()
        failed += outcome.violation is not None
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
