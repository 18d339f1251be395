"""A table's copy rests while its shards have other things to do, and what is asked ahead is asked once."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.moves.mover import UNDER_WAY_MAX, Ask
from coordinator.moves.moves import UnderWay
from coordinator.moves.pacing import PARTS_REMEMBERED, REST_S_MAX, Pacing
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames

FIRST, SECOND, THIRD, OTHER = (
    Ask(ShardId(1), frames.TABLE_EXPORT, body) for body in (b"first", b"second", b"third", b"other")
)


class Copy:
    """Whose parts are sent one after the other."""

    def __init__(self) -> None:
        self.pacing = Pacing()
        self.now_s = 100.0

    def rest_s(self, took_s: float) -> float:
        """After a part that took so long."""
        sent_s, self.now_s = self.now_s, self.now_s + took_s
        return self.pacing.rest_s(sent_s, self.now_s)

    def rests_s(self, took_s: float) -> float:
        """Once all of late took so long."""
        return [self.rest_s(took_s) for _ in range(UNDER_WAY_MAX)][-1]


def test_where_there_is_room_it_does_not_rest() -> None:
    copy = Copy()
    assert [copy.rest_s(took_s) for took_s in (0.04, 0.03, 0.06, 0.05)] == [0.0] * 4


def test_it_rests_what_parts_took_beyond_twice_the_least() -> None:
    copy = Copy()
    copy.rests_s(0.03)
    assert copy.rests_s(0.16) == pytest.approx(0.1)
    assert copy.rests_s(7.0) == REST_S_MAX


def test_a_load_that_stays_is_the_measure_in_the_end() -> None:
    copy = Copy()
    copy.rests_s(0.03)
    copy.rests_s(0.2)
    assert all(copy.rest_s(0.2) > 0.0 for _ in range(PARTS_REMEMBERED - UNDER_WAY_MAX - 1))
    copy.rests_s(0.2)
    assert copy.rest_s(0.2) == 0.0


def test_parts_that_are_taken_together_are_no_sign_of_load() -> None:
    pacing = Pacing()
    assert pacing.rest_s(0.0, 0.04) == 0.0
    for number in range(1, 5):
        together_s = 0.04 + 0.16 * number
        rests = [pacing.rest_s(together_s - 0.16, together_s) for _ in range(UNDER_WAY_MAX)]
        assert rests == [0.0] * UNDER_WAY_MAX


class Asking:
    """Answers each question when it is told to."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.may_answer = asyncio.Event()

    async def __call__(self, ask: Ask) -> frames.Reply:
        self.asked.append(ask.body)
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled.append(ask.body)
            raise
        return frames.Reply(body=ask.body)


async def settle() -> None:
    """Let everybody go on."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_what_is_ahead_is_asked_beside_in_its_order_and_once() -> None:
    async def check() -> None:
        asking = Asking()
        under_way = UnderWay(asking, lambda: 0.0)
        first = under_way.ask(FIRST._replace(ahead=(SECOND, THIRD)))
        await settle()
        assert asking.asked == [b"first", b"second", b"third"]
        asking.may_answer.set()
        assert (await first.reply).body == b"first"
        second = under_way.ask(SECOND._replace(ahead=(THIRD, OTHER)))
        assert (await second.reply).body == b"second"
        await settle()
        assert asking.asked == [b"first", b"second", b"third", b"other"]

    asyncio.run(check())


def test_what_is_ahead_no_more_is_given_up() -> None:
    async def check() -> None:
        asking = Asking()
        under_way = UnderWay(asking, lambda: 0.0)
        under_way.ask(FIRST._replace(ahead=(SECOND, THIRD)))
        await settle()
        under_way.ask(OTHER._replace(ahead=(THIRD,)))
        await settle()
        assert asking.cancelled == [b"second"]
        under_way.drop()
        await settle()
        assert asking.cancelled == [b"second", b"third"]

    asyncio.run(check())


def test_an_answer_has_the_time_at_which_it_came() -> None:
    async def check() -> None:
        now_s = 1.0
        asking = Asking()
        under_way = UnderWay(asking, lambda: now_s)
        under_way.ask(FIRST._replace(ahead=(SECOND,)))
        await settle()
        now_s = 2.0
        asking.may_answer.set()
        await settle()
        now_s = 3.0
        second = under_way.ask(SECOND)
        assert (second.asked_s, second.answered_s) == (1.0, 2.0)

    asyncio.run(check())
