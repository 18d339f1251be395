"""gRPC as grpcio's clients see it: all kinds of calls, sizes, deadlines, cancellation, metadata, errors."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING

import grpc
import pytest

from coordinator.api.call import StreamEnded
from proto import errors
from proto.methods import Access, Kind
from tests.unit.coordinator.running import in_loop, refused
from tests.unit.front.serving import MESSAGE_BYTES_MAX, route, serving
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.api.call import Call


async def echo(call: Call) -> bytes:
    return call.body


async def reversed_later(call: Call) -> bytes:
    await asyncio.sleep(0)
    return call.body[::-1]


async def count(call: Call) -> None:
    for number in range(int(call.body)):
        await call.send(b"%d" % number)


async def total(call: Call) -> bytes:
    return b"%d" % sum([len(message) async for message in call.messages()])


async def ping_pong(call: Call) -> None:
    async for message in call.messages():
        await call.send(message.upper())


ALL_KINDS = (
    route("Echo", echo),
    route("Reversed", reversed_later),
    route("Count", count, Kind.SERVER_STREAM),
    route("Total", total, Kind.CLIENT_STREAM),
    route("PingPong", ping_pong, Kind.BIDI_STREAM),
)


async def these(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_all_kinds_of_calls(compression: grpc.Compression) -> None:
    @in_loop
    async def scenario() -> None:
        async with serving(*ALL_KINDS) as server:
            assert await server.unary("Echo")(b"abc", compression=compression) == b"abc"
            assert await server.unary("Echo")(b"", compression=compression) == b""
            assert await server.unary("Reversed")(b"abc" * 1_000, compression=compression) == b"cba" * 1_000
            numbers = [m async for m in server.server_stream("Count")(b"300", compression=compression)]
            assert numbers == [b"%d" % number for number in range(300)]
            assert [m async for m in server.server_stream("Count")(b"0")] == []
            total = server.client_stream("Total")(these(b"a", b"", b"bc" * 500), compression=compression)
            assert await total == b"1001"
            assert await server.client_stream("Total")(these()) == b"0"
            pong = [m async for m in server.bidi("PingPong")(these(b"a", b"b", b""), compression=compression)]
            assert pong == [b"A", b"B", b""]
            assert [m async for m in server.bidi("PingPong")(these())] == []

    scenario()


@in_loop
async def test_a_conversation_is_answered_word_by_word() -> None:
    async with serving(*ALL_KINDS) as server:
        call = server.bidi("PingPong")(None)
        for word in (b"one", b"two", b"three"):
            await call.write(word)
            assert await call.read() == word.upper()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF  # type: ignore[attr-defined]  # missing in grpc-stubs
        assert (await call.code()) is grpc.StatusCode.OK


@pytest.mark.parametrize("size", [16_379, 16_384, 65_531, 1_000_000, MESSAGE_BYTES_MAX])
def test_large_messages_pass_both_ways(size: int) -> None:
    @in_loop
    async def scenario() -> None:
        async with serving(*ALL_KINDS) as server:
            message = bytes(range(256)) * (size // 256 + 1)
            assert await server.unary("Echo")(message[:size]) == message[:size]

    scenario()


@in_loop
async def test_many_calls_at_once_on_one_connection() -> None:
    async with serving(*ALL_KINDS) as server:
        calls = [server.unary("Reversed")(b"%d" % number) for number in range(1_000)]
        assert await asyncio.gather(*calls) == [(b"%d" % number)[::-1] for number in range(1_000)]


@in_loop
async def test_a_message_over_the_limit_is_refused_in_the_apis_words() -> None:
    async with serving(*ALL_KINDS) as server:
        text = f"grpc: received message larger than max ({MESSAGE_BYTES_MAX + 1} vs. {MESSAGE_BYTES_MAX})"
        too_large = bytes(MESSAGE_BYTES_MAX + 1)
        assert await refused(server.unary("Echo")(too_large)) == ("RESOURCE_EXHAUSTED", text)
        assert await refused(server.client_stream("Total")(these(b"a", too_large))) == (
            "RESOURCE_EXHAUSTED",
            text,
        )
        assert await server.unary("Echo")(b"still there") == b"still there"


@in_loop
async def test_a_message_that_grows_over_the_limit_is_refused() -> None:
    async with serving(*ALL_KINDS) as server:
        code, text = await refused(
            server.unary("Echo")(bytes(MESSAGE_BYTES_MAX + 1), compression=grpc.Compression.Gzip)
        )
        assert code == "RESOURCE_EXHAUSTED"
        assert text.startswith("grpc: received message larger than max (")


@in_loop
async def test_metadata_reaches_the_handler() -> None:
    seen: list[dict[str, str]] = []

    async def look(call: Call) -> bytes:
        seen.append(dict(call.metadata))
        return b""

    async with serving(route("Look", look)) as server:
        metadata = (("table", "users"), ("table", "second"), ("trace-bin", b"\x00\xff"), ("x", "a b"))
        await server.unary("Look")(b"", metadata=metadata)
        await server.unary("Look")(b"", metadata=metadata)
        for found in seen:
            assert found["table"] == "users"
            assert found["trace-bin"].rstrip("=") == "AP8"
            assert found["x"] == "a b"
            assert not {name for name in found if name.startswith((":", "grpc-"))} | ({"te"} & set(found))


@in_loop
async def test_metadata_beyond_64_kib_is_refused_in_words_and_the_connection_stays() -> None:
    async with serving(*ALL_KINDS, options=(("grpc.max_metadata_size", 1 << 20),)) as server:
        echo = server.unary("Echo")
        assert await echo(b"", metadata=(("x", "y" * 60_000),)) == b""
        code, text = await refused(echo(b"", metadata=(("x", "y" * 70_000),)))
        assert code == "RESOURCE_EXHAUSTED"
        assert "metadata larger than max" in text
        assert len(server.front.sessions) == 1
        assert await echo(b"a") == b"a"
        assert len(server.front.sessions) == 1


@in_loop
async def test_errors_have_the_apis_code_and_text() -> None:
    async def fail(call: Call) -> bytes:
        if call.body == b"bug":
            raise ZeroDivisionError("a client's secret")
        raise errors.AnswerTooLarge("größer\nals 100 %")

    async def fail_late(call: Call) -> None:
        await call.send(b"first")
        raise errors.CursorNotFound("gone")

    async with serving(route("Fail", fail), route("FailLate", fail_late, Kind.SERVER_STREAM)) as server:
        assert await refused(server.unary("Fail")(b"")) == (
            "RESOURCE_EXHAUSTED",
            "etcdserver: answer is too large: größer\nals 100 %",
        )
        code, text = await refused(server.unary("Fail")(b"bug"))
        assert (code, text) == ("INTERNAL", "boathouse: internal error: ZeroDivisionError")
        late = server.server_stream("FailLate")(b"")
        assert await late.read() == b"first"
        assert await refused(late.read()) == ("UNAVAILABLE", "etcdserver: leader changed")
        assert (await refused(server.unary("Nope")(b"")))[0] == "UNIMPLEMENTED"
        nobody = server.channel.stream_stream("/no.Service/Nope", None, None)(None)
        assert await refused(nobody.read()) == ("UNIMPLEMENTED", "unknown service no.Service")


class Waits:
    """A handler that waits for ever, and tells how it ended."""

    def __init__(self) -> None:
        self.running = 0
        self.cancelled = 0

    async def __call__(self, call: Call) -> bytes:
        self.running += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        raise AssertionError

    async def stream(self, call: Call) -> None:
        await call.send(b"hello")
        await self(call)


@in_loop
async def test_a_call_that_its_client_cancels_is_cancelled_here() -> None:
    waits = Waits()
    async with serving(route("Wait", waits), route("WaitStream", waits.stream, Kind.BIDI_STREAM)) as server:
        call = server.unary("Wait")(b"")
        await wait_until_async(lambda: waits.running == 1, timeout_s=5, what="the call")
        call.cancel()
        await wait_until_async(lambda: waits.cancelled == 1, timeout_s=5, what="its end")
        stream = server.bidi("WaitStream")(None)
        assert await stream.read() == b"hello"
        stream.cancel()
        await wait_until_async(lambda: waits.cancelled == 2, timeout_s=5, what="the stream's end")
        assert server.streams == 0


@in_loop
async def test_calls_end_with_their_connection() -> None:
    waits = Waits()
    async with serving(route("Wait", waits)) as server:
        calls = [server.unary("Wait")(b"") for _ in range(10)]
        await wait_until_async(lambda: waits.running == 10, timeout_s=5, what="the calls")
        await server.channel.close(grace=None)
        await wait_until_async(lambda: waits.cancelled == 10, timeout_s=5, what="their end")
        assert all(call.done() for call in calls)
        assert waits.running == 0


@in_loop
async def test_deadlines_end_calls() -> None:
    waits = Waits()
    async with serving(
        route("Wait", waits),
        route("Short", waits, timeout_s=0.1),
        route("ShortWrite", waits, timeout_s=0.1, access=Access.WRITE),
    ) as server:
        assert (await refused(server.unary("Wait")(b"", timeout=0.3)))[0] == "DEADLINE_EXCEEDED"
        await wait_until_async(lambda: waits.cancelled == 1, timeout_s=5, what="the handler's end")
        # The method's own limit is told in the API's words.
        assert await refused(server.unary("Short")(b"")) == ("UNAVAILABLE", "etcdserver: request timed out")
        assert await refused(server.unary("ShortWrite")(b"")) == (
            "UNAVAILABLE",
            "etcdserver: request timed out",
        )
        assert waits.cancelled == 3


@in_loop
async def test_the_deadline_is_the_earlier_of_the_clients_and_the_methods() -> None:
    deadlines: list[float] = []

    async def look(call: Call) -> bytes:
        deadlines.append(call.deadline - asyncio.get_running_loop().time())
        return b""

    async with serving(route("Look", look, timeout_s=5), route("Free", look)) as server:
        await server.unary("Look")(b"")
        await server.unary("Look")(b"", timeout=2)
        await server.unary("Look")(b"", timeout=60)
        await server.unary("Free")(b"", timeout=60)
        await server.unary("Free")(b"")
    assert [round(deadline) for deadline in deadlines[:4]] == [5, 2, 5, 60]
    assert deadlines[4] == float("inf")


@in_loop
async def test_a_stream_waits_for_its_client_to_read() -> None:
    sent = 0

    async def flood(call: Call) -> None:
        nonlocal sent
        while sent < 200:
            await call.send(bytes(100_000))
            sent += 1

    async with serving(route("Flood", flood, Kind.SERVER_STREAM)) as server:
        call = server.server_stream("Flood")(b"")
        await wait_until_async(lambda: server.streams == 1, timeout_s=5, what="the call")
        (session,) = server.front.sessions
        (stream,) = session.connection.streams.values()
        await wait_until_async(lambda: stream.wants_room, timeout_s=5, what="a full queue")
        assert stream.queued_bytes <= server.front.limits.stream_answer_bytes_max + 100_005
        assert sent < 150
        assert [len(message) async for message in call] == [100_000] * 200
        assert sent == 200


@in_loop
async def test_a_client_waits_for_its_stream_to_be_read() -> None:
    go_on = asyncio.Event()

    async def slow(call: Call) -> bytes:
        await go_on.wait()
        return b"%d" % sum([len(message) async for message in call.messages()])

    written = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal written
        for _ in range(100):
            yield bytes(100_000)
            written += 1

    async with serving(route("Slow", slow, Kind.CLIENT_STREAM)) as server:
        call = server.client_stream("Slow")(flood())
        await wait_until_async(
            lambda: server.front.request_bytes >= server.front.limits.stream_window_bytes - 100_000,
            timeout_s=5,
            what="the window to be used up",
        )
        assert server.front.request_bytes <= server.front.limits.stream_window_bytes + 200_000
        assert written < 100
        go_on.set()
        assert await call == b"10000000"


@in_loop
async def test_sending_to_a_client_that_left_says_so() -> None:
    seen: list[BaseException] = []
    left = asyncio.Event()

    async def talk(call: Call) -> None:
        await call.send(b"first")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                await call.send(b"second")
            except StreamEnded as error:
                seen.append(error)
            left.set()
            raise

    async with serving(route("Talk", talk, Kind.SERVER_STREAM)) as server:
        call = server.server_stream("Talk")(b"")
        assert await call.read() == b"first"
        call.cancel()
        await asyncio.wait_for(left.wait(), 5)
        assert len(seen) == 1


@in_loop
async def test_a_handler_may_use_timeouts_and_groups() -> None:
    async def busy(call: Call) -> bytes:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0, result=number)) for number in range(3)]
        numbers = sum(task.result() for task in tasks)
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            numbers += 10
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_failing())
                await asyncio.Event().wait()
        except* ZeroDivisionError:
            numbers += 100
        return b"%d" % numbers

    async with serving(route("Busy", busy)) as server:
        assert await server.unary("Busy")(b"") == b"113"


async def _failing() -> None:
    raise ZeroDivisionError


@in_loop
async def test_calls_leave_nothing_to_the_garbage_collector() -> None:
    seen: list[weakref.ref[Call]] = []

    async def look(call: Call) -> bytes:
        seen.append(weakref.ref(call))
        await asyncio.sleep(0)
        if call.body == b"fail":
            raise errors.EmptyKey
        return call.body

    async with serving(route("Look", look)) as server:
        gc.disable()
        try:
            await server.unary("Look")(b"abc")
            await refused(server.unary("Look")(b"fail"))
            assert [call() for call in seen] == [None, None]
        finally:
            gc.enable()
