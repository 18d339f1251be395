"""HTTP/1.1: pages for those who watch over a node, on a port of their own and beside gRPC on the clients' port.

h11 knows the protocol; here is what it leaves open: which page answers, one answer at a time and in order, and an end
to everything a stranger may ask for. The life of a connection, and what ends each state if nothing happens:

    idle        waits for a request                        idle_s, then closed without a word
    receiving   has a part of a request                    request_s in all, however it trickles in, then 408
    answering   a page is at work, or its answer is sent   send_s without progress of the client's reading, or answer_s
                                                           in all, then cut
    leaving     what is left to say is said                leave_s, then cut

Requests that a client sends ahead (pipelining) wait in h11's buffer; from the first such bytes on nothing more is read
until their turn, so that buffer holds one read at most beside the request itself. Until then reading goes on while a
page is at work, because only a reader notices that the client has gone.

Leaving is slow on purpose: a socket that is closed with something unread in it tells the other side so with a reset,
and that takes the answer with it, which may say why a large body was refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, cast
from urllib.parse import unquote, urlsplit

import h11
import structlog

from coordinator.front.certificates import common_name
from coordinator.front.http_pages import CLOSE, NO_HEADERS, Header, Pages, Request, Response, refusal
from coordinator.front.peers import peer_of

log = structlog.get_logger()


class _State(enum.Enum):
    IDLE = enum.auto()
    RECEIVING = enum.auto()
    ANSWERING = enum.auto()
    LEAVING = enum.auto()


class _Refused(Exception):
    """The client's request will not be answered by a page; nothing more is read from it."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.response = refusal(status, text)


class Door:
    """Where the connections of one port come in: makes a protocol for each. It has room of its own, so that nobody who
    takes all of the clients' port takes that of those who watch over the node."""

    def __init__(self, pages: Pages, default_headers: Mapping[str, str] = NO_HEADERS) -> None:
        """default_headers: what a request says unless it says otherwise, by lower-case name."""
        self.pages = pages
        self.default_headers = default_headers
        self.connections: set[Http1Protocol] = set()
        pages.doors.append(self)

    def __call__(self) -> Http1Protocol:
        return Http1Protocol(self)

    def admit(self, connection: Http1Protocol) -> None:
        """Count it, until release(). Raises _Refused if there is no room."""
        self.connections.add(connection)
        if self.pages.closing or len(self.connections) > self.pages.limits.connections_max:
            text = "too many connections, or about to stop; try again later\n"
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, text)

    @property
    def is_crowded(self) -> bool:
        """Whether those that are told that there is no room are too many, too."""
        return len(self.connections) > 2 * self.pages.limits.connections_max

    def release(self, connection: Http1Protocol) -> None:
        """It has gone."""
        self.connections.discard(connection)


class Http1Protocol(asyncio.Protocol):
    """One client's connection. A listener may have read its first bytes before: it gives them to data_received."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._pages = pages = door.pages
        self._default_headers = door.default_headers
        self._limits = pages.limits
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head_bytes_max)
        self._transport: asyncio.Transport | None = None
        self._common_name = ""
        self._peer = ""
        self._state = _State.IDLE
        self._timer: asyncio.TimerHandle | None = None
        self._head: h11.Request | None = None
        self._is_head_only = False  # what is being asked wants no body
        self._body = bytearray()
        self._chunks = 0  # that the body has come in
        self._body_bytes = 0  # that count, also while they are a page's
        self._answer: asyncio.Task[None] | None = None
        self._streaming = False
        self._half_closed = False
        self._writable = asyncio.Event()
        self._writable.set()

    # ---- what the transport reports ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has no such base class
        self._transport.set_write_buffer_limits(high=self._limits.unsent_bytes_max)
        self._common_name = common_name(transport.get_extra_info("peercert") or {})
        self._peer = peer_of(transport)
        try:
            self._door.admit(self)
        except _Refused as refused:
            if self._door.is_crowded:
                self._cut()
            else:
                self._give_up(refused)
        else:
            # Whoever never asked for anything has no claim to the patience that a client who comes back has.
            self._wait(_State.IDLE, self._limits.request_s)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, or of one that is to wait for its turn."""
        if self._state is _State.LEAVING:
            return
        self._http.receive_data(data)
        if self._state is _State.ANSWERING:
            self._live.pause_reading()
        else:
            self._read_request()

    def eof_received(self) -> bool:
        """The client says no more. Whoever waits for an answer of a page still gets it; a stream would never end."""
        if self._state is not _State.ANSWERING or self._streaming:
            return False
        self._half_closed = True
        self._http.receive_data(b"")
        return self._live.get_extra_info("sslcontext") is None  # TLS can't be closed by halves

    def pause_writing(self) -> None:
        """The client reads more slowly than a page writes."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable.set()

    def connection_lost(self, _error: Exception | None) -> None:
        """The client has gone, or was let go."""
        self._door.release(self)
        self._transport = None
        self._drop_body()
        self._state = _State.LEAVING
        if self._timer is not None:
            self._timer.cancel()
        if self._answer is not None:
            self._answer.cancel()

    # ---- requests ----------------------------------------------------------------------------------------------------

    def _read_request(self) -> None:
        try:
            if self._take_request():
                return
        except h11.RemoteProtocolError as error:
            self._give_up(_Refused(HTTPStatus(error.error_status_hint), f"{error}\n"))
        except _Refused as refused:
            self._give_up(refused)
        else:
            incomplete = self._head is not None or self._http.trailing_data[0]
            if incomplete and self._state is _State.IDLE:
                self._wait(_State.RECEIVING, self._limits.request_s)

    def _take_request(self) -> bool:
        """Take what has come of a request; whether it was the end of one. Raises _Refused and RemoteProtocolError."""
        while True:
            match self._http.next_event():
                case h11.Request() as head:
                    self._head = head
                    self._is_head_only = head.method == b"HEAD"
                    self._body.clear()
                    self._chunks = 0
                    self._check_head(head)
                    if self._http.they_are_waiting_for_100_continue:
                        self._send(h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[]))
                case h11.Data(data=data):
                    self._count_chunk()
                    self._check_body_size(len(self._body) + len(data))
                    self._hold_body(len(data))
                    self._body += data
                case h11.EndOfMessage():
                    self._start_answer()
                    return True
                case _:  # more has to come, or it never will
                    return False

    def _check_head(self, head: h11.Request) -> None:
        if head.http_version not in (b"1.0", b"1.1"):
            raise _Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "this is HTTP/1.1\n")
        for name, value in head.headers:
            if name == b"content-length":
                self._check_body_size(int(value))

    def _check_body_size(self, size: int) -> None:
        if size > self._limits.body_bytes_max:
            most = self._limits.body_bytes_max
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body may have {most} bytes\n")

    def _count_chunk(self) -> None:
        limits = self._limits
        self._chunks += 1
        if self._chunks > limits.chunks_max and len(self._body) < self._chunks * limits.chunk_bytes_min:
            raise _Refused(HTTPStatus.BAD_REQUEST, "too many chunks for so small a body\n")

    def _hold_body(self, count: int) -> None:
        """Count so much more of the request that is being taken or answered. Raises _Refused."""
        if self._pages.bodies_bytes + count > max(self._limits.bodies_bytes_max, self._limits.body_bytes_max):
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many bytes of requests; try again later\n")
        self._pages.bodies_bytes += count
        self._body_bytes += count

    def _drop_body(self) -> None:
        self._pages.bodies_bytes -= self._body_bytes
        self._body_bytes = 0
        self._body.clear()

    def _start_answer(self) -> None:
        head, self._head = self._head, None
        assert head is not None
        request = _as_request(head, bytes(self._body), self._default_headers, self._common_name, self._peer)
        self._body.clear()
        self._wait(_State.ANSWERING, None)
        self._answer = self._loop.create_task(self._give_answer(request))

    # ---- answers -----------------------------------------------------------------------------------------------------

    async def _give_answer(self, request: Request) -> None:
        try:
            response = await self._pages.answer(request)
            body = response.body
            if isinstance(body, AsyncGenerator):
                await self._send_stream(request.method, response, body)
            elif isinstance(body, bytes):
                async with self._holding(len(body)):
                    await self._send_whole(request.method, response, body)
            else:
                async with self._holding(response.held_bytes):
                    await self._send_parts(request.method, response, body)
            self._next_request()
        except TimeoutError:
            log.info("an HTTP client does not read its answer", path=request.path)
            self._cut()
        except Exception:
            # The client has a part of the answer: all that can still be said is that it is not the whole.
            log.exception("an HTTP answer broke off", path=request.path)
            self._cut()

    @contextlib.asynccontextmanager
    async def _holding(self, count: int) -> AsyncIterator[None]:
        with self._pages.held.holding(count):
            async with asyncio.timeout(self._limits.answer_s):
                yield

    async def _send_whole(self, method: str, response: Response, body: bytes) -> None:
        size = ("Content-Length", str(len(body)))
        if method == "HEAD":
            body = b""
        part_bytes = self._limits.unsent_bytes_max
        if len(body) <= part_bytes:
            self._send(self._head_of(response, size), h11.Data(data=body), h11.EndOfMessage())
        else:
            self._send(self._head_of(response, size))
            for start in range(0, len(body), part_bytes):
                self._send(h11.Data(data=body[start : start + part_bytes]))
                await self._sent()
            self._send(h11.EndOfMessage())
        await self._sent()

    async def _send_parts(self, method: str, response: Response, parts: Iterator[bytes]) -> None:
        self._send(self._head_of(response))
        for part in parts if method != "HEAD" else ():
            self._send(h11.Data(data=part))
            await self._sent()
            await asyncio.sleep(0)  # a part is at work as long as others may wait for it
        self._send(h11.EndOfMessage())
        await self._sent()

    async def _send_stream(self, method: str, response: Response, parts: AsyncGenerator[bytes]) -> None:
        async with contextlib.aclosing(parts):
            if self._half_closed or self._pages.closing:
                self._give_up(_Refused(HTTPStatus.SERVICE_UNAVAILABLE, "nobody listens, or about to stop\n"))
                return
            self._streaming = True
            self._send(self._head_of(response))
            if method != "HEAD":
                async for part in parts:
                    with self._pages.held.holding(len(part)):
                        self._send(h11.Data(data=part))
                        await self._sent()
        self._send(h11.EndOfMessage())
        await self._sent()

    def _head_of(self, response: Response, *headers: Header) -> h11.Response:
        more = [("Date", formatdate(usegmt=True)), *headers]
        if self._pages.closing:
            more.append(CLOSE)
        reason = response.status.phrase.encode()
        return h11.Response(status_code=response.status, reason=reason, headers=[*response.headers, *more])

    async def _sent(self) -> None:
        """Wait until most of what was written has left. Raises TimeoutError if the client does not read it."""
        if not self._writable.is_set():
            async with asyncio.timeout(self._limits.send_s):
                await self._writable.wait()

    def _send(self, *events: h11.Event) -> None:
        data = b"".join(self._http.send(event) or b"" for event in events)
        if data and self._transport is not None:
            self._transport.write(data)

    def _next_request(self) -> None:
        self._answer, self._streaming = None, False
        self._drop_body()
        if self._state is _State.LEAVING:
            return
        if (
            self._http.our_state is not h11.DONE
            or self._http.their_state is not h11.DONE
            or self._pages.closing
        ):
            self._leave()
            return
        self._http.start_next_cycle()
        self._is_head_only = False
        self._wait(_State.IDLE, self._limits.idle_s)
        self._live.resume_reading()
        self._read_request()

    # ---- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let the client go, after the answer that it waits for."""
        if self._state is _State.ANSWERING and not self._streaming:
            return  # Pages.closing ends it
        if self._answer is not None:
            self._answer.cancel()
        self._leave()

    def _give_up(self, refused: _Refused) -> None:
        """Say why this client is not served any further, and let it go."""
        response = self._pages.readable(refused.response)
        assert isinstance(response.body, bytes)
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            length = ("Content-Length", str(len(response.body)))
            head = self._head_of(response, length, CLOSE)
            parts = () if self._is_head_only else (h11.Data(data=response.body),)
            self._send(head, *parts, h11.EndOfMessage())
        self._leave()

    def _leave(self) -> None:
        if self._state is _State.LEAVING:
            return
        self._wait(_State.LEAVING, self._limits.leave_s)
        self._drop_body()
        transport = self._live
        if transport.can_write_eof():
            transport.write_eof()
            transport.resume_reading()
        else:
            transport.close()

    def _cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @property
    def _live(self) -> asyncio.Transport:
        assert self._transport is not None, "the connection is gone"
        return self._transport

    # ---- time --------------------------------------------------------------------------------------------------------

    def _wait(self, state: _State, seconds: float | None) -> None:
        """Be in this state, for so long at most."""
        if self._timer is not None:
            self._timer.cancel()
        self._state = state
        self._timer = None if seconds is None else self._loop.call_later(seconds, self._waited)

    def _waited(self) -> None:
        match self._state:
            case _State.IDLE:
                self._leave()
            case _State.RECEIVING:
                seconds = self._limits.request_s
                text = f"the request did not arrive within {seconds:g} s\n"
                self._give_up(_Refused(HTTPStatus.REQUEST_TIMEOUT, text))
            case _:
                self._cut()


_LISTS: Final = frozenset({"accept", "accept-encoding"})
"""Headers of which all count. Of any other that comes more than once the first counts, as in etcd: of two tokens, say,
put together, nothing would be left."""


def _as_request(
    head: h11.Request, body: bytes, defaults: Mapping[str, str], common_name: str, peer: str
) -> Request:
    """Raises _Refused."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        if name not in headers:
            headers[name] = value
        elif name in _LISTS:
            headers[name] += f", {value}"
    try:
        target = urlsplit(head.target.decode("ascii"))
    except ValueError as error:
        raise _Refused(HTTPStatus.BAD_REQUEST, f"not a path: {error}\n") from None
    return Request(
        method=head.method.decode("ascii"),
        path=unquote(target.path),
        query=target.query,
        headers={**defaults, **headers},
        body=body,
        common_name=common_name,
        peer=peer,
    )
