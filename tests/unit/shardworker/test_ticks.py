"""Ticks of a loop that sleeps, comes late, or stood still."""

from __future__ import annotations

from shardworker.ticks import CATCH_UP_TICKS_MAX, Ticks

TICK = 100


def ticks() -> Ticks:
    return Ticks(TICK, now=0)


def test_ticks_that_do_nothing_pass_before_what_arrived() -> None:
    """Then a heartbeat that arrives now begins a whole election timeout."""
    assert ticks().passed(4 * TICK + 1, until_action=10) == (4, 0)


def test_what_arrived_is_heard_before_the_tick_that_does_something() -> None:
    assert ticks().passed(10 * TICK, until_action=10) == (9, 1)
    assert ticks().passed(12 * TICK, until_action=10) == (9, 1)
    assert ticks().passed(TICK, until_action=1) == (0, 1)


def test_a_loop_that_is_a_little_late_makes_up_for_it() -> None:
    assert ticks().passed(2 * TICK, until_action=1) == (0, CATCH_UP_TICKS_MAX)


def test_after_a_pause_a_whole_tick_passes_before_anything_is_done() -> None:
    clock = ticks()
    assert clock.passed(1_000 * TICK, until_action=10) == (9, 0)
    assert clock.due(until_action=1) == 1_001 * TICK
    assert clock.passed(1_000 * TICK + 1, until_action=1) == (0, 0)
    assert clock.passed(1_001 * TICK, until_action=1) == (0, 1)


def test_a_loop_that_is_always_late_acts_nevertheless() -> None:
    clock = ticks()
    acted = 0
    for turn in range(1, 11):
        clock.passed(turn * 50 * TICK - TICK // 2, until_action=1)
        acted += clock.passed(turn * 50 * TICK, until_action=1)[1]
        assert clock.passed(turn * 50 * TICK + 1, until_action=1) == (0, 0)
    assert acted >= 5


def test_no_tick_is_lost_by_being_asked_often() -> None:
    clock = ticks()
    assert sum(sum(clock.passed(now, until_action=5)) for now in range(0, 7 * TICK + 1, 30)) == 6
    assert clock.passed(7 * TICK, until_action=5) == (1, 0)


def test_whatever_is_not_made_up_for_is_told_once() -> None:
    clock = ticks()
    now = counted = 0
    for step, until_action in ((5, 1), (3, 1), (1, 10), (40, 2), (1, 1), (0, 1), (7, 5)):
        now += step * TICK
        counted += sum(clock.passed(now, until_action)) + clock.missed
        assert counted * TICK == now
    assert clock.passed(now, 1) == (0, 0)
    assert clock.missed == 0
