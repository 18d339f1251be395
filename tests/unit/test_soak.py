"""The soak's loop: when it ends, and what it says when a round fails."""

from __future__ import annotations

import itertools

from tests.soak import replay_of, soak


def keep_quiet(_line: str) -> None:
    """For the rounds whose output is not the point."""


def test_rounds_start_until_the_time_is_up() -> None:
    ran: list[int] = []
    clock = itertools.count(0, 4)  # each look at it is four seconds later

    def run(seed: int) -> bool:
        ran.append(seed)
        return True

    assert soak(
        10, run=run, clock=lambda: next(clock), draw_seed=itertools.count(100).__next__, say=keep_quiet
    )
    assert ran == [100, 101, 102]


def test_even_without_time_one_round_runs() -> None:
    seeds = iter([1])  # a second round would find no seed
    assert soak(0, run=lambda _seed: True, clock=lambda: 0, draw_seed=seeds.__next__, say=keep_quiet)
    assert list(seeds) == []


def test_the_first_failure_ends_it_and_says_how_to_replay() -> None:
    said: list[str] = []
    assert not soak(60, run=lambda seed: seed != 8, draw_seed=itertools.count(7).__next__, say=said.append)
    assert said[-1].endswith(replay_of(8))
    assert "BOATHOUSE_SEED=8" in replay_of(8)
    assert "--hypothesis-seed=8" in replay_of(8)
