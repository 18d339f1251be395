"""One port for all: HTTP/2 by prior knowledge or ALPN, HTTP/1.1 for the rest; and how a server takes its leave."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import h2.events
import pytest

from coordinator.front.http2 import frames
from proto import errors
from proto.methods import Kind
from tests.unit.coordinator.running import in_loop, refused
from tests.unit.front.raw_client import raw
from tests.unit.front.serving import route, serving
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from coordinator.api.call import Call
    from tests.unit.front.serving import Serving


async def echo(call: Call) -> bytes:
    return call.body


async def get(server: Serving) -> bytes:
    """The status line of /healthz by HTTP/1.1."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.split(b"\r\n")[0]


@in_loop
async def test_grpc_and_http1_share_a_port() -> None:
    async with serving(route("Echo", echo)) as server:
        assert await server.unary("Echo")(b"abc") == b"abc"
        assert await get(server) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("size", [1, 3, 23, 24])
def test_a_preface_in_pieces_is_a_preface(size: int) -> None:
    @in_loop
    async def scenario() -> None:
        async with serving() as server, raw(server, hello=False) as peer:
            hello = peer.h2.data_to_send()
            peer.writer.write(hello[:size])
            await wait_until_async(
                lambda: server.front.greeting or server.front.sessions, timeout_s=5, what="us"
            )
            peer.writer.write(hello[size:])
            await peer.hears(h2.events.RemoteSettingsChanged)

    scenario()


class Held:
    """A unary handler that waits for a test's word."""

    def __init__(self) -> None:
        self.running = 0
        self.go_on = asyncio.Event()

    async def __call__(self, call: Call) -> bytes:
        self.running += 1
        await self.go_on.wait()
        return call.body


async def watch(call: Call) -> None:
    await call.send(b"created")
    async for _ in call.messages():
        raise AssertionError
    await asyncio.Event().wait()


def goodbye(last_stream: int) -> bytes:
    return frames.goaway(last_stream, frames.ErrorCode.NO_ERROR, "this server stops")


@in_loop
async def test_a_server_that_stops_serves_what_has_come_and_nothing_else() -> None:
    held = Held()
    async with serving(route("Held", held), route("Echo", echo)) as server, raw(server) as peer:
        peer.call("/test.Service/Held", b"before")
        await wait_until_async(lambda: held.running == 1, timeout_s=5, what="the call")
        server.front.announce_end()
        await peer.reads(goodbye(frames.STREAM_ID_MAX))
        # A client that has not heard of it yet is served.
        late = peer.call("/test.Service/Held", b"late")
        await wait_until_async(lambda: held.running == 2, timeout_s=5, what="the late call")
        server.front.refuse_calls()
        ending = asyncio.create_task(server.front.wait_until_idle(5))
        held.go_on.set()
        await ending
        rest = await peer.reads(goodbye(late))
        if b"late" not in rest:
            await peer.reads(b"late")
        assert await peer.ended()


@in_loop
async def test_calls_that_last_end_with_the_apis_own_word_and_others_go_on() -> None:
    held = Held()
    routes = (
        route("Watch", watch, Kind.BIDI_STREAM, lasts=True),
        route("Lock", Held(), waits=True, lasts=True),
        route("Held", held),
    )
    async with serving(*routes) as server:
        stream, lock, get = (
            server.bidi("Watch")(None),
            server.unary("Lock")(b""),
            server.unary("Held")(b"abc"),
        )
        assert await stream.read() == b"created"
        await wait_until_async(lambda: server.streams == 3, timeout_s=5, what="all calls")
        server.front.end_calls(errors.ShuttingDown(), only_lasting=True)
        assert await refused(stream.read()) == ("UNAVAILABLE", "etcdserver: server stopped")
        assert await refused(lock) == ("UNAVAILABLE", "etcdserver: server stopped")
        held.go_on.set()
        assert await get == b"abc"


@in_loop
async def test_a_connection_that_comes_late_is_told_to_go_elsewhere() -> None:
    async with serving(route("Echo", echo)) as server:
        server.front.announce_end()
        async with raw(server) as peer:
            await peer.reads(goodbye(frames.STREAM_ID_MAX))
        server.front.refuse_calls()
        async with raw(server) as peer:
            assert await peer.ended()


def test_a_coordinator_never_loads_grpcio() -> None:
    code = "import sys, coordinator.entry; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
