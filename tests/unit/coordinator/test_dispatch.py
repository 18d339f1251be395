"""Calls in flight, without sockets: channels that only note what they were given."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from coordinator.shards.dispatch import LEADER, NEAREST, Call, Dispatch
from coordinator.shards.routing import ShardRoutes
from proto import errors
from proto.internal import frames_pb2 as frames
from tests.unit.coordinator.running import in_loop
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Callable


class NotedChannel:
    def __init__(self, shard: int, node: int) -> None:
        self.shard = shard
        self.node = node
        self.sent: list[tuple[int, bytes, bytes]] = []
        """Number, body, request id."""
        self.cursors_closed: list[int] = []

    def send(
        self,
        number: int,
        method: frames.Method.ValueType,
        table_id: int,
        body: bytes,
        request_id: bytes,
        linearizable: bool,
        cursor: int,
    ) -> None:
        if method == frames.CURSOR_CLOSE:
            self.cursors_closed.append(cursor)
        else:
            self.sent.append((number, body, request_id))


class Bench:
    """A dispatch with one shard on nodes 1 (local), 2 and 3, all connected, led by node 1 in term 1."""

    def __init__(self, *, leader: int = 1, calls_max: int = 100, bytes_max: int = 1_000) -> None:
        self.loop = asyncio.get_running_loop()
        self.dispatch = Dispatch(self.loop, calls_max=calls_max, bytes_max=bytes_max)
        self.dispatch.add_shard(1, ShardRoutes(nodes=[1, 2, 3], local=1))
        self.channels = {node: NotedChannel(1, node) for node in (1, 2, 3)}
        for channel in self.channels.values():
            self.dispatch.add_channel(channel)
            self.dispatch.handle_connected(channel)
        if leader:
            self.say(1, term=1, leader=leader)

    def say(self, node: int, *, term: int, leader: int) -> None:
        self.dispatch.handle_envelope(
            self.channels[node],
            frames.Envelope(state=frames.ReplicaState(shard=1, node=node, term=term, leader=leader)),
        )

    def reply(self, node: int, number: int, body: bytes = b"", *, cursor: int = 0) -> None:
        reply = frames.Reply(call=number, body=body, cursor=cursor)
        self.dispatch.handle_envelope(self.channels[node], frames.Envelope(replies=[reply]))

    def refuse(
        self, node: int, number: int, error: errors.BoathouseError, *, term: int, leader: int = 0
    ) -> None:
        reply = frames.Reply(
            call=number, error=error.frame_code, detail=error.detail, term=term, leader=leader
        )
        self.dispatch.handle_envelope(self.channels[node], frames.Envelope(replies=[reply]))

    def write(self, *, timeout_s: float = 5.0, body: bytes = b"w") -> Call:
        return self.dispatch.submit(
            1, LEADER, frames.ETCD_PUT, 1, body, deadline=self.loop.time() + timeout_s, request_id=b"i" * 16
        )

    def read(self, target: int = NEAREST, *, timeout_s: float = 5.0, cursor: int = 0) -> Call:
        deadline = self.loop.time() + timeout_s
        return self.dispatch.submit(1, target, frames.ETCD_RANGE, 1, b"r", deadline=deadline, cursor=cursor)

    def sent(self, node: int) -> list[tuple[int, bytes, bytes]]:
        return self.channels[node].sent


@in_loop
async def test_a_write_goes_to_the_leader_and_resolves_once() -> None:
    bench = Bench()
    call = bench.write()
    [(number, _, _)] = bench.sent(1)
    bench.reply(1, number, b"done")
    bench.reply(1, number, b"again")
    assert (await call.future).body == b"done"
    assert bench.dispatch.calls_count == 0


@in_loop
async def test_not_leader_with_a_hint_is_followed_with_the_same_request_id() -> None:
    bench = Bench()
    call = bench.write()
    bench.refuse(1, bench.sent(1)[0][0], errors.NotLeader(), term=2, leader=3)
    [(number, body, request_id)] = bench.sent(3)
    assert (body, request_id) == (b"w", b"i" * 16)
    bench.reply(3, number, b"done")
    assert (await call.future).body == b"done"


@in_loop
async def test_one_refusal_moves_all_calls_and_the_refusals_behind_it_are_ignored() -> None:
    bench = Bench()
    calls = [bench.write() for _ in range(3)]
    refusal = errors.NotLeader().frame_code
    bench.dispatch.handle_envelope(
        bench.channels[1],
        frames.Envelope(
            replies=[
                frames.Reply(call=number, error=refusal, term=2, leader=2) for number, _, _ in bench.sent(1)
            ]
        ),
    )
    assert len(bench.sent(2)) == 3
    for number, _, _ in bench.sent(2):
        bench.reply(2, number)
    await asyncio.gather(*(call.future for call in calls))


@in_loop
async def test_a_call_waits_while_nobody_leads_and_leaves_with_the_news() -> None:
    bench = Bench(leader=0)
    bench.write()
    assert not any(bench.sent(node) for node in (1, 2, 3))
    bench.say(2, term=4, leader=2)
    assert len(bench.sent(2)) == 1


@in_loop
async def test_a_refusing_leader_is_not_asked_again_before_the_sweep() -> None:
    bench = Bench()
    bench.write()
    bench.refuse(1, bench.sent(1)[0][0], errors.ShuttingDown(), term=1, leader=1)
    assert len(bench.sent(1)) == 1
    await wait_until_async(lambda: len(bench.sent(1)) == 2, timeout_s=5, what="the sweep to try again")


@in_loop
async def test_a_paused_leader_is_left_when_others_follow_a_new_one() -> None:
    bench = Bench()
    write, linearizable, stale = bench.write(), bench.read(LEADER), bench.read(NEAREST)
    old_numbers = [number for number, _, _ in bench.sent(1)]
    bench.say(2, term=2, leader=2)
    assert [body for _, body, _ in bench.sent(2)] == [b"w", b"r"]
    bench.reply(1, old_numbers[0], b"late")
    assert not write.future.done()
    for number, _, _ in bench.sent(2):
        bench.reply(2, number, b"new")
    assert (await write.future).body == b"new"
    assert (await linearizable.future).body == b"new"
    assert not stale.future.done()
    bench.reply(1, old_numbers[2])
    await stale.future


@in_loop
async def test_a_broken_link_moves_its_calls_at_once() -> None:
    bench = Bench()
    bench.say(2, term=1, leader=1)
    write, stale, cursor = bench.write(), bench.read(NEAREST), bench.read(1, cursor=9)
    bench.dispatch.handle_disconnected(bench.channels[1])
    with pytest.raises(errors.CursorNotFound):
        await cursor.future
    assert [body for _, body, _ in bench.sent(2)] == [b"r"]
    assert not write.future.done()
    bench.say(3, term=2, leader=3)
    assert [body for _, body, _ in bench.sent(3)] == [b"w"]
    bench.reply(2, bench.sent(2)[0][0])
    await stale.future


@in_loop
async def test_a_call_to_one_replica_that_is_away_fails_at_once() -> None:
    bench = Bench()
    bench.dispatch.handle_disconnected(bench.channels[3])
    with pytest.raises(errors.NoLeader):
        await bench.read(3).future
    with pytest.raises(errors.CursorNotFound):
        await bench.read(3, cursor=1).future


@in_loop
async def test_an_unsent_envelope_is_tried_again_later() -> None:
    bench = Bench()
    bench.write()
    bench.dispatch.handle_unsent(bench.channels[1])
    assert len(bench.sent(1)) == 1
    await wait_until_async(lambda: len(bench.sent(1)) == 2, timeout_s=5, what="the second try")


@in_loop
async def test_a_part_of_an_iteration_that_may_have_been_asked_for_is_not_asked_for_again() -> None:
    bench = Bench()
    part = bench.read(1, cursor=9)
    bench.dispatch.handle_unsent(bench.channels[1])
    with pytest.raises(errors.CursorNotFound):
        await part.future
    bench.dispatch.handle_connected(bench.channels[1])
    assert len(bench.sent(1)) == 1


@in_loop
async def test_a_cursor_that_nobody_waits_for_any_more_is_closed() -> None:
    bench = Bench()
    abandoned, late = bench.read(), bench.read(timeout_s=0.01)
    first, second = (number for number, _, _ in bench.sent(1))
    abandoned.future.cancel()
    bench.reply(1, first, cursor=7)
    with pytest.raises(errors.ReadTimedOut):
        await late.future
    bench.reply(1, second, cursor=8)
    assert bench.channels[1].cursors_closed == [7, 8]


def disconnected(bench: Bench) -> None:
    bench.dispatch.handle_disconnected(bench.channels[1])
    bench.say(2, term=2, leader=2)


def another_leader(bench: Bench) -> None:
    bench.say(2, term=2, leader=2)


def leadership_lost(bench: Bench) -> None:
    bench.refuse(1, bench.sent(1)[0][0], errors.LeaderLost(), term=2, leader=2)


def unsent(bench: Bench) -> None:
    bench.dispatch.handle_unsent(bench.channels[1])
    bench.say(2, term=2, leader=2)


@pytest.mark.parametrize("doubt", [disconnected, another_leader, leadership_lost, unsent])
@pytest.mark.parametrize("refusal", [errors.NoSpace, errors.QueueFull])
def test_a_refusal_does_not_deny_what_an_earlier_leader_may_have_proposed(
    doubt: Callable[[Bench], None], refusal: type[errors.BoathouseError]
) -> None:
    @in_loop
    async def scenario() -> None:
        bench = Bench()
        write = bench.write()
        doubt(bench)
        bench.refuse(2, bench.sent(2)[0][0], refusal("node 2"), term=2, leader=2)
        with pytest.raises(errors.LeaderLost, match="node 2"):
            await write.future

    scenario()


@in_loop
async def test_a_refusal_after_a_refusal_is_certain() -> None:
    bench = Bench()
    write = bench.write()
    bench.refuse(1, bench.sent(1)[0][0], errors.NotLeader(), term=2, leader=2)
    bench.refuse(2, bench.sent(2)[0][0], errors.NoSpace("node 2"), term=2, leader=2)
    with pytest.raises(errors.NoSpace):
        await write.future


@in_loop
async def test_at_the_deadline_a_write_is_of_unknown_fate_and_a_read_is_not() -> None:
    bench = Bench(leader=0)
    write, read = bench.write(timeout_s=0.01), bench.read(LEADER, timeout_s=0.01)
    with pytest.raises(errors.TimedOut):
        await write.future
    with pytest.raises(errors.ReadTimedOut):
        await read.future
    assert bench.dispatch.calls_count == 0


@in_loop
async def test_lost_leadership_is_retried_and_other_errors_are_not() -> None:
    bench = Bench()
    lost, refused = bench.write(), bench.write()
    first, second = (number for number, _, _ in bench.sent(1))
    bench.refuse(1, second, errors.NoSpace("node 1"), term=1, leader=1)
    with pytest.raises(errors.NoSpace, match="node 1"):
        await refused.future
    bench.refuse(1, first, errors.LeaderLost(), term=2, leader=2)
    assert len(bench.sent(2)) == 1
    assert not lost.future.done()


@in_loop
async def test_an_error_of_another_version_fails_its_call() -> None:
    bench = Bench()
    call = bench.write()
    reply = frames.Reply(call=bench.sent(1)[0][0], error=60_000, detail="from the future")
    bench.dispatch.handle_envelope(bench.channels[1], frames.Envelope(replies=[reply]))
    with pytest.raises(errors.InvariantBroken, match="60000"):
        await call.future


@in_loop
async def test_what_is_in_flight_is_bounded_in_number_and_bytes() -> None:
    bench = Bench(calls_max=2, bytes_max=10)
    bench.write(body=b"12345678")
    with pytest.raises(errors.QueueFull):
        bench.write(body=b"123")
    bench.write(body=b"1")
    with pytest.raises(errors.QueueFull):
        bench.write(body=b"")
    for number, _, _ in list(bench.sent(1)):
        bench.reply(1, number)
    bench.write(body=b"1234567890")


@in_loop
async def test_a_call_whose_client_left_is_neither_resent_nor_kept() -> None:
    bench = Bench(bytes_max=1)
    call = bench.write()
    call.future.cancel()
    bench.say(2, term=2, leader=2)
    assert not bench.sent(2)
    assert bench.dispatch.calls_count == 0
    bench.write().future.cancel()
    await wait_until_async(lambda: bench.dispatch.calls_count == 0, timeout_s=5, what="the sweep")


@in_loop
async def test_closing_fails_what_is_left_and_refuses_the_rest() -> None:
    bench = Bench()
    write, read = bench.write(), bench.read()
    bench.dispatch.close()
    with pytest.raises(errors.TimedOut):
        await write.future
    with pytest.raises(errors.ShuttingDown):
        await read.future
    with pytest.raises(errors.ShuttingDown):
        bench.write()


@in_loop
async def test_a_read_that_a_damaged_replica_refuses_goes_to_another() -> None:
    bench = Bench(leader=2)
    call = bench.read()
    bench.refuse(1, bench.sent(1)[0][0], errors.Corrupt("differs"), term=1, leader=2)
    [(number, _, _)] = bench.sent(2)
    bench.reply(2, number, b"sound")
    assert (await call.future).body == b"sound"


@in_loop
async def test_a_read_that_every_replica_refuses_as_damaged_fails() -> None:
    bench = Bench(leader=2)
    call = bench.read()
    bench.refuse(1, bench.sent(1)[-1][0], errors.Corrupt("in doubt"), term=1, leader=2)
    bench.refuse(2, bench.sent(2)[-1][0], errors.Corrupt("in doubt"), term=1, leader=2)
    bench.refuse(1, bench.sent(1)[-1][0], errors.Corrupt("in doubt"), term=1, leader=2)
    with pytest.raises(errors.Corrupt, match="in doubt"):
        await call.future
    assert sum(len(bench.sent(node)) for node in (1, 2, 3)) == 3
