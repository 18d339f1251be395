"""Two shards and a table that moves between them, through faults of all kinds; and would it notice?"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest import mock

from shardworker.machine import StateMachine
from shardworker.machine.moves.states import Moves, State
from tests.simulation.moving import run_moving
from tests.simulation.pair import draw

if TYPE_CHECKING:
    from tests.simulation.plan import Plan
    from tests.simulation.violation import Violation

FRESH = os.environ.get("BOATHOUSE_EXAMPLES") == "fresh"
SEEDS = 60 if FRESH else 4
START = int(os.environ.get("BOATHOUSE_SEED", "0")) * SEEDS
MUTANT_SEEDS = 40


def test_a_table_that_moves_keeps_its_promises_in_every_seed() -> None:
    counts: Counter[str] = Counter()
    for seed in range(START, START + SEEDS):
        finding = run_moving(draw(seed))
        again = f"python -m tests.simulation.moving --seed {seed}"
        assert finding.violation is None, "\n".join([str(finding.violation), *finding.recent[-40:], again])
        counts += finding.counts
    for happened in ("MOVED", "STAYED", "followed", "mover killed", "kill"):
        assert counts[happened], f"no {happened} in {SEEDS} seeds"


def test_a_source_that_goes_on_answering_reads_is_found() -> None:
    def serves(*_: object) -> None:
        """Not a mock, which would remember every call."""

    with mock.patch.object(StateMachine, "check_serves", serves):
        found = _first_found()
    assert found.checker in {"linearizability", "revisions"}, found


def test_a_source_that_forgets_where_the_table_went_is_found() -> None:
    check_serves = Moves.check_serves

    def forgets(moves: Moves, table_id: int) -> None:
        move = moves.get(table_id)
        if move is None or move.state is not State.MOVED:
            check_serves(moves, table_id)

    with mock.patch.object(Moves, "check_serves", forgets):
        found = _first_found()
    assert found.checker == "table-lost", found


def _first_found() -> Violation:
    findings = (run_moving(_plain(seed)).violation for seed in range(MUTANT_SEEDS))
    return next(violation for violation in findings if violation is not None)


def _plain(seed: int) -> Plan:
    """Shards of one replica, held up while the table moves: a known bug shows in few seeds, and quickly."""
    return replace(
        draw(seed),
        voters=1,
        kinds=frozenset({"drop", "pause"}),
        intensity=0.4,
        tick_ms=50,
        heartbeat_ticks=2,
        election_ticks=10,
    )
