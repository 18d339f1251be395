"""Work that runs together."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.replication.clock import AT_ONCE_MAX, LOOP_CLOCK, together
from tests.unit.coordinator.running import in_loop


@in_loop
async def test_so_much_work_runs_together_and_its_outcomes_are_in_order() -> None:
    gate, running = asyncio.Event(), set[int]()

    async def work(number: int) -> int:
        running.add(number)
        if len(running) == AT_ONCE_MAX:
            gate.set()
        await gate.wait()
        running.remove(number)
        return number

    async with asyncio.timeout(20):
        outcomes = await together(LOOP_CLOCK, map(work, range(2 * AT_ONCE_MAX + 1)))
    assert outcomes == list(range(2 * AT_ONCE_MAX + 1))


@in_loop
async def test_what_fails_ends_the_rest() -> None:
    ended: list[int] = []

    async def work(number: int) -> None:
        if number == 1:
            raise ValueError(number)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    async def none() -> None:
        """Ends at once."""

    async with asyncio.timeout(20):
        with pytest.raises(ValueError, match="1"):
            await together(LOOP_CLOCK, [none(), work(1), work(2), work(3)])
        while asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
    assert ended == [2, 3]
