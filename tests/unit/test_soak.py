"""The soak's loop: when it ends, and what it says when a round fails."""

from __future__ import annotations

import datetime
import itertools
import json

from tests.simulation.many import Tally
from tests.soak import BEGIN, END, Rounds, put_figures, replay_of, table_of


def keep_quiet(_line: str) -> None:
    """For the rounds whose output is not the point."""


def test_rounds_start_until_the_time_is_up() -> None:
    ran: list[int] = []
    clock = itertools.count(0, 4)  # each look at it is four seconds later

    def run(seed: int) -> bool:
        ran.append(seed)
        return True

    rounds = Rounds()
    draw_seed = itertools.count(100).__next__
    rounds.soak(10, run=run, clock=lambda: next(clock), draw_seed=draw_seed, say=keep_quiet)
    assert ran == [100, 101, 102]
    assert (rounds.passed, rounds.failed) == (3, 0)


def test_even_without_time_one_round_runs() -> None:
    rounds, seeds = Rounds(), iter([1])  # a second round would find no seed
    rounds.soak(0, run=lambda _seed: True, clock=lambda: 0, draw_seed=seeds.__next__, say=keep_quiet)
    assert rounds.passed == 1


def test_the_first_failure_ends_it_and_says_how_to_replay() -> None:
    rounds = Rounds()
    said: list[str] = []
    rounds.soak(60, run=lambda seed: seed != 8, draw_seed=itertools.count(7).__next__, say=said.append)
    assert (rounds.passed, rounds.failed) == (1, 1)
    assert said[-1].endswith(replay_of(8))
    assert "BOATHOUSE_SEED=8" in replay_of(8)
    assert "--hypothesis-seed=8" in replay_of(8)


def test_the_figures_replace_the_last_ones_and_touch_nothing_else() -> None:
    tally = Tally()
    for failure in (None, "seed 2 FAILED"):
        figures = {"seed": 1, "virtual_s": 1800.0, "cpu_s": 1.0, "operations": 1000, "checks": 5}
        tally.add(json.dumps({**figures, "counts": {"kill": 2}, "failure": failure}))
    rounds = Rounds(passed=3, failed=1)
    for _ in range(2):
        rounds.real.add(
            json.dumps(
                {"operations": 5_000, "leases": 40, "failures": 7, "events": 40, "faults": {"node killed": 2}}
            )
        )
    table = table_of(tally, rounds, datetime.date(2026, 1, 2))
    assert "| seeds | 2 |" in table
    assert "1.0 hours" in table
    assert "| client operations in checked histories | 2,000 |" in table
    assert "kill 4" in table
    assert "| violations | 1 |" in table
    assert "| client operations on real clusters, in checked histories | 10,000 |" in table
    assert "| events that watchers of them heard, each checked | 80 |" in table
    assert "| faults on real clusters by kind | node killed 4 |" in table
    assert "| rounds that failed | 1 |" in table
    page = f"# Promises\n{BEGIN}\nold\n{END}\nmore\n"
    assert put_figures(page, table) == f"# Promises\n{BEGIN}\n{table}\n{END}\nmore\n"
