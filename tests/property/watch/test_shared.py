"""A shared question: nobody is given an answer that is older than his asking, and those who ask at once share one."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.watch.shared import SharedQuestion
from proto import errors

if TYPE_CHECKING:
    from collections.abc import Coroutine

turns = st.integers(0, 4)


async def _pass(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@given(
    comings=st.lists(st.tuples(turns, st.integers(1, 4), turns), min_size=1, max_size=20),
    lasting=st.lists(turns, min_size=1, max_size=20),
)
def test_no_answer_is_older_than_the_asking(comings: list[tuple[int, int, int]], lasting: list[int]) -> None:
    """comings: turns until some more ask, how many at once, and after how many turns the first of those gives up (0:
    never). lasting: how many turns answers take; 0 = none comes, but an error."""

    async def within() -> None:
        now = 0
        put: list[int] = []

        async def ask() -> int:
            answer, takes = now, lasting[len(put) % len(lasting)]
            put.append(answer)
            await _pass(takes)
            if not takes:
                raise errors.NoLeader
            return answer

        question = SharedQuestion(ask)

        async def come(asked_at: int) -> None:
            try:
                assert await question.answer() >= asked_at
            except errors.NoLeader:
                assert put[-1] >= asked_at

        asking: list[asyncio.Task[None]] = []
        giving_up: list[Coroutine[None, None, None]] = []
        for wait, count, gives_up_after in comings:
            await _pass(wait)
            now += 1
            came = [asyncio.create_task(come(now)) for _ in range(count)]
            asking += came
            if gives_up_after:
                giving_up.append(_give_up(came[0], gives_up_after))
        async with asyncio.timeout(60):
            await asyncio.gather(*giving_up, return_exceptions=True)
            outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert not [each for each in outcomes if isinstance(each, AssertionError)]
        assert len(put) <= len(comings)

    asyncio.run(within())


async def _give_up(task: asyncio.Task[None], after: int) -> None:
    await _pass(after)
    task.cancel()


def test_what_nobody_waits_for_any_more_may_fail() -> None:
    complaints: list[object] = []

    async def within() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

        async def ask() -> int:
            await _pass(4)
            raise errors.NoLeader

        asking = asyncio.create_task(SharedQuestion(ask).answer())
        await _pass(2)
        asking.cancel()
        await _pass(8)
        assert asking.cancelled()
        gc.collect()

    asyncio.run(within())
    assert complaints == []


def test_a_question_that_is_under_way_holds_up_nobody() -> None:
    async def within() -> None:
        answers: list[asyncio.Future[int]] = []

        async def ask() -> int:
            answers.append(asyncio.get_running_loop().create_future())
            return await answers[-1]

        question = SharedQuestion(ask)
        first = asyncio.create_task(question.answer())
        await _pass(4)
        second = asyncio.create_task(question.answer())
        await _pass(4)
        answers[1].set_result(2)
        assert await second == 2
        assert not first.done()
        question.close()
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(within())
