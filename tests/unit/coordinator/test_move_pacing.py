"""A table's copy rests while its shards have other things to do, and what is asked ahead is asked once."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.moves.mover import Ask
from coordinator.moves.moves import Ahead
from coordinator.moves.pacing import PARTS_REMEMBERED, REST_S_MAX, Pacing
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames

NEXT = Ask(ShardId(1), frames.TABLE_EXPORT, b"next")
OTHER = Ask(ShardId(1), frames.TABLE_EXPORT, b"other")


def test_where_there_is_room_it_does_not_rest() -> None:
    pacing = Pacing()
    assert [pacing.rest_s(took_s) for took_s in (0.04, 0.03, 0.06, 0.05)] == [0.0] * 4


def test_it_rests_what_a_part_took_beyond_twice_the_least() -> None:
    pacing = Pacing()
    pacing.rest_s(0.03)
    assert pacing.rest_s(0.16) == pytest.approx(0.1)
    assert pacing.rest_s(7.0) == REST_S_MAX


def test_a_load_that_stays_is_the_measure_in_the_end() -> None:
    pacing = Pacing()
    pacing.rest_s(0.03)
    assert all(pacing.rest_s(0.2) > 0.0 for _ in range(PARTS_REMEMBERED - 1))
    assert pacing.rest_s(0.2) == 0.0


def test_what_was_asked_ahead_is_the_answer_to_just_that() -> None:
    async def reply(body: bytes) -> frames.Reply:
        return frames.Reply(body=body)

    async def check() -> None:
        ahead = Ahead()
        ahead.begin(NEXT, reply(b"part"))
        coming = ahead.reply_to(NEXT)
        assert coming is not None
        assert (await coming).body == b"part"
        assert ahead.reply_to(NEXT) is None, "it is told once"
        ahead.begin(NEXT, reply(b"part"))
        assert ahead.reply_to(OTHER) is None
        assert ahead.reply_to(NEXT) is None, "it was dropped"

    asyncio.run(check())
