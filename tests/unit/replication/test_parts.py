"""Parts of a snapshot under way: some at a time, in order, and again if one was ahead of another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from coordinator.replication.parts import UNDER_WAY_MAX, PartsUnderWay
from proto import errors
from proto.catalog import TableEntry
from proto.ids import ShardId
from tests.unit.coordinator.running import in_loop

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from coordinator.replication.copies import Copies

COPY = TableEntry("t", 20_001, ShardId(1), origin=10_001)


class FakeCopies:
    """Takes parts when it is let, in an order of the test's choice, and refuses those that are not the next."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.taken: list[int] = []
        self._gates: dict[int, asyncio.Event] = {}

    def let(self, *numbers: int) -> None:
        for number in numbers:
            self._gate(number).set()

    def _gate(self, number: int) -> asyncio.Event:
        return self._gates.setdefault(number, asyncio.Event())

    async def take_part(self, copy: TableEntry, part: bytes) -> int:
        assert copy is COPY
        number = int(part)
        self.asked.append(number)
        await self._gate(number).wait()
        if number != len(self.taken):
            raise errors.SnapshotInterrupted(f"part {number} came, where part {len(self.taken)} is the next")
        self.taken.append(number)
        return 100 + number


class RunningLoop:
    def start(self, work: Coroutine[Any, Any, int]) -> asyncio.Task[int]:
        return asyncio.get_running_loop().create_task(work)


def _parts(copies: FakeCopies) -> PartsUnderWay:
    return PartsUnderWay(cast("Copies", copies), COPY, RunningLoop())  # type: ignore[arg-type]


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@in_loop
async def test_so_many_are_under_way_and_no_more() -> None:
    copies = FakeCopies()
    parts = _parts(copies)
    for number in range(UNDER_WAY_MAX - 1):
        assert not await parts.add(b"%d" % number)
    adding = asyncio.ensure_future(parts.add(b"%d" % (UNDER_WAY_MAX - 1)))
    await _settle()
    assert copies.asked == list(range(UNDER_WAY_MAX))
    assert not adding.done()
    copies.let(0)
    assert await adding
    copies.let(*range(UNDER_WAY_MAX))
    assert await parts.finish() == 100 + UNDER_WAY_MAX - 1
    assert copies.taken == list(range(UNDER_WAY_MAX))


@in_loop
async def test_a_part_that_was_ahead_of_another_is_sent_again() -> None:
    copies = FakeCopies()
    parts = _parts(copies)
    await parts.add(b"0")
    await parts.add(b"1")
    copies.let(1)  # it arrives first, and is refused
    await _settle()
    assert copies.taken == []
    copies.let(0)
    assert await parts.finish() == 101
    assert copies.taken == [0, 1]
    assert copies.asked == [0, 1, 1]


@in_loop
async def test_a_part_that_does_not_fit_at_all_ends_it() -> None:
    copies = FakeCopies()
    parts = _parts(copies)
    await parts.add(b"5")
    await parts.add(b"6")
    copies.let(5)
    with pytest.raises(errors.SnapshotInterrupted):
        await parts.finish()
    parts.give_up()
    await _settle()
    assert copies.asked == [5, 6, 5]
    assert copies.taken == []
