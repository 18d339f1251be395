"""Answers of a server that wait for their clients: how much of them there may be, and who reads too slowly."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import grpc
import h2.events
import pytest

from coordinator.front.http2 import frames
from coordinator.front.http2.frames import ErrorCode
from coordinator.front.limits import Limits
from proto import errors
from proto.methods import Access, Kind
from tests.unit.coordinator.running import in_loop
from tests.unit.front.raw_client import Raw, fields_of, raw, short
from tests.unit.front.serving import route, serving
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.api.call import Call

MEGABYTE = 1 << 20


async def flood(call: Call) -> None:
    while True:
        await call.send(bytes(10_000))


async def echo(call: Call) -> bytes:
    return call.body


async def large(call: Call) -> bytes:
    await asyncio.sleep(0)
    return bytes(int(call.body))


@in_loop
async def test_a_stream_that_is_never_read_ends_and_its_neighbours_go_on() -> None:
    routes = (route("Flood", flood, Kind.SERVER_STREAM), route("Echo", echo))
    limits = short(read_stall_s=0.2, stream_answer_bytes_max=100_000)
    async with serving(*routes, limits=limits) as server, raw(server) as peer:
        stream = peer.call("/test.Service/Flood")
        await wait_until_async(lambda: server.front.room.tally.bytes > 100_000, timeout_s=5, what="a queue")
        assert server.front.room.tally.bytes <= 110_005
        # The connection's window is used up by what is not read; only the stream is at fault.
        peer.h2.increment_flow_control_window(1 << 20)
        peer.flush()
        peer.call("/test.Service/Echo", b"hello")
        reset = await peer.hears(h2.events.StreamReset)
        assert (reset.stream_id, reset.error_code) == (stream, ErrorCode.INTERNAL_ERROR)
        assert server.front.room.tally.bytes == 0
        peer.call("/test.Service/Echo", b"still there")
        await peer.hears(h2.events.TrailersReceived)


@in_loop
async def test_a_stream_that_lasts_waits_for_its_client_while_there_is_room() -> None:
    """A client of Watch may be busy for a while, and goes on then where it was."""
    lasting = route("Watch", flood, Kind.BIDI_STREAM, lasts=True)
    flooded = route("Flood", flood, Kind.SERVER_STREAM)
    limits = short(read_stall_s=0.2, stream_answer_bytes_max=100_000, connection_answer_bytes_max=MEGABYTE)
    async with serving(lasting, flooded, limits=limits) as server, raw(server) as peer:
        room = server.front.room
        watch = peer.call("/test.Service/Watch")
        await wait_until_async(lambda: room.tally.bytes > 100_000, timeout_s=5, what="a queue")
        for _ in range(2):  # the second is found at least as late as the first stream would have been
            stream = peer.call("/test.Service/Flood")
            assert (await peer.hears(h2.events.StreamReset)).stream_id == stream
        assert 100_000 < room.tally.bytes <= 110_005
        # Others need the room.
        room.tally.bytes += room.bytes_max
        reset = await peer.hears(h2.events.StreamReset)
        assert (reset.stream_id, reset.error_code) == (watch, ErrorCode.INTERNAL_ERROR)
        room.tally.bytes -= room.bytes_max
        assert not room.tally.bytes


@in_loop
async def test_streams_that_last_leave_their_connection_room_for_others() -> None:
    lasting = route("Watch", flood, Kind.BIDI_STREAM, lasts=True)
    limits = short(read_stall_s=0.2, stream_answer_bytes_max=100_000, connection_answer_bytes_max=300_000)
    async with serving(lasting, limits=limits) as server, raw(server) as peer:
        streams = [peer.call("/test.Service/Watch") for _ in range(2)]
        assert (await peer.hears(h2.events.StreamReset)).stream_id in streams


@in_loop
async def test_a_connection_that_is_never_read_ends() -> None:
    async with serving(route("Large", large), limits=short(read_stall_s=0.2)) as server:
        async with raw(server, INITIAL_WINDOW_SIZE=1 << 30) as peer:
            peer.h2.increment_flow_control_window(1 << 30)
            peer.call("/test.Service/Large", b"30000000")
            await wait_until_async(
                lambda: server.front.room.tally.bytes > 1 << 20, timeout_s=5, what="a queue"
            )
            await wait_until_async(lambda: not server.front.sessions, timeout_s=5, what="its end")
        assert server.front.room.tally.bytes == 0


@in_loop
async def test_pings_of_a_client_that_reads_nothing_are_not_read_either() -> None:
    limits = short(nuisance_max=1e9, read_stall_s=60.0)
    async with serving(route("Echo", echo), limits=limits) as server, raw(server) as peer:
        await wait_until_async(lambda: server.front.sessions, timeout_s=5, what="the connection")
        (session,) = server.front.sessions
        pings = frames.frame(frames.PING, 0, 0, bytes(8)) * 10_000

        def is_deaf() -> bool:
            if peer.writer.transport.get_write_buffer_size() == 0:
                peer.writer.write(pings)
            return not session.is_reading

        await wait_until_async(is_deaf, timeout_s=10, what="the server to stop reading", interval_s=0.001)
        assert session.unsent_bytes < limits.write_buffer_bytes + limits.control_bytes_max + (1 << 19)
        peer.writer.transport.abort()


@in_loop
async def test_what_is_not_read_is_bounded_and_who_reads_goes_on_meanwhile() -> None:
    limits = short(answer_bytes_max=8 * MEGABYTE, read_stall_s=60.0)
    async with serving(route("Large", large), limits=limits) as server:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                deaf = await stack.enter_async_context(raw(server))
                for _ in range(100):
                    deaf.call("/test.Service/Large", b"100000")
            room = server.front.room
            await wait_until_async(
                lambda: room.tally.bytes > 5 * MEGABYTE and room.running == 0, timeout_s=5, what="full queues"
            )
            assert room.tally.bytes < 8 * MEGABYTE + 4 * 100_000
            for _ in range(20):
                assert await server.unary("Large")(b"5", timeout=5) == bytes(5)
        await wait_until_async(lambda: not room.tally.bytes, timeout_s=5, what="memory to come back")


@in_loop
async def test_answers_beyond_the_bound_are_refused_in_words() -> None:
    limits = short(connection_answer_bytes_max=2 * MEGABYTE)
    async with serving(route("Large", large), limits=limits) as server:
        async with raw(server) as peer:
            streams = [peer.call("/test.Service/Large", b"%d" % MEGABYTE) for _ in range(8)]
            refusals = 0
            while refusals < 4:
                answer = await peer.hears(h2.events.ResponseReceived)
                headers = fields_of(answer)
                if "grpc-status" in headers:
                    assert headers["grpc-status"] == "8"
                    assert headers["grpc-message"] == "etcdserver: too many requests"
                    refusals += 1
            assert server.front.room.tally.bytes <= 4 * MEGABYTE
            assert len(streams) == 8


@in_loop
async def test_a_stream_that_fills_the_socket_goes_on_as_it_is_read() -> None:
    async def much(call: Call) -> None:
        for _ in range(400):
            await call.send(bytes(50_000))

    async with serving(route("Much", much, Kind.SERVER_STREAM)) as server:
        async with raw(server, INITIAL_WINDOW_SIZE=1 << 30) as peer:
            peer.h2.increment_flow_control_window(1 << 30)
            peer.call("/test.Service/Much")
            bytes_ahead = server.front.limits.write_buffer_bytes
            await wait_until_async(
                lambda: any(session.unsent_bytes > bytes_ahead for session in server.front.sessions),
                timeout_s=5,
                what="a full socket",
            )
            # What it rests at: the handler goes on once half of what a stream may queue is read.
            await wait_until_async(
                lambda: server.front.room.tally.bytes > 1 << 19, timeout_s=5, what="a queue"
            )
            read = 0
            async with asyncio.timeout(10):
                while read < 400 * 50_005:
                    read += len(await peer.reader.read(1 << 16))
            assert server.front.room.tally.bytes == 0


# ---- who waits for whom ----------------------------------------------------------------------------------------------


async def wait_for_ever(_call: Call) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


async def malformed(_call: Call) -> bytes:
    raise errors.MalformedRequest("as always")


@in_loop
async def test_calls_that_wait_for_other_clients_take_nobodys_room() -> None:
    routes = (
        route("Large", large),
        route("Lock", wait_for_ever, waits=True),
        route("Sink", wait_for_ever, Kind.CLIENT_STREAM),
    )
    for waiter in routes:
        waiter.meter.answer_bytes_mean = MEGABYTE
    async with serving(*routes, limits=short(answer_bytes_max=8 * MEGABYTE)) as server:
        waiting = [server.unary("Lock")(b"") for _ in range(200)]
        waiting_too = [server.client_stream("Sink")(None) for _ in range(200)]
        await wait_until_async(lambda: server.streams == 400, timeout_s=5, what="all of them")
        for _ in range(100):
            await server.unary("Large")(b"%d" % MEGABYTE, timeout=5)
        assert await server.unary("Large")(b"1", timeout=5) == b"\0"
        for call in (*waiting, *waiting_too):
            call.cancel()


@in_loop
async def test_thousands_of_waiting_calls_that_end_at_once_end_one_by_one() -> None:
    limits = short(answer_bytes_max=8 * MEGABYTE, read_stall_s=60.0)
    bad = route("Bad", malformed)
    async with serving(route("Large", large), bad, limits=limits) as server:
        async with raw(server, INITIAL_WINDOW_SIZE=1 << 30) as peer:
            for _ in range(8):
                peer.call("/test.Service/Large", b"%d" % MEGABYTE)
            room = server.front.room
            await wait_until_async(lambda: room.tally.bytes > 4 * MEGABYTE, timeout_s=5, what="a queue")
            bad.meter.answer_bytes_mean = 8 * MEGABYTE
            for _ in range(1_000):
                peer.call("/test.Service/Bad", b"x")
            await wait_until_async(lambda: room.calls_waiting == 1_000, timeout_s=5, what="them to wait")
            peer.h2.increment_flow_control_window(1 << 30)
            peer.flush()
            statuses: Counter[str] = Counter()
            while statuses["13"] < 1_000:
                answer = await peer.hears(h2.events.ResponseReceived)
                statuses[fields_of(answer).get("grpc-status", "")] += 1
        await wait_until_async(lambda: not server.streams, timeout_s=5, what="no streams")


@in_loop
async def test_calls_that_fail_leave_what_is_expected_of_their_method() -> None:
    bad = route("Bad", malformed)
    bad.meter.answer_bytes_mean = MEGABYTE
    async with serving(bad) as server:
        with pytest.raises(grpc.aio.AioRpcError):
            await server.unary("Bad")(b"", timeout=5)
        assert bad.meter.answer_bytes_mean == MEGABYTE
        assert server.front.room.expected_bytes == 0


@in_loop
async def test_a_call_that_is_taken_back_while_it_waits_never_runs() -> None:
    asked = route("Large", large)
    async with serving(asked, limits=short(connection_answer_bytes_max=1, read_stall_s=60.0)) as server:
        async with raw(server) as peer:
            peer.call("/test.Service/Large", b"%d" % MEGABYTE)
            room = server.front.room
            await wait_until_async(lambda: room.tally.bytes > 0, timeout_s=5, what="a queue")
            asked.meter.answer_bytes_mean = MEGABYTE
            stream = peer.call("/test.Service/Large", b"5")
            await wait_until_async(lambda: room.calls_waiting == 1, timeout_s=5, what="a call that waits")
            peer.h2.reset_stream(stream)
            peer.flush()
            await wait_until_async(lambda: not room.turns, timeout_s=5, what="nothing to wait")
            assert server.front.request_bytes == 0


@in_loop
async def test_streams_that_are_not_read_share_a_bound_and_their_message() -> None:
    message = bytes(2 * MEGABYTE)
    begin = asyncio.Event()
    sent = 0

    async def watch(call: Call) -> None:
        nonlocal sent
        await begin.wait()
        await call.send(message)
        sent += 1
        await call.send(b"small")

    limits = short(
        answer_bytes_max=32 * MEGABYTE, connection_answer_bytes_max=16 * MEGABYTE, read_stall_s=60.0
    )
    async with serving(route("Watch", watch, Kind.BIDI_STREAM), limits=limits) as server:
        async with raw(server, INITIAL_WINDOW_SIZE=1 << 30) as deaf:
            for _ in range(50):
                deaf.open("/test.Service/Watch")
            await wait_until_async(lambda: server.streams == 50, timeout_s=5, what="all streams")
            begin.set()
            room = server.front.room
            await wait_until_async(lambda: room.turns, timeout_s=5, what="streams that wait")
            assert room.tally.bytes <= 16 * MEGABYTE
            # Another connection hears of it, although this one does not read.
            hears = server.bidi("Watch")(None)
            assert await asyncio.wait_for(hears.read(), 5) == message
            assert await asyncio.wait_for(hears.read(), 5) == b"small"
            # What is read makes room for the others, one by one.
            deaf.h2.increment_flow_control_window(1 << 30)
            deaf.flush()
            heard = 0
            async with asyncio.timeout(20):
                while heard < 50 * len(message):
                    heard += len(await deaf.reader.read(1 << 20))
                    assert room.tally.bytes <= 16 * MEGABYTE
        await wait_until_async(lambda: not room.turns, timeout_s=5, what="nothing to wait")


@in_loop
async def test_a_write_goes_on_while_all_room_is_taken() -> None:
    routes = (route("Large", large), route("Put", echo, access=Access.WRITE))
    limits = short(answer_bytes_max=2 * MEGABYTE, read_stall_s=60.0)
    async with serving(*routes, limits=limits) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            deaf = await stack.enter_async_context(raw(server))
            deaf.call("/test.Service/Large", b"%d" % MEGABYTE)
        room = server.front.room
        await wait_until_async(lambda: room.tally.bytes > 2 * MEGABYTE, timeout_s=5, what="no room")
        reads = server.unary("Large")(b"5")
        await wait_until_async(lambda: room.calls_waiting == 1, timeout_s=5, what="a read that waits")
        assert await server.unary("Put")(b"hello", timeout=5) == b"hello"
        assert not reads.done()
        reads.cancel()


@in_loop
async def test_the_call_beyond_those_that_may_wait_is_refused() -> None:
    asked = route("Large", large)
    limits = short(calls_waiting_max=3, connection_answer_bytes_max=1, read_stall_s=60.0)
    async with serving(asked, limits=limits) as server, raw(server) as peer:
        peer.call("/test.Service/Large", b"%d" % MEGABYTE)
        room = server.front.room
        await wait_until_async(lambda: room.tally.bytes > 0, timeout_s=5, what="a queue")
        asked.meter.answer_bytes_mean = MEGABYTE
        streams = [peer.call("/test.Service/Large", b"5") for _ in range(4)]
        while True:
            answer = await peer.hears(h2.events.ResponseReceived)
            if "grpc-status" in fields_of(answer):
                break
        assert (answer.stream_id, fields_of(answer)["grpc-status"]) == (streams[3], "8")
        assert room.calls_waiting == 3


# ---- who reads too slowly --------------------------------------------------------------------------------------------


async def while_it_trickles(peer: Raw, increment: int, condition: Callable[[], bool], what: str) -> None:
    """Wait for the condition, and let the server send so much every hundredth of a second."""

    def trickle() -> bool:
        peer.writer.write(frames.window_update(0, increment))
        return condition()

    await wait_until_async(trickle, timeout_s=5, what=what, interval_s=0.01)


@in_loop
async def test_a_byte_now_and_then_is_not_reading() -> None:
    limits = short(answer_bytes_max=64 * MEGABYTE, read_stall_s=0.3)
    async with serving(route("Large", large), limits=limits) as server, raw(server) as peer:
        for _ in range(5):
            peer.call("/test.Service/Large", b"%d" % MEGABYTE)
        tally = server.front.room.tally
        await wait_until_async(lambda: tally.bytes > MEGABYTE, timeout_s=5, what="a queue")
        await while_it_trickles(peer, 1, lambda: not tally.bytes, "its end")
        assert await server.unary("Large")(b"5", timeout=5) == bytes(5)


@in_loop
async def test_a_slow_line_is_let_alone_while_there_is_room() -> None:
    limits = short(answer_bytes_max=64 * MEGABYTE, read_stall_s=0.2, read_bytes_min=1_000)
    routes = (route("Large", large),)
    async with serving(*routes, limits=limits) as server, raw(server, INITIAL_WINDOW_SIZE=1 << 30) as peer:
        for _ in range(5):
            peer.call("/test.Service/Large", b"%d" % MEGABYTE)
        tally = server.front.room.tally
        await wait_until_async(lambda: tally.bytes > 4 * MEGABYTE, timeout_s=5, what="a queue")
        before = tally.bytes
        await while_it_trickles(peer, 500, lambda: before - tally.bytes > 30_000, "much to be read")
        assert server.streams == 5
        # No longer so once others need the room.
        tally.bytes += 64 * MEGABYTE
        await while_it_trickles(peer, 500, lambda: not server.streams, "their end")
        tally.bytes -= 64 * MEGABYTE


@in_loop
async def test_messages_that_are_sent_together_come_one_by_one_also_where_they_have_to_wait() -> None:
    messages = [bytes([number % 256]) * (number * 37 % 3_000) for number in range(400)]

    async def talk(call: Call) -> None:
        for start in range(0, len(messages), 80):
            await call.send_all(messages[start : start + 80])

    narrow = Limits(answer_bytes_max=64 << 10, connection_answer_bytes_max=32 << 10)
    async with serving(route("Talk", talk, Kind.SERVER_STREAM), limits=narrow) as server:
        calls = [server.channel.unary_stream("/test.Service/Talk", None, None)(b"") for _ in range(4)]
        for heard in await asyncio.gather(*(_all_of(call) for call in calls)):
            assert heard == messages


async def _all_of(call: object) -> list[bytes]:
    return [message async for message in call]  # type: ignore[attr-defined]
