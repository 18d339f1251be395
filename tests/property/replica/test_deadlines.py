"""Deadlines on a heap agree with a dict that is looked through at every tick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from shardworker.replica import deadlines
from shardworker.replica.deadlines import Deadlines
from shardworker.replica.part import NEVER_TICKS

if TYPE_CHECKING:
    from shardworker.replica.deadlines import Key

KEYS = [(1, 1), (1, 2), (2, 1)]
keys = st.sampled_from(KEYS)


@dataclass
class Plain:
    """What Deadlines is to do, without a heap."""

    now: int = 0
    since: dict[Key, int] = field(default_factory=dict)
    ttl: dict[Key, int] = field(default_factory=dict)
    told: set[Key] = field(default_factory=set)
    epoch: int = 0

    def deadline(self, key: Key) -> int:
        return self.since[key] + self.ttl[key]

    def due(self) -> list[Key]:
        due = [key for key in self.since if key not in self.told and self.deadline(key) <= self.now]
        return sorted(due, key=lambda key: (self.deadline(key), key))


steps = st.one_of(
    st.tuples(st.just("tick"), st.integers(1, 6)),
    st.tuples(st.just("add"), keys, st.integers(0, 12)),
    st.tuples(st.just("renew"), keys),
    st.tuples(st.just("remove"), keys),
    st.tuples(st.just("restart"), st.integers(0, 4)),
    st.tuples(st.just("take"), st.integers(0, 3)),
)


@given(st.lists(steps, max_size=60))
def test_nothing_is_told_early_or_twice_and_everything_in_the_end(program: list[tuple[object, ...]]) -> None:
    clock, plain = Deadlines(), Plain()
    with patch.object(deadlines, "STALE_MAX", 2):
        for step in program:
            take(step, clock, plain)
            assert len(clock) == len(plain.since)
            assert {key: clock.deadline(key) for key in plain.since} == {
                key: plain.deadline(key) for key in plain.since
            }
            assert len(clock._heap) <= 2 * len(plain.since) + 2
            waiting = [plain.deadline(key) for key in plain.since if key not in plain.told]
            next_due = min(waiting, default=plain.now + NEVER_TICKS) - plain.now
            assert clock.ticks_until_due() <= max(1, next_due), "it would be told late"
        while len(plain.told) < len(plain.since):
            take(("tick", 1), clock, plain)
            take(("take", 3), clock, plain)
    assert clock.ticks_until_due() == NEVER_TICKS or clock.take_due(9) == []


def take(step: tuple[object, ...], clock: Deadlines, plain: Plain) -> None:
    match step:
        case ("tick", int(ticks)):
            for _ in range(ticks):
                clock.tick()
                plain.now += 1
        case ("add", key, int(ttl)):
            clock.add(key, ttl)  # type: ignore[arg-type]
            plain.since[key], plain.ttl[key] = plain.now, ttl  # type: ignore[index]
            plain.told.discard(key)
        case ("renew", key) if key in plain.since:
            clock.renew(key)
            plain.since[key] = max(plain.since[key], plain.now)
            plain.told.discard(key)
        case ("remove", key):
            clock.remove(key)  # type: ignore[arg-type]
            plain.told.discard(key)
            if plain.since.pop(key, None) is not None:  # type: ignore[call-overload]
                del plain.ttl[key]  # type: ignore[arg-type]
        case ("restart", int(grace)):
            clock.restart(grace)
            plain.epoch = max(plain.epoch, plain.now + grace)
            for key in plain.since:
                plain.since[key] = max(plain.since[key], plain.epoch)
        case ("take", int(count)):
            due = plain.due()
            taken = clock.take_due(count)
            assert all(plain.deadline(key) <= plain.now and key not in plain.told for key in taken)
            assert len(taken) == min(count, len(due))
            assert [plain.deadline(key) for key in taken] == [plain.deadline(key) for key in due[:count]]
            plain.told.update(taken)


def test_a_call_looks_at_so_many_entries_and_no_more() -> None:
    clock = Deadlines()
    for number in range(100):
        clock.add((1, number), 1)
    for _ in range(9):
        clock.tick()
    clock.restart(5)
    with patch.object(deadlines, "LOOKS_MAX", 10):
        for _ in range(10):
            assert clock.take_due(1_000) == []
            assert clock.ticks_until_due() >= 1
    assert clock.ticks_until_due() == 6
    for _ in range(6):
        clock.tick()
    assert len(clock.take_due(1_000)) == 100
