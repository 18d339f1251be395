"""A gRPC client for load: unary calls only, as bytes, for as little CPU as Python allows.

What makes it cheap: a request's frames are made before the clock starts, but for the stream's number; of an answer only
lengths and the status are looked at, and a status is a look-up of its bytes; all that one read brings is handled at
once, and all requests that follow from it leave in one write. No call has a coroutine or a future: its Caller is told.

Trailers can be looked up only if they mean the same each time. The client asks for that, by a header table of no size.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast
from urllib.parse import unquote

import hpack

from coordinator.front.http2 import frames
from coordinator.front.http2.frames import Setting
from coordinator.front.http2.headers import literal
from proto.codes import Code

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

CALL_TIMEOUT_S: Final = 30
SWEEP_S: Final = 1.0
"""How late a call may be found to be over its time, which its server should have noticed."""
RECONNECT_S: Final = 0.05
MESSAGE_PREFIX_BYTES: Final = 5
STATUSES_KEPT_MAX: Final = 1_000
WINDOW_GIVEN_BACK_BYTES: Final = 1 << 28

TABLE_BYTES: Final = 4_096
"""SETTINGS_HEADER_TABLE_SIZE, unless the server says something else."""
FIRST_IN_TABLE: Final = 62
"""The number of the field that came into the table last."""

_SETTINGS: Final = {
    Setting.HEADER_TABLE_SIZE: 0,
    Setting.ENABLE_PUSH: 0,
    Setting.INITIAL_WINDOW_SIZE: frames.WINDOW_MAX,
}
_OPENING: Final = b"".join(
    (
        frames.PREFACE,
        frames.settings(_SETTINGS),
        frames.window_update(0, frames.WINDOW_MAX - frames.WINDOW_DEFAULT),
    )
)
_POST_HTTP: Final = b"\x83\x86"  # :method and :scheme, from the static table


@dataclass(frozen=True, slots=True, eq=False)
class Headers:
    """The headers of calls of one method with one metadata."""

    fields: tuple[tuple[bytes, bytes], ...]


class Request(NamedTuple):
    """One call, ready to be sent on any connection."""

    headers: Headers
    data: bytes
    """The header of the one DATA frame that the message fits into, up to the stream's number; else empty."""
    message: bytes
    """With gRPC's five bytes in front."""


class Maker:
    """Makes requests; those for one method and one metadata share their headers."""

    def __init__(self) -> None:
        self._headers: dict[tuple[str, tuple[tuple[str, str], ...]], Headers] = {}

    def make(self, path: str, body: bytes, metadata: Mapping[str, str]) -> Request:
        """A call of a method, by its path."""
        key = (path, tuple(metadata.items()))
        headers = self._headers.get(key)
        if headers is None:
            headers = self._headers[key] = Headers(_fields(path, metadata))
        message = b"".join((b"\0", len(body).to_bytes(4), body))
        data = b""
        if len(message) <= frames.FRAME_BYTES_DEFAULT:
            data = len(message).to_bytes(3) + bytes((frames.DATA, frames.END_STREAM))
        return Request(headers, data, message)


def _fields(path: str, metadata: Mapping[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    fields = {
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": f"{CALL_TIMEOUT_S}S",
        **metadata,
    }
    return tuple((name.encode(), value.encode()) for name, value in fields.items())


class HeaderTable:
    """Our half of a connection's header compression: what was sent once is later sent as a number, as clients do."""

    def __init__(self) -> None:
        self._bytes_max = TABLE_BYTES
        self._bytes = 0
        self._known: dict[tuple[bytes, bytes], int] = {}
        """Fields in the server's table, by when they came into it."""
        self._ready: dict[Headers, tuple[bytes, bytes]] = {}
        self._change = b""

    def resize(self, bytes_max: int) -> None:
        """The server says how large its table may be. It is begun anew."""
        self._bytes_max = min(bytes_max, TABLE_BYTES)
        self._bytes = 0
        self._known.clear()
        self._ready.clear()
        self._change = b"\x20" + _integer(0x20, 5, self._bytes_max)

    def encode(self, headers: Headers) -> tuple[bytes, bytes]:
        """A HEADERS frame, before and after its stream's number."""
        ready = self._ready.get(headers)
        if ready is not None:
            return ready
        change, self._change = self._change, b""
        has_changed = bool(change)
        block = bytearray(change + _POST_HTTP)
        for field in headers.fields:
            inserted = self._known.get(field)
            if inserted is not None:
                block += _integer(0x80, 7, FIRST_IN_TABLE + len(self._known) - 1 - inserted)
                continue
            size = len(field[0]) + len(field[1]) + 32  # RFC 7541, 4.1
            if self._bytes + size > self._bytes_max:
                block += literal(*field)
                continue
            self._bytes += size
            self._known[field] = len(self._known)
            self._ready.clear()  # what came before has other numbers now
            has_changed = True
            block += b"\x40" + literal(*field)[1:]
        head = len(block).to_bytes(3) + bytes((frames.HEADERS, frames.END_HEADERS))
        if not has_changed:
            self._ready[headers] = (head, bytes(block))
        return head, bytes(block)


def _integer(pattern: int, bits: int, value: int) -> bytes:
    """An integer behind a pattern (RFC 7541, 5.1)."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((pattern | value,))
    encoded = bytearray((pattern | most,))
    value -= most
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class Caller(Protocol):
    """Who made a call. It may make another from within finished()."""

    started: float
    """By perf_counter, when the call was sent."""

    def finished(self, error: str | None) -> None:
        """The call is over: None for OK, else code and text."""


class Call:
    """One call as something to wait for."""

    def __init__(self) -> None:
        self.started = perf_counter()
        self.error: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def finished(self, error: str | None) -> None:
        """See Caller."""
        self.error.set_result(error)


class Channel:
    """Calls to one endpoint, over one connection that is made again when it is lost."""

    def __init__(self, endpoint: str, tls: ssl.SSLContext | None = None) -> None:
        """Without tls in the clear."""
        self._tls = tls
        self._host, _, port = endpoint.rpartition(":")
        self._host = self._host.strip("[]")
        self._port = int(port)
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._received_bytes = 0  # on earlier connections

    @property
    def received_bytes(self) -> int:
        """All messages of answers, with gRPC's five bytes."""
        current = self._connection.received_bytes if self._connection is not None else 0
        return self._received_bytes + current

    def send(self, request: Request, caller: Caller) -> None:
        """Make a call. Fails at once if there is no connection, and then makes one for the next."""
        connection = self._connection
        if connection is None or connection.is_closing:
            if self._connecting is None:
                self._connecting = asyncio.create_task(self.connect())
            asyncio.get_running_loop().call_soon(caller.finished, "UNAVAILABLE: not connected")
        else:
            connection.send(request, caller)

    async def connect(self) -> None:
        """Try until there is a connection."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                _, connection = await loop.create_connection(
                    Connection, self._host, self._port, ssl=self._tls
                )
            except OSError:
                await asyncio.sleep(RECONNECT_S)
            else:
                break
        self._received_bytes = self.received_bytes
        self._connection = connection
        self._connecting = None

    def close(self) -> None:
        """Hang up."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()


class Connection(asyncio.Protocol):
    """One HTTP/2 connection."""

    def __init__(self) -> None:
        self.is_closing = False
        """No new call can be made."""
        self.received_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._output: list[bytes] = [_OPENING]
        self._flush_due = False
        self._in_read = False
        self._streams: dict[int, Caller] = {}
        self._next_stream = 1
        self._headers = HeaderTable()
        self._waiting: deque[tuple[Request, Caller]] = deque()
        self._streams_max = 1 << 31
        self._window = frames.WINDOW_DEFAULT
        self._stream_window = frames.WINDOW_DEFAULT
        self._uploads: dict[int, _Upload] = {}
        self._not_given_back = 0
        self._block: list[bytes] | None = None  # HEADERS whose CONTINUATION is still to come
        self._block_ends = False
        self._statuses: dict[bytes, str | None] = {}
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = 0
        self._decoder.header_table_size = 0
        self._sweeper: asyncio.TimerHandle | None = None

    # ---- calls -----------------------------------------------------------------------------------------------------

    def send(self, request: Request, caller: Caller) -> None:
        """Make a call, now or when the server lets it in."""
        if self._waiting or not self._start(request, caller):
            self._waiting.append((request, caller))

    def _start(self, request: Request, caller: Caller) -> bool:
        message = request.message
        size = len(message)
        if len(self._streams) >= self._streams_max:
            return False
        stream = self._next_stream
        sid = stream.to_bytes(4)
        if size > frames.FRAME_BYTES_DEFAULT or size > self._stream_window:
            head, block = self._headers.encode(request.headers)
            self._output += (head, sid, block)
            self._uploads[stream] = _Upload(message, self._stream_window)
            self._pump()
        elif size <= self._window:
            self._window -= size
            head, block = self._headers.encode(request.headers)
            self._output += (head, sid, block, request.data, sid, message)
        else:
            return False
        self._next_stream = stream + 2
        self._streams[stream] = caller
        self._touch()
        return True

    def _start_waiting(self) -> None:
        while self._waiting and self._start(*self._waiting[0]):
            self._waiting.popleft()

    def _pump(self) -> None:
        """Send of large messages what windows allow."""
        for stream, upload in list(self._uploads.items()):
            while upload.left:
                size = min(len(upload.left), self._window, upload.window, frames.FRAME_BYTES_DEFAULT)
                if size <= 0:
                    break
                self._window -= size
                upload.window -= size
                part, upload.left = upload.left[:size], upload.left[size:]
                flags = 0 if upload.left else frames.END_STREAM
                self._output.append(frames.frame(frames.DATA, flags, stream, bytes(part)))
            else:
                del self._uploads[stream]
        self._touch()

    def _finish(self, stream: int, error: str | None) -> None:
        caller = self._streams.pop(stream, None)
        if caller is None:
            return
        if self._uploads:
            self._uploads.pop(stream, None)
        caller.finished(error)
        if self._waiting:
            self._start_waiting()

    # ---- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the server."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has no such base class
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        self._touch()

    def data_received(self, data: bytes) -> None:
        """Frames."""
        if self._rest:
            data = self._rest + data
        self._in_read = True
        position, size = 0, len(data)
        read_u32, statuses = frames.read_u32, self._statuses
        while size - position >= frames.HEADER_BYTES:
            first = read_u32(data, position)[0]
            end = position + frames.HEADER_BYTES + (first >> 8)
            if end > size:
                break
            kind, flags = first & 0xFF, data[position + 4]
            stream = read_u32(data, position + 5)[0] & frames.STREAM_ID_MAX
            body = position + frames.HEADER_BYTES
            if kind == frames.DATA:
                self.received_bytes += end - body
                if flags & frames.END_STREAM:
                    self._finish(stream, "INTERNAL: an answer without trailers")
            elif kind == frames.HEADERS and flags == frames.END_HEADERS | frames.END_STREAM:
                block = data[body:end]
                if block not in statuses:
                    self._learn(block)
                self._finish(stream, statuses[block])
            elif kind != frames.HEADERS or flags != frames.END_HEADERS:
                self._handle(kind, flags, stream, data[body:end])
            position = end
        self._rest = data[position:]
        self._in_read = False
        if self.received_bytes - self._not_given_back >= WINDOW_GIVEN_BACK_BYTES:
            self._output.append(frames.window_update(0, self.received_bytes - self._not_given_back))
            self._not_given_back = self.received_bytes
        if self._output:
            self._flush()

    def connection_lost(self, _error: Exception | None) -> None:
        """All calls have failed."""
        self.is_closing = True
        self._transport = None
        if self._sweeper is not None:
            self._sweeper.cancel()
        callers = [*self._streams.values(), *(caller for _, caller in self._waiting)]
        self._streams.clear()
        self._waiting.clear()
        for caller in callers:
            caller.finished("UNAVAILABLE: the connection was lost")

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    # ---- frames that are rare --------------------------------------------------------------------------------------

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.SETTINGS:
            if not flags & frames.ACK:
                self._handle_settings(payload)
        elif kind == frames.PING:
            if not flags & frames.ACK:
                self._output.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.WINDOW_UPDATE:
            self._handle_window(stream, frames.read_u32(payload)[0])
        elif kind == frames.RST_STREAM:
            self._finish(stream, f"UNAVAILABLE: the stream was reset ({frames.read_u32(payload)[0]})")
        elif kind == frames.GOAWAY:
            self._handle_goaway(frames.read_u32(payload)[0])
        elif kind in (frames.HEADERS, frames.CONTINUATION):
            self._handle_long_headers(kind, flags, stream, payload)

    def _handle_settings(self, payload: bytes) -> None:
        for name, value in frames.read_settings(payload):
            if name == Setting.HEADER_TABLE_SIZE:
                self._headers.resize(value)
            elif name == Setting.MAX_CONCURRENT_STREAMS:
                self._streams_max = value
            elif name == Setting.INITIAL_WINDOW_SIZE:
                for upload in self._uploads.values():
                    upload.window += value - self._stream_window
                self._stream_window = value
        self._output.append(frames.SETTINGS_ACK)
        self._pump()
        self._start_waiting()

    def _handle_window(self, stream: int, size: int) -> None:
        if stream == 0:
            self._window += size
            self._start_waiting()
        elif stream in self._uploads:
            self._uploads[stream].window += size
        if self._uploads:
            self._pump()

    def _handle_goaway(self, last_stream: int) -> None:
        self.is_closing = True
        refused = [stream for stream in self._streams if stream > last_stream]
        for stream in refused:
            self._finish(stream, "UNAVAILABLE: the server is going away")

    def _handle_long_headers(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.HEADERS:
            assert not flags & (frames.PADDED | frames.HAS_PRIORITY), "no server of gRPC sends such headers"
            self._block = []
            self._block_ends = bool(flags & frames.END_STREAM)
        assert self._block is not None, "CONTINUATION of nothing"
        self._block.append(payload)
        if flags & frames.END_HEADERS and self._block_ends:
            block = b"".join(self._block)
            self._learn(block)
            self._finish(stream, self._statuses[block])

    def _learn(self, block: bytes) -> None:
        """Find out what trailers say."""
        if len(self._statuses) >= STATUSES_KEPT_MAX:
            self._statuses.clear()
        fields = {str(name): str(value) for name, value in self._decoder.decode(block)}
        code = int(fields.get("grpc-status", Code.UNKNOWN))
        text = unquote(fields.get("grpc-message", ""))
        name = Code(code).name if code in Code.__members__.values() else f"code {code}"
        self._statuses[block] = None if code == Code.OK else f"{name}: {text}"

    # ---- time and bytes out ----------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Give up calls that are over their time."""
        before = perf_counter() - CALL_TIMEOUT_S - SWEEP_S
        for stream in [stream for stream, caller in self._streams.items() if caller.started < before]:
            self._output.append(frames.rst_stream(stream, frames.ErrorCode.CANCEL))
            self._finish(stream, "DEADLINE_EXCEEDED: no answer in time")
        self._touch()
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def _touch(self) -> None:
        """What was put out leaves in this turn of the loop: with the end of a read, or by itself."""
        if not self._in_read and not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._output and self._transport is not None:
            self._transport.write(b"".join(self._output))
            self._output.clear()


class _Upload:
    """What is left to send of a message that takes several frames."""

    __slots__ = ("left", "window")

    def __init__(self, message: bytes, window: int) -> None:
        self.left = memoryview(message)
        self.window = window
        """Of its stream."""
