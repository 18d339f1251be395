"""One table's copier, over a leader cluster that answers whatever a test wants."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.replication.copier import Copier
from coordinator.replication.leader import Leader
from proto import errors
from proto.catalog import TableEntry
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.regatta import replication_pb2 as replication
from tests.unit.coordinator.running import in_loop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

COPY = TableEntry("t", 20_001, ShardId(1), origin=10_001)


class Done(Exception):
    """The test has seen enough."""


class Calls:
    """To a leader cluster that always answers this."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    async def unary(self, path: str, request: bytes, timeout_s: float) -> bytes:
        return self._answer

    async def stream(self, path: str, request: bytes, timeout_s: float | None) -> AsyncGenerator[bytes]:
        yield self._answer


class Clock:
    """On which the third wait is the last."""

    def __init__(self) -> None:
        self.waits = 0

    def time(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.waits += 1
        if self.waits == 3:
            raise Done

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.create_task(work)


class Aside:
    """Where nothing can be kept."""

    def __init__(self, error: errors.BoathouseError) -> None:
        self._error = error

    async def keep(self, copy: TableEntry, revision: int, *, is_fresh: bool) -> None:
        assert (copy, revision, is_fresh) == (COPY, 1, False)
        raise self._error


async def trouble_with(answer: bytes) -> str:
    """What a copier makes of it, again and again."""

    async def status(_copy: TableEntry) -> frames.TableStatus:
        return frames.TableStatus(revision=1)

    copies: Any = SimpleNamespace(status=status)
    aside = Aside(errors.ReplicationRefused("the disk is full"))
    copier = Copier(COPY, Leader("island", Calls(answer)), copies, aside, random.Random(1), Clock())
    with pytest.raises(Done):
        await copier.run()
    return copier.tail.trouble


@in_loop
async def test_an_answer_that_nobody_can_read_is_trouble_of_its_table_and_no_more() -> None:
    assert "can't be read" in await trouble_with(b"\xff\xff")
    inner = replication.ReplicateResponse(changes=b"\xff\xff").SerializeToString()
    assert "can't be read" in await trouble_with(inner)


@in_loop
async def test_a_reason_of_a_later_version_is_trouble_and_no_snapshot() -> None:
    refusal = replication.ReplicateErrResponse(error=9)  # type: ignore[arg-type]  # of a later version
    answer = replication.ReplicateResponse(error_response=refusal).SerializeToString()
    assert "not known here" in await trouble_with(answer)


@in_loop
async def test_what_can_not_be_set_aside_is_not_replaced() -> None:
    refusal = replication.ReplicateErrResponse(error=replication.LEADER_BEHIND)
    answer = replication.ReplicateResponse(error_response=refusal).SerializeToString()
    assert "the disk is full" in await trouble_with(answer)
