"""HTTP/1.1 over real sockets: what is answered, and where a client's claims end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import socket
import ssl
import struct
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ParamSpec

import h11
import pytest
import trustme
import uvloop

from coordinator.front.http1 import Door
from coordinator.front.http_pages import Limits, Pages, Request, Response, alive
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence

    from coordinator.front.http_pages import Header

P = ParamSpec("P")
SHORT_S = 0.05
"""Stands for a limit that a test waits for."""


def on_uvloop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on the loop that coordinators use."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    return run


@dataclass
class Site:
    """Pages on a port. What pages see and do is for a test to look at."""

    pages: Pages
    door: Door
    port: int
    seen: list[Request]
    hold: asyncio.Event
    """Pages under /held wait for it."""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    """Of all clients: uvloop waits for ever for one that a failed test leaves."""
    cancelled: int = 0
    stream_closed: int = 0
    parts_made: int = 0

    async def connect(self, tls: ssl.SSLContext | None = None) -> Client:
        name = "localhost" if tls is not None else None
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, server_hostname=name)
        self.writers.append(writer)
        return Client(reader, writer)


@dataclass
class Client:
    """A client that does as a test says, with h11 to read the answers."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        http.send(h11.EndOfMessage())
        status, headers, body = 0, {}, b""
        while True:
            match http.next_event():
                case h11.Response() as head:
                    status = head.status_code
                    headers = {name.decode(): value.decode() for name, value in head.headers}
                case h11.InformationalResponse() as head:
                    return head.status_code, {}, b""
                case h11.Data(data=data):
                    body += data
                case h11.EndOfMessage():
                    return status, headers, body
                case h11.ConnectionClosed():
                    raise AssertionError("the server hung up instead of answering")
                case _:
                    # A byte at a time, so that nothing of the answer after this one is lost.
                    http.receive_data(await self.reader.read(1))

    async def get(self, path: str, *headers: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]
        self.send("\r\n".join(lines).encode())
        return await self.answer(method)

    async def ended(self) -> bytes:
        """What came before the server hung up."""
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                return await self.reader.read()
        return b""

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Hang up so that the server learns at once that nobody listens."""
        without_lingering = struct.pack("ii", 1, 0)
        connection = self.writer.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, without_lingering)
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def site(
    tls: ssl.SSLContext | None = None, cors: Sequence[Header] = (), **limits: Any
) -> AsyncIterator[Site]:
    async def echo(request: Request) -> Response:
        served.seen.append(request)
        return Response(body=request.body)

    async def held(request: Request) -> Response:
        served.seen.append(request)
        try:
            await served.hold.wait()
        except asyncio.CancelledError:
            served.cancelled += 1
            raise
        return Response(body=b"let go\n")

    async def stream(_request: Request) -> Response:
        return Response(body=parts())

    async def held_stream(request: Request) -> Response:
        await held(request)
        return Response(body=parts())

    async def parts() -> AsyncGenerator[bytes]:
        try:
            yield b"first\n"
            await served.hold.wait()
            yield b"last\n"
        finally:
            served.stream_closed += 1

    async def endless(_request: Request) -> Response:
        return Response(body=much())

    async def much() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield bytes(64 << 10)
        finally:
            served.stream_closed += 1

    async def broken(_request: Request) -> Response:
        raise ValueError("secret")

    async def breaks_off(_request: Request) -> Response:
        return Response(body=half())

    async def half() -> AsyncGenerator[bytes]:
        yield b"half"
        raise ValueError("secret")

    async def large(request: Request) -> Response:
        count = int(request.query)
        return Response(body=made(count), held_bytes=8_000 * count)

    def made(count: int) -> Iterator[bytes]:
        for number in range(count):
            served.parts_made += 1
            yield b"%07d\n" % number * 1_000

    async def whole(request: Request) -> Response:
        return Response(body=bytes(int(request.query)))

    pages = Pages(
        {
            ("GET", "/alive"): alive,
            ("GET", "/echo"): echo,
            ("POST", "/echo"): echo,
            ("GET", "/held"): held,
            ("GET", "/stream"): stream,
            ("GET", "/held-stream"): held_stream,
            ("GET", "/endless"): endless,
            ("GET", "/broken"): broken,
            ("GET", "/breaks-off"): breaks_off,
            ("GET", "/large"): large,
            ("GET", "/whole"): whole,
        },
        Limits(**{"leave_s": 4 * SHORT_S} | limits),
        cors=cors,
    )
    loop = asyncio.get_running_loop()
    door = Door(pages)
    server = await loop.create_server(door, "127.0.0.1", 0, ssl=tls)
    served = Site(pages, door, server.sockets[0].getsockname()[1], [], asyncio.Event())
    try:
        yield served
    finally:
        server.close()
        served.hold.set()
        pages.close()
        for writer in served.writers:
            writer.transport.abort()
        await gone(served)


async def gone(served: Site) -> None:
    await wait_until_async(lambda: not served.pages.connections, timeout_s=5, what="every connection to end")


# ---- what is answered ------------------------------------------------------------------------------------------------


@on_uvloop
async def test_a_page_and_what_it_sees() -> None:
    async with site() as served:
        client = await served.connect()
        status, headers, body = await client.get("/echo%20?a=1&b=%20", "X-One: 1", "x-one: 2")
        assert status == 404
        client.send(
            b"POST /echo?a=%20 HTTP/1.1\r\nHost: x\r\nAuthorization: 1\r\nauthorization: 2\r\n"
            b"Accept-Encoding: gzip\r\naccept-encoding: br\r\nContent-Length: 4\r\n\r\nbody"
        )
        status, headers, body = await client.answer()
        assert (status, body) == (200, b"body")
        assert headers["content-length"] == "4"
        assert headers["date"].endswith("GMT")
        (request,) = served.seen
        assert (request.method, request.path, request.query) == ("POST", "/echo", "a=%20")
        assert (request.headers["authorization"], request.headers["accept-encoding"]) == ("1", "gzip, br")


@on_uvloop
async def test_what_is_not_there_and_what_fails() -> None:
    async with site() as served:
        client = await served.connect()
        known = b"/alive, /echo, /held, /stream, /held-stream, /endless, /broken, /breaks-off, /large, /whole"
        assert (await client.get("/"))[::2] == (404, b"no such page; there are " + known + b"\n")
        status, headers, body = await client.get("/echo", method="DELETE")
        assert (status, headers["allow"], body) == (405, "GET, POST", b"/echo takes GET, POST\n")
        for _ in range(2):  # and the connection lives on
            assert (await client.get("/broken"))[::2] == (
                500,
                b"/broken could not be made: ValueError; the log says more\n",
            )


@on_uvloop
async def test_head_and_old_clients() -> None:
    async with site() as served:
        client = await served.connect()
        client.send(b"HEAD /broken HTTP/1.1\r\nHost: x\r\n\r\nHEAD /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        client.send(b"GET /alive HTTP/1.0\r\n\r\n")
        said = (await client.ended()).decode()
        assert [line for line in said.splitlines() if line.startswith("HTTP/")] == [
            "HTTP/1.1 500 Internal Server Error",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200 OK",
        ]
        assert "ValueError" not in said
        client = await served.connect()
        assert (await client.get("/alive", method="HEAD"))[0] == 200
        client.send(b"nonsense\r\n\r\n")
        status, _, body = await client.answer()
        assert status == 400
        assert body


@on_uvloop
async def test_requests_sent_ahead_are_answered_in_order() -> None:
    async with site() as served:
        client = await served.connect()
        client.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        for number in range(20):
            client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n%02d" % number)
        await wait_until_async(lambda: served.seen, timeout_s=5, what="the first request to arrive")
        assert [request.path for request in served.seen] == ["/held"]
        served.hold.set()
        assert (await client.answer())[2] == b"let go\n"
        for number in range(20):
            assert (await client.answer())[2] == b"%02d" % number


@on_uvloop
async def test_a_request_split_anywhere_is_the_same_request() -> None:
    request = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    async with site() as served:
        protocol_sides: list[Client] = []
        for cut in range(1, len(request)):
            client = await served.connect()
            client.writer.transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
            )
            client.send(request[:cut])
            await asyncio.sleep(0)
            client.send(request[cut:])
            protocol_sides.append(client)
        for client in protocol_sides:
            assert (await client.answer())[::2] == (200, b"body")


@on_uvloop
async def test_a_client_that_waits_to_be_asked_for_its_body() -> None:
    async with site() as served:
        client = await served.connect()
        client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert (await client.answer())[0] == 100
        client.send(b"body")
        assert (await client.answer())[2] == b"body"


@on_uvloop
async def test_a_stream_is_sent_as_it_comes() -> None:
    async with site() as served:
        client = await served.connect()
        client.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await client.reader.readuntil(b"first\n")
        assert b"transfer-encoding: chunked" in head.lower()
        served.hold.set()
        await client.reader.readuntil(b"last\n\r\n0\r\n\r\n")
        assert (await client.get("/alive"))[0] == 200


@on_uvloop
async def test_bytes_that_a_listener_read_before() -> None:
    async with site() as served:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            protocol = served.door()
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, ours)
            protocol.data_received(b"GET /alive HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            reader, writer = await asyncio.open_connection(sock=theirs)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
            writer.close()


@on_uvloop
async def test_pages_over_tls() -> None:
    """Which can't be closed by halves."""
    authority = trustme.CA()
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)
    async with site(ours, head_bytes_max=1_000) as served:
        client = await served.connect(theirs)
        for _ in range(2):
            assert (await client.get("/alive"))[0] == 200
        assert (await client.get("/alive", "Connection: close"))[0] == 200
        assert await client.ended() == b""
        client = await served.connect(theirs)
        client.send(b"GET /" + b"x" * 2_000)
        assert (await client.ended()).startswith(b"HTTP/1.1 431 ")
        client = await served.connect(theirs)
        client.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_until_async(lambda: served.seen, timeout_s=5, what="the request to arrive")
        client.close()
        await wait_until_async(lambda: served.cancelled, timeout_s=5, what="the page to be cancelled")
        await gone(served)


# ---- clients that leave ----------------------------------------------------------------------------------------------


@on_uvloop
async def test_a_page_ends_with_its_client() -> None:
    async with site() as served:
        client = await served.connect()
        client.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_until_async(lambda: served.seen, timeout_s=5, what="the request to arrive")
        client.reset()
        await wait_until_async(lambda: served.cancelled, timeout_s=5, what="the page to be cancelled")
        await gone(served)


@on_uvloop
async def test_a_client_that_only_listens_on_gets_its_page_but_no_stream() -> None:
    async with site() as served:
        client = await served.connect()
        client.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_until_async(lambda: served.seen, timeout_s=5, what="the request to arrive")
        client.writer.write_eof()
        served.hold.set()
        assert (await client.ended()).endswith(b"let go\n")

        served.hold.clear()
        client = await served.connect()
        client.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.reader.readuntil(b"first\n")
        client.writer.write_eof()
        await wait_until_async(lambda: served.stream_closed, timeout_s=5, what="the stream to be closed")
        await gone(served)


@on_uvloop
async def test_an_answer_that_breaks_off_looks_like_it() -> None:
    async with site() as served:
        client = await served.connect()
        client.send(b"GET /breaks-off HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not (await client.ended()).endswith(b"0\r\n\r\n")


# ---- where a client's claims end -------------------------------------------------------------------------------------


@on_uvloop
async def test_a_head_has_a_size() -> None:
    async with site(head_bytes_max=1_000) as served:
        for head in (b"GET /" + b"x" * 2_000, b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 2_000):
            client = await served.connect()
            client.send(head)
            assert (await client.ended()).startswith(b"HTTP/1.1 431 ")


@on_uvloop
async def test_what_scripts_of_other_pages_may_read_are_refusals_of_whatever_kind() -> None:
    async with site(cors=[("X-Readable", "yes")], body_bytes_max=10) as served:
        for head, status in (
            ("GET /alive HTTP/1.1", 200),
            ("GET /nothing HTTP/1.1", 404),
            ("POST /echo HTTP/1.1\r\nContent-Length: 11", 413),
            ("GET // nothing HTTP/1.1", 400),
        ):
            client = await served.connect()
            client.send(f"{head}\r\nHost: x\r\n\r\n".encode())
            answered, headers, _ = await client.answer()
            assert (answered, headers.get("x-readable")) == (status, "yes")


@on_uvloop
async def test_a_body_has_a_size() -> None:
    async with site(body_bytes_max=10) as served:
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
        for request in (
            head + b"Content-Length: 11\r\n\r\n" + bytes(1 << 20),
            head + b"Transfer-Encoding: chunked\r\n\r\n" + b"6\r\n123456\r\n" * 2,
        ):
            client = await served.connect()
            client.send(request)
            assert (await client.answer())[::2] == (413, b"a body may have 10 bytes\n")
        client = await served.connect()
        client.send(b"HEAD /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n")
        assert (await client.answer("HEAD"))[0] == 413
        client = await served.connect()
        client.send(head + b"Content-Length: 10\r\n\r\n0123456789")
        assert (await client.answer())[2] == b"0123456789"


@on_uvloop
async def test_chunks_that_are_too_small_have_a_number() -> None:
    async with site(body_bytes_max=100_000, chunks_max=100, chunk_bytes_min=10) as served:
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        client = await served.connect()
        client.send(head + b"1\r\nx\r\n" * 101)
        assert (await client.answer())[::2] == (400, b"too many chunks for so small a body\n")
        for size, count in ((b"1", 100), (b"10", 1_000)):
            client = await served.connect()
            data = b"x" * int(size, 16)
            client.send(head + (size + b"\r\n" + data + b"\r\n") * count + b"0\r\n\r\n")
            assert (await client.answer())[2] == data * count


@pytest.mark.parametrize(
    "part",
    [
        b"G",
        b"GET /echo HTTP/1.1\r\nHost: x\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbo",
    ],
    ids=["line", "headers", "body"],
)
@on_uvloop
async def test_a_request_that_does_not_arrive_in_time(part: bytes) -> None:
    async with site(request_s=SHORT_S) as served:
        client = await served.connect()
        client.send(part)
        assert (await client.ended()).startswith(b"HTTP/1.1 408 ")
        await gone(served)


@on_uvloop
async def test_a_trickle_does_not_move_the_limit() -> None:
    async with site(request_s=SHORT_S, idle_s=60) as served:
        client = await served.connect()
        assert (await client.get("/alive"))[0] == 200

        async def trickle() -> bool:
            client.send(b"GET /alive"[:1])
            return b"408" in client.reader._buffer  # type: ignore[attr-defined]

        await wait_until_async(trickle, timeout_s=5, what="the server to lose its patience")


@on_uvloop
async def test_silence_has_an_end() -> None:
    async with site(request_s=SHORT_S) as served:
        assert await (await served.connect()).ended() == b""
    async with site(idle_s=SHORT_S) as served:
        client = await served.connect()
        assert (await client.get("/alive"))[0] == 200
        assert await client.ended() == b""
        await gone(served)


@on_uvloop
async def test_a_client_that_does_not_read_is_cut() -> None:
    async with site(send_s=SHORT_S) as served:
        client = await served.connect()
        client.send(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_until_async(lambda: served.stream_closed, timeout_s=5, what="the stream to be closed")
        await gone(served)


@on_uvloop
async def test_a_client_that_stays_after_the_end_is_cut() -> None:
    async with site(leave_s=SHORT_S) as served:
        client = await served.connect()
        client.send(b"nonsense\r\n\r\n")
        assert (await client.answer())[0] == 400
        await gone(served)


@on_uvloop
async def test_what_is_sent_ahead_is_not_all_taken() -> None:
    """While a page is at work the server takes one read of what comes after, and leaves the rest to the kernel."""
    async with site() as served:
        client = await served.connect()
        client.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_until_async(lambda: served.seen, timeout_s=5, what="the request to arrive")
        client.send(b"GET /alive HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000_000)
        (connection,) = served.door.connections

        def paused() -> bool:
            assert connection._transport is not None
            return not connection._transport.is_reading()

        await wait_until_async(paused, timeout_s=5, what="reading to pause")
        assert len(connection._http.trailing_data[0]) <= 1 << 20
        client.writer.transport.abort()


@on_uvloop
async def test_connections_have_a_number() -> None:
    async with site(connections_max=2) as served:
        kept = [await served.connect() for _ in range(2)]
        for client in kept:
            assert (await client.get("/alive"))[0] == 200
        told = [await served.connect() for _ in range(2)]
        for client in told:
            assert (await client.answer())[0] == 503
        assert await (await served.connect()).ended() == b""
        for client in (*kept, *told):
            client.close()
        await gone(served)
        assert (await (await served.connect()).get("/alive"))[0] == 200


@on_uvloop
async def test_a_port_that_is_full_takes_no_room_of_another() -> None:
    async with site(connections_max=2) as served:
        for _ in range(4):
            await served.connect()
        await wait_until_async(lambda: served.pages.connections == 4, timeout_s=5, what="a full port")
        server = await asyncio.get_running_loop().create_server(Door(served.pages), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        served.writers.append(writer)
        assert (await Client(reader, writer).get("/alive"))[0] == 200
        server.close()


@on_uvloop
async def test_bodies_of_all_requests_have_a_bound() -> None:
    async with site(body_bytes_max=100, bodies_bytes_max=150) as served:
        half = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + bytes(99)
        first, second = await served.connect(), await served.connect()
        first.send(half)
        await wait_until_async(lambda: served.pages.bodies_bytes == 99, timeout_s=5, what="the first")
        second.send(half)
        assert (await second.answer())[0] == 503
        first.send(bytes(1))
        assert await first.answer() is not None
        await wait_until_async(lambda: not served.pages.bodies_bytes, timeout_s=5, what="no bodies")
        first.send(half)
        await wait_until_async(lambda: served.pages.bodies_bytes == 99, timeout_s=5, what="another")
        first.reset()
        await wait_until_async(lambda: not served.pages.bodies_bytes, timeout_s=5, what="no bodies again")


# ---- large answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/large?500", "/whole?4000000"])
@on_uvloop
async def test_an_answer_in_parts_is_one_answer(path: str) -> None:
    async with site() as served:
        client = await served.connect()
        client.send(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())
        client.writer.write_eof()  # whoever has no more to say hears it nevertheless
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        http.send(h11.EndOfMessage())
        http.receive_data(await client.ended())
        body = b""
        while isinstance(event := http.next_event(), h11.Response | h11.Data):
            body += event.data if isinstance(event, h11.Data) else b""
        assert isinstance(event, h11.EndOfMessage)
        if path.startswith("/large"):
            assert body == b"".join(b"%07d\n" % number * 1_000 for number in range(500))
        else:
            assert body == bytes(4_000_000)


@pytest.mark.parametrize("path", ["/large?2000", "/whole?16000000"])
@on_uvloop
async def test_what_is_held_for_an_answer_counts_until_it_is_sent_or_cut(path: str) -> None:
    async with site(send_s=0.3) as served:
        client = await served.connect()
        client.send(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
        held = served.pages.held
        await wait_until_async(lambda: held.queued_bytes, timeout_s=5, what="an answer")
        assert held.queued_bytes == 16_000_000
        (connection,) = served.door.connections
        transport = connection._transport
        assert transport is not None
        await wait_until_async(lambda: not connection._writable.is_set(), timeout_s=5, what="a full socket")
        assert transport.get_write_buffer_size() < 1 << 20
        await gone(served)
        assert held.queued_bytes == 0


@on_uvloop
async def test_an_answer_that_takes_too_long_in_all_is_cut() -> None:
    async with site(send_s=60.0, answer_s=0.2) as served:
        client = await served.connect()
        client.send(b"GET /large?2000 HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_until_async(lambda: served.pages.connections, timeout_s=5, what="the connection")
        await gone(served)
        assert served.pages.held.queued_bytes == 0


@on_uvloop
async def test_others_are_answered_while_a_large_answer_is_made() -> None:
    async with site() as served:
        reader = await served.connect()
        reader.send(b"GET /large?20000 HTTP/1.1\r\nHost: x\r\n\r\n")
        reading = asyncio.create_task(reader.reader.read())
        other = await served.connect()
        held = served.pages.held
        await wait_until_async(lambda: held.queued_bytes, timeout_s=5, what="it to begin", interval_s=0.001)
        assert (await other.get("/alive"))[0] == 200
        assert served.parts_made < 50, "it had to wait until the socket was full"
        reading.cancel()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET http://[ HTTP/1.1", HTTPStatus.BAD_REQUEST),
        (b"CONNECT example.org:443 HTTP/1.1", HTTPStatus.NOT_FOUND),
        (b"GET /alive HTTP/3.0", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED),
        (b"PRI * HTTP/2.0", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED),
        (b"GET /alive HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", HTTPStatus.BAD_REQUEST),
        (b"GET /alive HTTP/1.1\r\nUpgrade: h2c", HTTPStatus.OK),
    ],
)
@on_uvloop
async def test_odd_requests(request_line: bytes, status: HTTPStatus) -> None:
    async with site() as served:
        client = await served.connect()
        client.send(request_line + b"\r\nHost: x\r\n\r\n")
        assert (await client.answer())[0] == status


# ---- the end ---------------------------------------------------------------------------------------------------------


@on_uvloop
async def test_closing_lets_answers_end_and_streams_not() -> None:
    async with site() as served:
        idle, waiting, listening = [await served.connect() for _ in range(3)]
        assert (await idle.get("/alive"))[0] == 200
        waiting.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        listening.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        await listening.reader.readuntil(b"first\n")
        await wait_until_async(lambda: served.seen, timeout_s=5, what="the request to arrive")
        served.pages.close()
        assert await idle.ended() == b""
        assert not (await listening.ended()).endswith(b"0\r\n\r\n")
        served.hold.set()
        status, headers, body = await waiting.answer()
        assert (status, headers["connection"], body) == (200, "close", b"let go\n")
        assert await waiting.ended() == b""
        for client in (idle, waiting, listening):
            client.close()
        await gone(served)
        assert (await (await served.connect()).answer())[0] == 503


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("who", ["client", "server"])
@on_uvloop
async def test_no_stream_is_begun_that_nobody_could_end(who: str, method: str) -> None:
    async with site() as served:
        client = await served.connect()
        client.send(method.encode() + b" /held-stream HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_until_async(lambda: served.seen, timeout_s=5, what="the request to arrive")
        if who == "client":
            client.writer.write_eof()
        else:
            served.pages.close()
        (connection,) = served.door.connections
        await wait_until_async(
            lambda: connection._half_closed or served.pages.closing, timeout_s=5, what="the server to know"
        )
        served.hold.set()
        assert (await client.answer(method))[0] == 503


# ---- anything at all -------------------------------------------------------------------------------------------------

SENSIBLE = (
    b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody",
    b"GET /alive HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"GET http://a/stream?x=%ff HTTP/1.0\r\n\r\n",
    b"HEAD /breaks-off HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
)


def mutated(rng: random.Random) -> bytes:
    """A few requests in a row, with a few bytes of them changed, cut out or put in."""
    data = bytearray(b"".join(rng.choices(SENSIBLE, k=rng.randint(1, 3))))
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                del data[at : at + rng.randint(1, 10)]
            case 1:
                data[at:at] = rng.randbytes(rng.randint(1, 5))
            case _:
                data[at] = rng.choice(b"\0\r\n %/:\xff")
        if not data:
            return b"\n"
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
@on_uvloop
async def test_whatever_is_sent_is_answered_or_ends(seed: int) -> None:
    rng = random.Random(seed)
    bugs: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: bugs.append(context))

    async def visit(served: Site, data: bytes, cut: int, *, half_close: bool) -> None:
        client = await served.connect()
        client.send(data[:cut])
        await asyncio.sleep(0)
        client.send(data[cut:])
        if half_close:
            client.writer.write_eof()
        await client.ended()
        client.close()

    async with site(request_s=SHORT_S, idle_s=SHORT_S, leave_s=SHORT_S, send_s=1) as served:
        served.hold.set()
        visits = []
        for _ in range(100):
            data = mutated(rng)
            visits.append(visit(served, data, rng.randint(0, len(data)), half_close=rng.random() < 0.3))
        await asyncio.gather(*visits)
        await gone(served)
    assert bugs == []
