"""What comes within one read of the socket is handled at once: nothing may depend on how reads fall."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coordinator.front.grpc_wire import prefixed
from coordinator.front.http2 import frames
from coordinator.front.http2.headers import literal
from proto.methods import Kind
from tests.unit.coordinator.running import in_loop
from tests.unit.front.raw_client import short
from tests.unit.front.serving import route, serving
from tests.unit.front.test_grpc import echo, ping_pong
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from coordinator.api.call import Call


async def with_metadata(call: Call) -> bytes:
    """Gives back what it got."""
    for name, value in call.metadata.items():
        call.add_header(name, value)
        call.add_trailer(f"{name}-again", value)
    return call.body


ROUTES = (
    route("Echo", echo),
    route("PingPong", ping_pong, Kind.BIDI_STREAM),
    route("Metadata", with_metadata),
)

OPENING = frames.PREFACE + frames.settings({})
PING = frames.frame(frames.PING, 0, 0, b"stillup?")
PONG = frames.frame(frames.PING, frames.ACK, 0, b"stillup?")


def headers(stream: int, name: str, *more: tuple[bytes, bytes], ends: bool = False) -> bytes:
    block = b"\x83\x86" + b"".join(
        literal(*field)
        for field in [
            (b":path", f"/test.Service/{name}".encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            *more,
        ]
    )
    flags = frames.END_HEADERS | (frames.END_STREAM if ends else 0)
    return frames.frame(frames.HEADERS, flags, stream, block)


def data(stream: int, content: bytes, *, ends: bool = False) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if ends else 0, stream, content)


async def exchange(port: int, *sent: bytes) -> bytes:
    """What the server says to this, up to its answer to a PING after it: it must still be there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join((OPENING, *sent, PING)))
    async with asyncio.timeout(5):
        said = await reader.readuntil(PONG)
        # Answers may come behind the PONG, of handlers that take another turn.
        writer.write(PING)
        said += await reader.readuntil(PONG)
    writer.close()
    return said


@in_loop
async def test_messages_and_the_end_of_a_stream_come_with_its_start() -> None:
    async with serving(*ROUTES) as served:
        said = await exchange(
            served.port,
            headers(1, "PingPong"),
            data(1, prefixed(b"a") + prefixed(b"b")),
            data(1, b"", ends=True),
        )
        assert prefixed(b"A") in said
        assert prefixed(b"B") in said
        assert said.index(b"grpc-status\x010") > said.index(prefixed(b"B"))


@in_loop
async def test_a_call_that_is_taken_back_as_it_comes_is_never_begun() -> None:
    reset = frames.rst_stream(1, frames.ErrorCode.CANCEL)
    async with serving(*ROUTES) as served:
        for name in ("Echo", "PingPong", "Nope"):
            assert b"grpc-status" not in await exchange(served.port, headers(1, name), reset)
        no_call = headers(1, "Echo").replace(b"application/grpc", b"application/json")
        assert b"grpc-status" not in await exchange(served.port, no_call, reset)


@in_loop
async def test_a_stream_that_both_sides_have_ended_is_not_spoken_on() -> None:
    """The server refuses early, by an answer and RST_STREAM. What is on its way is let pass, but not what the client
    sends after its own RST_STREAM."""
    async with serving(*ROUTES) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(OPENING + headers(1, "Nope"))
        async with asyncio.timeout(5):
            await reader.readuntil(frames.rst_stream(1, frames.ErrorCode.NO_ERROR))
            writer.write(data(1, b"late") + headers(1, "Nope") + PING)
            await reader.readuntil(PONG)
            writer.write(frames.rst_stream(1, frames.ErrorCode.CANCEL) + headers(1, "Nope"))
            said = await reader.read()
        assert said[3] == frames.GOAWAY
        assert frames.read_u32(said, 13)[0] == frames.ErrorCode.STREAM_CLOSED
        writer.close()


@in_loop
async def test_a_handler_adds_metadata_to_its_answer() -> None:
    async with serving(*ROUTES) as served:
        call = served.unary("Metadata")(b"abc", metadata=(("one", "1"), ("two-bin", b"\0\1")))
        assert await call == b"abc"
        assert {("one", "1"), ("two-bin", b"\0\1")} <= set(await call.initial_metadata())
        assert ("one-again", "1") in set(await call.trailing_metadata())


@in_loop
async def test_messages_that_have_come_are_taken_together() -> None:
    batches: list[list[bytes]] = []

    async def takes(call: Call) -> None:
        while messages := await call.take_messages(3):
            batches.append([*messages])

    said = [b"%d" % number for number in range(5)]
    async with serving(route("Takes", takes, Kind.BIDI_STREAM)) as server:
        await exchange(server.port, headers(1, "Takes"), data(1, b"".join(map(prefixed, said)), ends=True))
    assert batches == [said[:3], said[3:]]


@in_loop
async def test_a_stream_that_fails_with_what_comes_with_its_start_is_never_begun() -> None:
    begun: list[str] = []

    async def begins(call: Call) -> None:
        begun.append(call.metadata["number"])

    one, other = (headers(stream, "Begins", (b"number", b"%d" % stream)) for stream in (1, 3))
    async with serving(route("Begins", begins, Kind.BIDI_STREAM)) as server:
        said = await exchange(server.port, one, data(1, b"\7 is no prefix"), other)
    assert b"grpc-status\x0213" in said
    assert begun == ["3"]


@in_loop
async def test_the_answer_to_a_ping_leaves_with_the_answer_to_a_call() -> None:
    """Whose client would be told twice, each for a write of its own."""
    may_answer = asyncio.Event()

    async def held(call: Call) -> bytes:
        await may_answer.wait()
        return call.body

    async with serving(route("Held", held), limits=short(pong_delay_s=3600.0)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(OPENING + PING)
        async with asyncio.timeout(5):
            await reader.readuntil(PONG)  # at once, as long as no call is under way
            writer.write(headers(1, "Held") + data(1, prefixed(b"answer"), ends=True) + PING)
            (session,) = served.front.sessions
            await wait_until_async(lambda: session.connection.owes_pong, timeout_s=5, what="a PING")
            assert not session.connection.has_output
            may_answer.set()
            await reader.readuntil(PONG)
            await reader.readuntil(prefixed(b"answer"))
        writer.close()


@in_loop
async def test_the_answer_to_a_ping_waits_for_a_moment_at_most() -> None:
    async def never(call: Call) -> bytes:
        await asyncio.Event().wait()
        return call.body

    async with serving(route("Never", never), limits=short(pong_delay_s=0.01)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(OPENING + headers(1, "Never") + data(1, prefixed(b""), ends=True))
        for _ in range(2):
            writer.write(PING)
            async with asyncio.timeout(5):
                await reader.readuntil(PONG)
        writer.close()
