"""The server's side of one HTTP/2 connection (RFC 9113), without a socket and without a clock.

Bytes go in by `receive`, what they mean comes out as a list of events. Answers go in by `respond` and its like, bytes
come out by `take`. A peer's mistake is never an exception: it is a frame in the output that says so, and an event if
somebody has to know. The result does not depend on how the bytes were cut on their way. Here is what frames of the peer
mean; what we send is in sender.py.

Three things keep a peer from costing more than it should. What it may have open, sent and queued is bounded
(`Limits`). Frames without work in them are counted (nuisance.py). And data leaves only as fast as the peer reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from coordinator.front.http2 import frames
from coordinator.front.http2.events import ConnectionEnded, DataArrived, RequestStarted, StreamEnded
from coordinator.front.http2.flow import ReceiveWindow
from coordinator.front.http2.frames import ConnectionFault, ErrorCode, Setting, StreamFault
from coordinator.front.http2.headers import HeaderBlock, HeaderReader
from coordinator.front.http2.sender import Sender
from coordinator.front.http2.streams import LENGTH_UNKNOWN, TRANSITIONS, Input, State, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.front.http2.events import Event
    from coordinator.front.http2.frames import Fault
    from coordinator.front.http2.headers import Fields
    from coordinator.front.limits import Limits
    from coordinator.front.tally import Tally

T = TypeVar("T")

SETTINGS_BYTES_USUAL: Final = 48
"""Of a SETTINGS frame: one that holds thousands of settings counts as the many frames that it could have been."""
STREAMS_USUAL: Final = 100
"""The same for a change of the window of so many open streams, each of which is told."""
_CODES: Final = {int(code): code for code in ErrorCode}


class Connection(Sender[T]):
    """One connection, from the client's preface on."""

    def __init__(
        self,
        read_head: Callable[[Fields], T],
        limits: Limits,
        tally: Tally | None = None,
        *,
        varying: bytes = b"",
    ) -> None:
        """read_head makes of a request's fields what RequestStarted carries, without the field named varying, which
        is another each time."""
        super().__init__(limits, tally)
        self._headers = HeaderReader(read_head, varying, limits)
        self._known_heads = self._headers.cache
        self._block: HeaderBlock | None = None  # has begun
        self._receive_window = ReceiveWindow(limits.connection_window_bytes)
        self._buffer = frames.PREFACE[:0]
        self._preface_left = frames.PREFACE
        self._settled = False  # the peer's first SETTINGS have come
        self._handlers: tuple[Callable[[int, int, bytes], Fault | None], ...] = (
            self._handle_data,
            self._handle_headers,
            self._handle_priority,
            self._handle_rst_stream,
            self._handle_settings,
            self._handle_push_promise,
            self._handle_ping,
            self._handle_goaway,
            self._handle_window_update,
            self._handle_continuation,
        )
        self._last_stream = 0
        self._stream_id_limit = frames.STREAM_ID_MAX  # after our last GOAWAY, no stream beyond is served
        self.fault: ConnectionFault | None = None
        """Why the connection has ended."""
        self.partial_since: float | None = None
        """When the frame or the header block began that has come in part."""

        self._output.append(
            frames.settings(
                {
                    Setting.MAX_CONCURRENT_STREAMS: limits.streams_max,
                    Setting.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
                    Setting.MAX_FRAME_SIZE: limits.frame_bytes_max,
                    Setting.MAX_HEADER_LIST_SIZE: limits.header_list_bytes_max,
                }
            )
        )
        self._output.append(frames.window_update(0, limits.connection_window_bytes - frames.WINDOW_DEFAULT))

    # ---- bytes in ----------------------------------------------------------------------------------------------------

    @property
    def is_settled(self) -> bool:
        """Whether the peer has introduced itself as RFC 9113, 3.4 asks."""
        return self._settled

    def receive(self, data: bytes, now: float) -> list[Event[T]]:
        """What the peer's next bytes mean. now: seconds on any clock that does not go back."""
        if self.fault is not None:
            return []
        self._nuisance.pass_time(now, self._last_stream)
        if self._preface_left:
            data = self._take_preface(data)
        fault = self._parse(self._buffer + data if self._buffer else data, now)
        if fault is not None:
            self._end(fault)
        if self._waiting:
            self._pump()
        events, self._events = self._events, []
        return events

    def _take_preface(self, data: bytes) -> bytes:
        expected = self._preface_left[: len(data)]
        if not data.startswith(expected):
            self._end(ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is no HTTP/2"))
            return b""
        self._preface_left = self._preface_left[len(expected) :]
        return data[len(expected) :]

    def _parse(self, buffer: bytes, now: float) -> ConnectionFault | None:
        """Act on each whole frame; keep the rest."""
        position, size = 0, len(buffer)
        read_u32, handlers = frames.read_u32, self._handlers
        while size - position >= frames.HEADER_BYTES:
            word = read_u32(buffer, position)[0]
            length, kind = word >> 8, word & 0xFF
            if length > self._limits.frame_bytes_max:
                return ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame is too large")
            start = position + frames.HEADER_BYTES
            end = start + length
            if end > size:
                break
            flags = buffer[position + 4]
            stream_id = read_u32(buffer, position + 5)[0] & frames.STREAM_ID_MAX
            if kind != frames.CONTINUATION and self._block is not None:
                return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
            if not self._settled and kind != frames.SETTINGS:
                return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            if kind < len(handlers):
                fault = handlers[kind](flags, stream_id, buffer[start:end])
                if fault is not None:
                    if isinstance(fault, ConnectionFault):
                        return fault
                    fault = self._reset_faulty(fault)
                    if fault is not None:
                        return fault
            else:
                fault = self._nuisance.add()  # an unknown type is ignored (4.1)
                if fault is not None:
                    return fault
            position = end
        if position == size and self._block is None:
            self._buffer = b""
            self.partial_since = None
        else:
            if self.partial_since is None or (position and self._block is None):
                self.partial_since = now
            self._buffer = buffer[position:]
        return None

    def _end(self, fault: ConnectionFault) -> None:
        if self.fault is None:
            self.fault = fault
            self._buffer = b""
            self._output.append(frames.goaway(self._last_stream, fault.code, fault.reason))
            self._events.append(ConnectionEnded(fault))

    def _reset_faulty(self, fault: StreamFault) -> ConnectionFault | None:
        stream = self.streams.get(fault.stream_id)
        self._output.append(frames.rst_stream(fault.stream_id, fault.code))
        self._remember_reset(fault.stream_id)
        if stream is not None:
            self._forget(stream)
            self._events.append(StreamEnded(stream, fault.code))
        return self._nuisance.add()

    # ---- frames that carry requests ----------------------------------------------------------------------------------

    def _handle_data(self, flags: int, stream_id: int, payload: bytes) -> Fault | None:
        size = len(payload)
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id == 0 or stream_id > self._last_stream:
                return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA for a stream that was never opened")
            fault: Fault | None = self._take_window(size)
            if fault is None:
                fault = self._nuisance.add()
            if fault is None and stream_id not in self._reset_by_us:
                fault = StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "DATA for a stream that has ended")
            return fault
        if size:
            window = self._receive_window
            given = window.take(size)
            if given:
                if given < 0:
                    return ConnectionFault(
                        ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window"
                    )
                self._output.append(frames.window_update(0, given))
            stream.receive_window -= size
            if stream.receive_window < 0:
                return StreamFault(
                    stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window"
                )
        if flags & frames.PADDED:
            content = frames.without_padding(payload)
            if content is None:
                return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
            stream.credit += size - len(content)
            payload = content
        ended = flags & frames.END_STREAM
        state = TRANSITIONS[stream.state][Input.DATA_END if ended else Input.DATA]
        if isinstance(state, ErrorCode):
            return StreamFault(stream_id, state, "DATA after the stream's end")
        stream.state = state
        if stream.content_left != LENGTH_UNKNOWN and not self._is_content_as_promised(
            stream, payload, ended=bool(ended)
        ):
            return StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "content-length and content differ")
        if payload or ended:
            self._events.append(DataArrived(stream, payload, bool(ended)))
            return None
        return self._nuisance.add()

    def _take_window(self, size: int) -> ConnectionFault | None:
        given = self._receive_window.take(size)
        if given < 0:
            return ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        if given:
            self._output.append(frames.window_update(0, given))
        return None

    @staticmethod
    def _is_content_as_promised(stream: Stream, payload: bytes, *, ended: bool) -> bool:
        stream.content_left -= len(payload)
        return stream.content_left == 0 if ended else stream.content_left >= 0

    def _handle_headers(self, flags: int, stream_id: int, payload: bytes) -> Fault | None:
        if flags & ~(frames.END_HEADERS | frames.END_STREAM):
            content = frames.block_fragment(flags, stream_id, payload)
            if not isinstance(content, bytes):
                return content
            payload = content
        if stream_id & 1 == 0:
            return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS for a stream of the server")
        if not flags & frames.END_HEADERS:
            self._block = HeaderBlock(stream_id, payload, ends=bool(flags & frames.END_STREAM))
            return None
        return self._handle_block(stream_id, payload, ended=bool(flags & frames.END_STREAM))

    def _handle_continuation(self, flags: int, stream_id: int, payload: bytes) -> Fault | None:
        block = self._block
        if block is None or stream_id != block.stream_id:
            return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        if not block.add(payload, self._limits):
            return ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too large")
        if not flags & frames.END_HEADERS:
            return None
        self._block = None
        return self._handle_block(stream_id, block.whole(), ended=block.ends)

    def _handle_block(self, stream_id: int, block: bytes, *, ended: bool) -> Fault | None:
        if stream_id <= self._last_stream:
            return self._handle_trailers(stream_id, block, ended=ended)
        head = self._known_heads.get(block)
        if head is None:
            read = self._headers.read_request(block)
            if isinstance(read, ConnectionFault):
                return read
            head = read
        self._last_stream = stream_id
        if head.malformed:
            return StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, head.malformed)
        if stream_id > self._stream_id_limit or len(self.streams) >= self._limits.streams_max:
            return StreamFault(stream_id, ErrorCode.REFUSED_STREAM, "no more streams are taken")
        stream = Stream(
            stream_id,
            ended=ended,
            send_window=self._peer_stream_window,
            receive_window=self._limits.stream_window_bytes,
        )
        if head.content_length != LENGTH_UNKNOWN:
            if ended and head.content_length:
                return StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "content-length and content differ")
            stream.content_left = head.content_length
        self.streams[stream_id] = stream
        assert head.value is not None
        self._events.append(RequestStarted(stream, head.value, head.varying, ended))
        return None

    def _handle_trailers(self, stream_id: int, block: bytes, *, ended: bool) -> Fault | None:
        malformed = self._headers.read_trailers(block)
        if isinstance(malformed, ConnectionFault):
            return malformed
        stream = self.streams.get(stream_id)
        if stream is None:
            if stream_id in self._reset_by_us:
                return self._nuisance.add()
            return ConnectionFault(ErrorCode.STREAM_CLOSED, "HEADERS for a stream that has ended")
        state = TRANSITIONS[stream.state][Input.HEADERS_END if ended else Input.HEADERS]
        if isinstance(state, ErrorCode):
            return StreamFault(stream_id, state, "HEADERS within a stream, or after its end")
        if malformed:
            return StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, malformed)
        if stream.content_left > 0:
            return StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "content-length and content differ")
        stream.state = state
        self._events.append(DataArrived(stream, b"", True))
        return None

    # ---- frames about the connection ---------------------------------------------------------------------------------

    def _handle_priority(self, _flags: int, stream_id: int, payload: bytes) -> Fault | None:
        if stream_id == 0:
            return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY of no stream")
        if len(payload) != 5:
            return StreamFault(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
        if frames.read_u32(payload)[0] & frames.STREAM_ID_MAX == stream_id:
            return StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
        return self._nuisance.add()

    def _handle_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> Fault | None:
        if stream_id == 0 or stream_id > self._last_stream:
            return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM for a stream that was never opened")
        if len(payload) != 4:
            return ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        # A client that says itself that a stream is over knows that it is: nothing of it is still on its way.
        self._reset_by_us.pop(stream_id, None)
        stream = self.streams.get(stream_id)
        if stream is not None:
            code = _CODES.get(frames.read_u32(payload)[0], ErrorCode.CANCEL)
            self._forget(stream)
            self._events.append(StreamEnded(stream, code))
            if stream_id <= self._nuisance.marked_stream:
                return None  # not to be told from a call that has its answer
        return self._nuisance.add()

    def _handle_settings(self, flags: int, stream_id: int, payload: bytes) -> Fault | None:
        if stream_id:
            return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & frames.ACK:
            if payload:
                return ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with settings in it")
            if not self._settled:
                return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is an acknowledgement")
            return self._nuisance.add()
        if len(payload) % 6:
            return ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        window = self._peer_stream_window
        for name, value in frames.read_settings(payload):
            fault = self._apply_setting(name, value)
            if fault is not None:
                return fault
            if name == Setting.INITIAL_WINDOW_SIZE:
                window = value
        weight = 1 + len(payload) // SETTINGS_BYTES_USUAL
        if window != self._peer_stream_window:
            weight += len(self.streams) // STREAMS_USUAL
            fault = self._resize_windows(window)
            if fault is not None:
                return fault
        self._settled = True
        self._output.append(frames.SETTINGS_ACK)
        return self._nuisance.add(weight)

    def _handle_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> Fault | None:
        return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client can't push")

    def _handle_ping(self, flags: int, stream_id: int, payload: bytes) -> Fault | None:
        if stream_id:
            return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            return ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING of a wrong size")
        if not flags & frames.ACK:
            self._output.append(frames.frame(frames.PING, frames.ACK, 0, payload))
            self._pongs += 1
        return self._nuisance.add()

    def _handle_goaway(self, _flags: int, stream_id: int, payload: bytes) -> Fault | None:
        """The client will open no stream of ours, which it can't anyway. It hangs up when it is done."""
        if stream_id:
            return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            return ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
        return self._nuisance.add()

    def _handle_window_update(self, _flags: int, stream_id: int, payload: bytes) -> Fault | None:
        if len(payload) != 4:
            return ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        increment = frames.read_u32(payload)[0] & frames.STREAM_ID_MAX
        if stream_id == 0:
            if increment == 0:
                return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            self._send_window += increment
            if self._send_window > frames.WINDOW_MAX:
                return ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large")
            return self._nuisance.add()
        if stream_id > self._last_stream:
            return ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE for a stream that was never opened"
            )
        stream = self.streams.get(stream_id)
        if stream is not None:
            if increment == 0:
                return StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            stream.send_window += increment
            if stream.send_window > frames.WINDOW_MAX:
                return StreamFault(
                    stream_id, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window is too large"
                )
            self._maybe_wait(stream)
        return self._nuisance.add()

    # ---- what we let the peer do -------------------------------------------------------------------------------------

    def give_back(self, stream: Stream, count: int) -> None:
        """The layer above has dealt with count bytes of a request's body: the client may send as many more."""
        stream.credit += count
        if stream.credit * 2 >= self._limits.stream_window_bytes and stream.state is State.OPEN:
            self._output.append(frames.window_update(stream.id, stream.credit))
            stream.receive_window += stream.credit
            stream.credit = 0

    def announce_end(self) -> None:
        """Ask the client to open no more streams here. Those it opens before it knows are served (6.8)."""
        self._output.append(frames.goaway(frames.STREAM_ID_MAX, ErrorCode.NO_ERROR, "this server stops"))

    def refuse_streams(self) -> None:
        """Serve the streams opened so far and no others."""
        if self._stream_id_limit == frames.STREAM_ID_MAX:
            self._stream_id_limit = self._last_stream
            self._output.append(frames.goaway(self._last_stream, ErrorCode.NO_ERROR, "this server stops"))

    def end(self, code: ErrorCode, reason: str) -> list[Event[T]]:
        """End the connection for a reason that is not in its bytes, such as time."""
        self._end(ConnectionFault(code, reason))
        events, self._events = self._events, []
        return events
