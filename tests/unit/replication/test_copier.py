"""One table's copier, over a leader cluster that answers whatever a test wants."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.replication.copier import Copier
from coordinator.replication.leader import Leader
from coordinator.replication.tail import STALLED_S
from proto import errors
from proto.catalog import TableEntry
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.regatta import replication_pb2 as replication
from tests.simulation.following import Prefixes
from tests.unit.coordinator.running import in_loop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

COPY = TableEntry("t", 20_001, ShardId(1), origin=10_001)


class Done(Exception):
    """The test has seen enough."""


class Calls:
    """To a leader cluster that always answers Replicate with this, and has a table of one revision."""

    def __init__(self, answer: bytes, asked_max: int) -> None:
        self._answer = answer
        self._left = asked_max

    async def unary(self, path: str, request: bytes, timeout_s: float) -> bytes:
        return self._answer

    async def stream(
        self, path: str, request: bytes, timeout_s: float | None, silence_s: float | None = None
    ) -> AsyncGenerator[bytes]:
        if path == "/replication.v1.Snapshot/Stream":
            assert replication.SnapshotRequest.FromString(request).boathouse.waits
            yield replication.SnapshotChunk().SerializeToString()  # it is being made
            part = frames.TablePairs(revision=9, checksum=9, last=True)
            yield replication.SnapshotChunk(pairs=part.SerializeToString()).SerializeToString()
        else:
            self._left -= 1
            if self._left < 0:
                raise Done
            yield self._answer


class Clock:
    """On which so many waits are the end."""

    def __init__(self, waits_max: int) -> None:
        self.waits = 0
        self._waits_max = waits_max

    def time(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.waits += 1
        if self.waits == self._waits_max:
            raise Done

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.create_task(work)


class Aside:
    """Counts what is kept, or keeps nothing."""

    def __init__(self, error: errors.BoathouseError | None = None) -> None:
        self.kept: list[tuple[int, int, bool]] = []
        self._error = error

    async def keep(self, copy: TableEntry, status: frames.TableStatus, *, is_fresh: bool) -> None:
        assert copy == COPY
        self.kept.append((status.revision, status.checksum, is_fresh))
        if self._error is not None:
            raise self._error


class Copy:
    """copies.Copies of one copy, which says where it stands."""

    def __init__(self, revision: int) -> None:
        self.stands = frames.TableStatus(revision=revision, checksum=revision)
        self.replaced = 0

    async def status(self, _copy: TableEntry) -> frames.TableStatus:
        return self.stands

    async def take_part(self, _copy: TableEntry, part: bytes) -> int:
        told = frames.TablePairs.FromString(part)
        self.stands = frames.TableStatus(revision=told.revision, checksum=told.checksum)
        self.replaced += 1
        return told.revision


def refusal(error: int) -> bytes:
    """Of Replicate."""
    told = replication.ReplicateErrResponse(error=error)  # type: ignore[arg-type]  # perhaps of a later version
    return replication.ReplicateResponse(error_response=told).SerializeToString()


def level(revision: int, checksum: int) -> bytes:
    """What is told of a table where nothing has changed."""
    changes = frames.TableChanges(first=revision + 1, through=revision, checksum=checksum)
    return replication.ReplicateResponse(
        changes=changes.SerializeToString(), leader_index=revision
    ).SerializeToString()


USE_SNAPSHOT = refusal(replication.USE_SNAPSHOT)


async def run(
    answer: bytes,
    copy: Copy,
    *,
    aside: Aside | None = None,
    prefixes: Prefixes | None = None,
    epoch: int = 1,
    waits: int = 1,
) -> Copier:
    """A copier's life, over a leader cluster that always answers this."""
    copies: Any = copy
    leader = Leader("island", Calls(answer, waits))
    leader.epoch = epoch
    copier = Copier(
        COPY, leader, copies, prefixes or Prefixes(), aside or Aside(), random.Random(1), Clock(waits)
    )
    with pytest.raises(Done):
        await copier.run()
    return copier


async def trouble_with(answer: bytes, aside: Aside | None = None) -> str:
    """What a copier makes of it, again and again."""
    copier = await run(answer, Copy(5), aside=aside, waits=3)
    return copier.tail.trouble


@in_loop
async def test_an_answer_that_nobody_can_read_is_trouble_of_its_table_and_no_more() -> None:
    assert "can't be read" in await trouble_with(b"\xff\xff")
    inner = replication.ReplicateResponse(changes=b"\xff\xff").SerializeToString()
    assert "can't be read" in await trouble_with(inner)


@in_loop
async def test_a_reason_of_a_later_version_is_trouble_and_no_snapshot() -> None:
    assert "not known here" in await trouble_with(refusal(9))


@in_loop
async def test_what_can_not_be_set_aside_is_not_replaced() -> None:
    aside = Aside(errors.ReplicationRefused("the disk is full"))
    assert "the disk is full" in await trouble_with(refusal(replication.LEADER_BEHIND), aside)


@in_loop
async def test_a_past_of_its_own_is_set_aside_though_its_end_can_not_be_told_any_more() -> None:
    """A cluster that led comes back: its successor is further by now, and has compacted."""
    copy, aside, prefixes = Copy(5), Aside(), Prefixes()
    await run(USE_SNAPSHOT, copy, aside=aside, prefixes=prefixes, epoch=2)
    assert (copy.replaced, aside.kept) == (1, [(5, 5, False)])
    assert await prefixes.known(COPY) == b"/2/10001", "what a snapshot brought is no past of its own"


@in_loop
async def test_what_is_only_behind_is_replaced_without_a_file() -> None:
    prefixes = Prefixes()
    await run(level(5, 5), Copy(5), prefixes=prefixes)
    later, aside = Copy(5), Aside()
    await run(USE_SNAPSHOT, later, aside=aside, prefixes=prefixes)
    assert (later.replaced, aside.kept) == (1, [])
    fresh = Copy(1)
    await run(USE_SNAPSHOT, fresh, aside=aside)
    assert (fresh.replaced, aside.kept) == (1, []), "nothing was ever written to it"


@in_loop
async def test_what_began_empty_is_replaced_without_a_file_though_it_was_never_level() -> None:
    """It may be large by now, and there may be no room for a file."""
    prefixes, aside = Prefixes(), Aside()
    await run(refusal(9), Copy(1), prefixes=prefixes)
    await run(USE_SNAPSHOT, Copy(5), aside=aside, prefixes=prefixes)
    assert aside.kept == []


@in_loop
async def test_how_far_a_copy_is_behind_is_known_while_it_waits_for_a_snapshot() -> None:
    told = replication.ReplicateResponse.FromString(USE_SNAPSHOT)
    told.leader_index = 50
    full = Aside(errors.ReplicationRefused("the disk is full"))
    copier = await run(told.SerializeToString(), Copy(5), aside=full)
    assert copier.report(0.0).lag_revisions == 45


class Making(Calls):
    """To a leader cluster that has been making a snapshot for long when it says so."""

    def __init__(self, clock: Late) -> None:
        super().__init__(USE_SNAPSHOT, 1)
        self._clock = clock

    async def stream(
        self, path: str, request: bytes, timeout_s: float | None, silence_s: float | None = None
    ) -> AsyncGenerator[bytes]:
        if path == "/replication.v1.Snapshot/Stream":
            self._clock.now = STALLED_S
            yield replication.SnapshotChunk().SerializeToString()
            raise Done
        async for answer in super().stream(path, request, timeout_s, silence_s):
            yield answer


class Late(Clock):
    now = 0.0

    def time(self) -> float:
        return self.now


@in_loop
async def test_a_snapshot_that_is_being_made_is_progress() -> None:
    copies: Any = Copy(5)
    aside: Any = Aside()
    clock = Late(1)
    leader = Leader("island", Making(clock))
    copier = Copier(COPY, leader, copies, Prefixes(), aside, random.Random(1), clock)
    with pytest.raises(Done):
        await copier.run()
    assert not copier.tail.is_stalled(2 * STALLED_S - 1)


@in_loop
async def test_what_followed_in_another_epoch_may_have_led_since() -> None:
    prefixes, aside = Prefixes(), Aside()
    await run(level(5, 5), Copy(5), prefixes=prefixes, epoch=2)
    await run(USE_SNAPSHOT, Copy(7), aside=aside, prefixes=prefixes, epoch=4)
    assert aside.kept == [(7, 7, False)]


@in_loop
async def test_that_a_copy_does_not_fit_is_remembered_whoever_replicates() -> None:
    prefixes = Prefixes()
    await run(level(5, 5), Copy(5), prefixes=prefixes)
    full = Aside(errors.ReplicationRefused("the disk is full"))
    await run(level(5, 6), Copy(5), aside=full, prefixes=prefixes)
    copy, aside = Copy(5), Aside()
    await run(USE_SNAPSHOT, copy, aside=aside, prefixes=prefixes)
    assert (copy.replaced, aside.kept) == (1, [(5, 5, False)])
