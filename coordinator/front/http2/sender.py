"""What we send on a connection: answers as frames, and the bytes that leave.

Data leaves as fast as the peer reads: within the windows of the connection and of its stream (RFC 9113, 5.2 and 6.9),
in frames no larger than the peer takes, and no more at a time than `make_room` says that the socket takes. What may not
leave yet is queued on its stream, and streams take turns, frame by frame. All other frames leave at once.

The side that reads what the peer says builds on this one (connection.py), and the two are one object: nearly every
frame that comes changes what may be sent, so a call would pay for each look from one to the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from coordinator.front.http2 import frames
from coordinator.front.http2.events import RoomMade
from coordinator.front.http2.frames import ConnectionFault, EncodedHeaders, ErrorCode, Setting
from coordinator.front.http2.nuisance import Nuisance
from coordinator.front.http2.streams import State
from coordinator.front.tally import Tally

if TYPE_CHECKING:
    from coordinator.front.http2.events import Event
    from coordinator.front.http2.streams import Stream
    from coordinator.front.limits import Limits

T = TypeVar("T")

RESETS_REMEMBERED: Final = 1_000
"""Streams that we have reset and the peer may not know of yet: what comes for them is no mistake."""
RESIZE_TABLE: Final = b"\x20"
"""Tells the peer that our compression uses no table (RFC 7541, 6.3): due when it allows less than the default."""
TABLE_BYTES_DEFAULT: Final = 4_096


class Sender(Generic[T]):
    """Of one connection: its streams, up to their ends, and what waits to be sent on them."""

    def __init__(self, limits: Limits, tally: Tally | None) -> None:
        self._limits = limits
        self._tally = tally or Tally()
        self._nuisance = Nuisance(limits)
        self._events: list[Event[T]] = []
        self._output: list[bytes] = []
        self._pongs = 0  # answers to PINGs that are in _output

        self.streams: dict[int, Stream] = {}
        """Open and half-closed streams by id."""
        self._reset_by_us: dict[int, None] = {}  # see RESETS_REMEMBERED

        self._send_window = frames.WINDOW_DEFAULT
        self._peer_stream_window = frames.WINDOW_DEFAULT
        self._peer_frame_bytes = frames.FRAME_BYTES_DEFAULT
        self._resize_due = False
        self._room = limits.write_buffer_bytes
        self._waiting: dict[int, Stream] = {}  # data queued and a window open, in the order of their turns
        self.queued_bytes = 0
        """Bytes of answers that wait for a window or the socket."""
        self.sent_bytes = 0
        """Of those that have waited, what has left."""

    # ---- answers -----------------------------------------------------------------------------------------------------

    def respond(self, stream: Stream, head: EncodedHeaders, data: bytes, trailers: EncodedHeaders) -> None:
        """A whole answer at once."""
        size = len(data)
        if self._resize_due or not self._has_room(stream, size):
            self.send_head(stream, head)
            self.send_data(stream, data)
            self.send_trailers(stream, trailers)
            return
        self._send_window -= size
        self._room -= size
        sid = stream.id.to_bytes(4)
        self._output.append(
            b"".join(
                (
                    head.prefix, sid, head.block,
                    size.to_bytes(3), b"\0\0", sid, data,
                    trailers.prefix, sid, trailers.block,
                )
            )
        )  # fmt: skip
        self._finish(stream)

    def send_head(self, stream: Stream, head: EncodedHeaders) -> None:
        """The first frame of an answer; its only one if head.ends."""
        self._send_headers(stream, head)
        if head.ends:
            self._finish(stream)

    def send_data(self, stream: Stream, data: bytes) -> None:
        """More of an answer. It waits for windows and for the socket."""
        size = len(data)
        if not self._waiting and not stream.queue and self._has_room(stream, size):
            # Most messages of most streams.
            stream.send_window -= size
            self._send_window -= size
            self._room -= size
            self._nuisance.forgive()
            self._output.append(b"".join((size.to_bytes(3), b"\0\0", stream.id.to_bytes(4), data)))
            return
        stream.queue_data(data)
        self.queued_bytes += len(data)
        self._tally.bytes += len(data)
        self._maybe_wait(stream)
        self._pump()

    def send_trailers(self, stream: Stream, trailers: EncodedHeaders) -> None:
        """The end of an answer, after all data."""
        if stream.queue:
            stream.trailers = trailers
        else:
            self._send_headers(stream, trailers)
            self._finish(stream)

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._output.append(frames.frame(frames.PING, 0, 0, b"boathous"))

    # ---- bytes out ---------------------------------------------------------------------------------------------------

    @property
    def has_output(self) -> bool:
        """Whether there is something to be written that is not to wait."""
        return len(self._output) > self._pongs

    @property
    def owes_pong(self) -> bool:
        """Whether the answer to a PING is to be written, which is no output by itself: it may wait for some."""
        return self._pongs > 0

    def take(self) -> bytes:
        """What is to be written. The socket is full until make_room() says otherwise."""
        output, self._output = self._output, []
        self._pongs = 0
        return output[0] if len(output) == 1 else b"".join(output)

    def make_room(self, count: int) -> list[Event[T]]:
        """The socket takes so many bytes of data: send what is queued."""
        self._room = count
        if self._waiting:
            self._pump()
        events, self._events = self._events, []
        return events

    def _maybe_wait(self, stream: Stream) -> None:
        if stream.queue and stream.send_window > 0:
            self._waiting[stream.id] = stream

    def _has_room(self, stream: Stream, size: int) -> bool:
        """Whether so many bytes of a stream can leave at once, in one frame."""
        return (
            size <= self._send_window
            and size <= stream.send_window
            and size <= self._peer_frame_bytes
            and size <= self._room
        )

    def _pump(self) -> None:
        """Send queued data, streams taking turns frame by frame, until a window or the room is used up."""
        waiting = self._waiting
        while waiting and self._room > 0 and self._send_window > 0:
            stream_id, stream = next(iter(waiting.items()))
            del waiting[stream_id]
            self._send_frame(stream)
            if not stream.queue and stream.trailers is not None:
                self._send_headers(stream, stream.trailers)
                self._finish(stream)
                continue
            self._maybe_wait(stream)
            if stream.wants_room and stream.queued_bytes * 2 < self._limits.stream_answer_bytes_max:
                stream.wants_room = False
                self._events.append(RoomMade(stream))

    def _send_frame(self, stream: Stream) -> None:
        """One DATA frame of what a stream has queued."""
        size_max = min(self._peer_frame_bytes, self._send_window, stream.send_window, self._room)
        queue, parts, size = stream.queue, [], 0
        while queue and size < size_max:
            part = queue.popleft()
            space = size_max - size
            if len(part) > space:
                view = memoryview(part)
                queue.appendleft(view[space:])  # type: ignore[arg-type]  # a view of bytes will do
                part = view[:space]  # type: ignore[assignment]
            parts.append(part)
            size += len(part)
        stream.queued_bytes -= size
        self.queued_bytes -= size
        self._tally.bytes -= size
        stream.sent_bytes += size
        self.sent_bytes += size
        stream.send_window -= size
        self._send_window -= size
        self._room -= size
        self._nuisance.forgive()
        self._output.append(b"".join((size.to_bytes(3), b"\0\0", stream.id.to_bytes(4), *parts)))

    def _send_headers(self, stream: Stream, headers: EncodedHeaders) -> None:
        if self._resize_due:
            self._resize_due = False
            headers = EncodedHeaders(RESIZE_TABLE + headers.block, ends=headers.ends)
        self._output.append(headers.frames(stream.id, self._peer_frame_bytes))

    # ---- what the peer allows ----------------------------------------------------------------------------------------

    def _apply_setting(self, name: int, value: int) -> ConnectionFault | None:
        if name == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.WINDOW_MAX:
                return ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
        elif name == Setting.MAX_FRAME_SIZE:
            if not frames.FRAME_BYTES_DEFAULT <= value <= frames.FRAME_BYTES_LARGEST:
                return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range")
            self._peer_frame_bytes = value
        elif name == Setting.ENABLE_PUSH:
            if value > 1:
                return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        elif name == Setting.HEADER_TABLE_SIZE and value < TABLE_BYTES_DEFAULT:
            self._resize_due = True
        return None

    def _resize_windows(self, size: int) -> ConnectionFault | None:
        """6.9.2: the change holds for streams that are open, too."""
        change = size - self._peer_stream_window
        self._peer_stream_window = size
        for stream in self.streams.values():
            stream.send_window += change
            if stream.send_window > frames.WINDOW_MAX:
                return ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
            self._maybe_wait(stream)
        return None

    # ---- the ends of streams -----------------------------------------------------------------------------------------

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream at once; what is queued is dropped."""
        self._output.append(frames.rst_stream(stream.id, code))
        self._remember_reset(stream.id)
        self._forget(stream)

    def _finish(self, stream: Stream) -> None:
        """Our end of the stream was sent."""
        if stream.state is State.OPEN:
            # The client need not send the rest of a request that has its answer (8.1).
            self._output.append(frames.rst_stream(stream.id, ErrorCode.NO_ERROR))
            self._remember_reset(stream.id)
        self._nuisance.forgive()
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        stream.state = State.CLOSED
        del self.streams[stream.id]
        if stream.queue:
            self.queued_bytes -= stream.queued_bytes
            self._tally.bytes -= stream.queued_bytes
            stream.queued_bytes = 0
            stream.queue.clear()
            self._waiting.pop(stream.id, None)

    def _remember_reset(self, stream_id: int) -> None:
        if len(self._reset_by_us) >= RESETS_REMEMBERED:
            del self._reset_by_us[next(iter(self._reset_by_us))]
        self._reset_by_us[stream_id] = None

    def discard(self) -> list[Any]:
        """The connection is lost: what the open streams' calls are, nothing is queued any more."""
        calls = [stream.call for stream in self.streams.values()]
        for stream in list(self.streams.values()):
            self._forget(stream)
        return calls
