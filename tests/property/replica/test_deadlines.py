"""Deadlines on a heap agree with a dict that is looked through at every tick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from shardworker.raft import NEVER_TICKS
from shardworker.replica import deadlines
from shardworker.replica.deadlines import Deadlines

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardworker.replica.deadlines import Key

KEYS = [(1, 1), (1, 2), (2, 1)]
GRACE, STEP_MIN, STEP_MAX = 3, 2, 4
keys = st.sampled_from(KEYS)


@dataclass
class Timer:
    """One deadline of `Plain`."""

    ttl: int
    ends: int
    noted: int
    told: bool = False
    is_counted: bool = True
    """Since the last restart."""

    def loss(self, now: int) -> int:
        """What a restart would give it, but for the grace."""
        return self.noted - (self.ends - now)

    @property
    def step(self) -> int:
        return min(max(self.ttl // 2, STEP_MIN), STEP_MAX)


@dataclass
class Plain:
    """What Deadlines is to do, without a heap."""

    now: int = 0
    epoch: int = 0
    timers: dict[Key, Timer] = field(default_factory=dict)

    def due(self) -> list[Timer]:
        return [timer for timer in self.timers.values() if not timer.told and timer.ends <= self.now]


steps = st.one_of(
    st.tuples(st.just("tick"), st.integers(1, 6)),
    st.tuples(st.just("add"), keys, st.integers(0, 12), st.integers(0, 12)),
    st.tuples(st.just("renew"), keys),
    st.tuples(st.just("remove"), keys),
    st.tuples(st.just("restart")),
    st.tuples(st.just("take"), st.integers(0, 3)),
    st.tuples(st.just("tell"), st.integers(0, 3)),
    st.tuples(st.just("tell all")),
    st.tuples(st.just("hear"), keys, st.integers(0, 12)),
)


@given(st.lists(steps, max_size=60))
def test_nothing_is_told_early_or_twice_and_everything_in_the_end(program: list[tuple[object, ...]]) -> None:
    clock, plain = Deadlines(GRACE, step_ticks_min=STEP_MIN, step_ticks_max=STEP_MAX), Plain()
    with patch.object(deadlines, "STALE_MAX", 2):
        for step in program:
            take(step, clock, plain)
            assert len(clock) == len(plain.timers)
            assert {key: clock.deadline(key) for key in plain.timers} == {
                key: timer.ends for key, timer in plain.timers.items()
            }
            assert len(clock._heap) <= 2 * len(plain.timers) + 2
            waiting = [timer.ends for timer in plain.timers.values() if not timer.told]
            next_due = min(waiting, default=plain.now + NEVER_TICKS) - plain.now
            assert clock.ticks_until_due() <= max(1, next_due), "it would be told late"
        while not all(timer.told for timer in plain.timers.values()):
            take(("tick", 1), clock, plain)
            take(("take", 3), clock, plain)
    assert clock.ticks_until_due() == NEVER_TICKS or clock.take_due(9) == []


def take(step: tuple[object, ...], clock: Deadlines, plain: Plain) -> None:
    now, timers = plain.now, plain.timers
    match step:
        case ("tick", int(ticks)):
            for _ in range(ticks):
                clock.tick()
                plain.now += 1
        case ("add", key, int(ttl), int(left)):
            left = min(left, ttl)
            clock.add(key, ttl, left)  # type: ignore[arg-type]
            timers[key] = Timer(ttl, now + left, left)  # type: ignore[index]
        case ("renew", key) if key in timers and timers[key].ttl:
            clock.renew(key)
            timer = timers[key]
            timer.ends, timer.told, timer.is_counted = max(timer.ends, now + timer.ttl), False, True
        case ("remove", key):
            clock.remove(key)  # type: ignore[arg-type]
            timers.pop(key, None)  # type: ignore[call-overload]
        case ("restart",):
            clock.restart()
            plain.epoch = now + GRACE
            for timer in timers.values():
                timer.ends, timer.is_counted = plain.epoch + timer.noted, False
        case ("hear", key, int(left)) if key in timers:
            timer = timers[key]
            timer.noted = left
            clock.note(key, left)
            if not timer.is_counted:
                timer.ends = plain.epoch + left
        case ("take", int(count)):
            due = plain.due()
            taken = clock.take_due(count)
            assert len(taken) == min(count, len(due))
            for key in taken:
                assert timers[key].ends <= now
                assert not timers[key].told
                timers[key].told = True
        case ("tell", int(count)):
            note(clock, plain, clock.take_unnoted(count), lambda timer: timer.step)
        case ("tell all",):
            note(clock, plain, clock.take_losing(1), lambda _timer: 1)


def note(
    clock: Deadlines, plain: Plain, told: list[tuple[Key, int]], loss_min: Callable[[Timer], int]
) -> None:
    """Others hear what they are told."""
    for key, left in told:
        timer = plain.timers[key]
        assert left == timer.ends - plain.now > 0
        assert timer.loss(plain.now) >= loss_min(timer), "it need not have been told"
        timer.noted, timer.is_counted = left, True
        clock.note(key, left)


@given(st.lists(steps, max_size=60))
def test_whatever_has_lost_a_step_is_told(program: list[tuple[object, ...]]) -> None:
    clock, plain = Deadlines(GRACE, step_ticks_min=STEP_MIN, step_ticks_max=STEP_MAX), Plain()
    for step in program:
        take(step, clock, plain)
        if step[0] == "tick":
            take(("take", 99), clock, plain)
            take(("tell", 99), clock, plain)
            lost = [timer for timer in plain.timers.values() if timer.loss(plain.now) >= timer.step]
            assert all(timer.told or timer.ends <= plain.now for timer in lost)


def test_a_call_looks_at_so_many_entries_and_no_more() -> None:
    clock = Deadlines(5, step_ticks_min=99, step_ticks_max=99)
    for number in range(100):
        clock.add((1, number), 1)
    for _ in range(9):
        clock.tick()
    clock.restart()
    with patch.object(deadlines, "LOOKS_MAX", 10):
        for _ in range(10):
            assert clock.take_due(1_000) == []
            assert clock.ticks_until_due() >= 1
    assert clock.ticks_until_due() == 6
    for _ in range(6):
        clock.tick()
    assert len(clock.take_due(1_000)) == 100
