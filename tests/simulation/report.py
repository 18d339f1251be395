"""What a person needs of a failed simulation: the seed, the shortest way found, the command that replays it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.simulation import plan as plans
from tests.simulation.build import PRODUCTION
from tests.simulation.simulation import run

if TYPE_CHECKING:
    from tests.simulation.build import Build
    from tests.simulation.simulation import Finding

TAIL_LINES = 40


def shortest(outcome: Finding, build: Build = PRODUCTION) -> Finding:
    """The same promise broken with fewer kinds of faults and in less time, as far as greedy tries get."""
    assert outcome.violation is not None
    best = outcome

    def attempt(plan: plans.Plan) -> None:
        nonlocal best
        found = run(plan, build)
        assert best.violation is not None
        if found.violation is not None and found.violation.checker == best.violation.checker:
            best = found

    for kind in plans.KINDS:
        if kind in best.plan.kinds:
            attempt(best.plan.without(frozenset({kind})))
    for share in (0.25, 0.5, 0.75):
        shorter = int(best.plan.safety_ms * share)
        if shorter < best.plan.safety_ms:
            attempt(replace(best.plan, safety_ms=shorter))
    return best


def command(plan: plans.Plan) -> str:
    """What replays this plan."""
    drawn = plans.draw(plan.seed)
    parts = [f"python -m tests.simulation --seed {plan.seed}"]
    parts += [f"--without {kind}" for kind in plans.KINDS if kind in drawn.kinds - plan.kinds]
    if plan.safety_ms != drawn.safety_ms:
        parts.append(f"--safety-ms {plan.safety_ms}")
    return " ".join(parts)


def describe(outcome: Finding, seconds: float, *, shrink: bool = False) -> str:
    """One line if all promises held, else all that is needed to look into it."""
    if outcome.violation is None:
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(outcome.counts.items()))
        return (
            f"seed {outcome.plan.seed} ok: {outcome.virtual_us / 1e6:.1f} s in {seconds:.2f} s, "
            f"{outcome.operations} operations, trace {outcome.digest} ({counts})"
        )
    return failure(outcome, do_shrink=shrink)


def failure(outcome: Finding, *, do_shrink: bool = True, build: Build = PRODUCTION) -> str:
    """The report of a broken promise."""
    smallest = shortest(outcome, build) if do_shrink else outcome
    lines = [
        f"seed {outcome.plan.seed} FAILED: {outcome.violation}",
        f"the end of the shortest trace found, with {sorted(smallest.plan.kinds)}:",
        *smallest.recent[-TAIL_LINES:],
        f"replay it with\n  {command(smallest.plan)}",
    ]
    return "\n".join(lines)


def as_json(outcome: Finding, seconds: float, text: str) -> str:
    """The figures of a simulation on one line; `text` is what describe() says of it."""
    return json.dumps(
        {
            "seed": outcome.plan.seed,
            "virtual_s": outcome.virtual_us / 1e6,
            "cpu_s": seconds,
            "operations": outcome.operations,
            "checks": outcome.checks,
            "counts": outcome.counts,
            "failure": text if outcome.violation is not None else None,
        }
    )
