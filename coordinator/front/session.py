"""gRPC on one HTTP/2 connection: from the bytes of a socket to calls, and back.

All that comes in one turn of the loop is handled at once, and all that goes out in one turn is written at once.
"""

from __future__ import annotations

import asyncio
import functools
import struct
from time import perf_counter
from typing import TYPE_CHECKING, Final, cast

import structlog

from coordinator.api.call import ANYBODY, Identity
from coordinator.front import grpc_wire
from coordinator.front.answers import AnswerShare
from coordinator.front.calls import GrpcCall
from coordinator.front.certificates import common_name
from coordinator.front.http2.connection import Connection
from coordinator.front.http2.events import ConnectionEnded, DataArrived, RequestStarted, RoomMade, StreamEnded
from coordinator.front.http2.frames import ErrorCode
from coordinator.front.http2.streams import State
from coordinator.front.peers import peer_of
from coordinator.front.slow_readers import SlowReaders

if TYPE_CHECKING:
    from coordinator.api.call import Metadata
    from coordinator.front.front import Front
    from coordinator.front.grpc_wire import RequestHead
    from coordinator.front.http2.events import Event
    from coordinator.front.http2.streams import Stream
    from proto import errors

LINGER_S: Final = 1.0
"""What the peer has sent until it knows of the end is read for so long: closing on unread bytes would reset the
connection, and take the last answers with it."""

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred: process, user, group."""

log = structlog.get_logger()


class Session(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, front: Front, metadata: Metadata) -> None:
        """metadata: what all calls of the connection have unless they say otherwise."""
        self.front = front
        self.peer = ""
        self.identity = ANYBODY
        self.connection: Connection[RequestHead] = Connection(
            functools.partial(grpc_wire.read_head, limits=front.limits, defaults=metadata),
            front.limits,
            front.room.tally,
            varying=grpc_wire.TIMEOUT_FIELD,
        )
        self.share = AnswerShare(front.room, self.connection)
        self._transport: asyncio.Transport | None = None
        self._by_path = front.routes.by_path
        self._clock = front.loop.time
        self._flush_due = False
        self._is_refusing = False
        self.is_reading = True
        self._request_bytes = 0
        self._began_at = self.heard_at = self._clock()
        self.read_s = perf_counter()
        """When it was last heard of, on a finer clock than the loop's: calls are measured by it."""
        self.received_bytes = self.sent_bytes = 0
        self._asked_at: float | None = None  # for a sign of life
        self._full_since: float | None = None  # the socket takes nothing
        self._hung_up_at: float | None = None
        self._slow_readers = SlowReaders(front.limits)
        self.partial: dict[GrpcCall, float] = {}
        """Calls of which a message has come in part: when they were last heard of."""

    # ---- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(high=self.front.limits.write_buffer_bytes)
        self.peer = peer_of(transport)
        self.identity = Identity(common_name(transport.get_extra_info("peercert") or {}))
        self.front.join(self)
        self.touch()

    def data_received(self, data: bytes) -> None:
        if self._hung_up_at is not None:
            return
        now = self.heard_at = self._clock()
        self.read_s = perf_counter()
        self.received_bytes += len(data)
        events = self.connection.receive(data, now)
        if events:
            self._handle(events, now)
        if self.connection.has_output:
            self.touch()
        elif self.connection.owes_pong:
            if self.connection.streams:
                self.front.flush_later(self)
            else:
                self.touch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.front.leave(self)
        for call in self.connection.discard():
            if call is not None:
                call.handle_gone()

    def pause_writing(self) -> None:
        self._full_since = self._clock()

    def resume_writing(self) -> None:
        self._full_since = None
        if self._transport is not None and not self.is_reading:
            self.is_reading = True
            self._transport.resume_reading()
        self._make_room(self.front.limits.write_buffer_bytes)
        self.touch()

    # ---- in ----------------------------------------------------------------------------------------------------------

    def _handle(self, events: list[Event[RequestHead]], now: float) -> None:
        for event in events:
            if type(event) is DataArrived:  # cheaper than isinstance, and most are one of two
                call = event.stream.call
                if call is not None:
                    call.handle_data(event.data, ended=event.ended)
            elif type(event) is RequestStarted:
                if event.stream.state is not State.CLOSED:  # by something that came in the same turn
                    self._start_call(event, now)
            elif isinstance(event, StreamEnded):
                if event.stream.call is not None:
                    event.stream.call.handle_gone()
            elif isinstance(event, RoomMade):
                if event.stream.call is not None:
                    event.stream.call.handle_room()
            else:
                assert isinstance(event, ConnectionEnded)
                log.info("a client's connection was ended", peer=self.peer, reason=event.fault.reason)
                self._hang_up()

    def _start_call(self, started: RequestStarted[RequestHead], now: float) -> None:
        stream, head = started.stream, started.head
        timeout_s, refusal = None, head.refusal
        if started.varying is not None:
            timeout_s = grpc_wire.parse_timeout(started.varying)
            if timeout_s is None and refusal is None:
                refusal = grpc_wire.BAD_TIMEOUT
        if refusal is not None:
            self.connection.send_head(stream, grpc_wire.refusal_headers(refusal))
            return
        route = self._by_path.get(head.path)
        if route is None:
            code, text = self.front.routes.refusal(head.path)
            self.connection.send_head(stream, grpc_wire.trailers_only(code, text))
            return
        call = stream.call = GrpcCall(
            self, stream, route, head, grpc_wire.deadline_of(timeout_s, route.timeout_s, now)
        )
        if call.deadline != grpc_wire.NEVER:
            self.front.deadlines.add(call, call.deadline)
        if not call.takes_one:
            # Not before what came with the headers is there: mostly that is the first message.
            self.front.loop.call_soon(call.begin)
        if started.ended:
            call.handle_data(b"", ended=True)

    def hold_request(self, count: int) -> bool:
        """Count bytes of requests that no handler has taken. False, and nothing counted, if they are too many."""
        limits, front = self.front.limits, self.front
        if (
            self._request_bytes + count > limits.request_bytes_max
            or front.request_bytes + count > limits.all_request_bytes_max
        ):
            return False
        self._request_bytes += count
        front.request_bytes += count
        return True

    def let_go_of_request(self, count: int) -> None:
        """A handler has taken so many bytes, or they are dropped."""
        self._request_bytes -= count
        self.front.request_bytes -= count

    # ---- out ---------------------------------------------------------------------------------------------------------

    def may_send(self, stream: Stream, size: int) -> bool:
        """Whether a stream may queue a message of so many bytes now. A small one always, if its client has read what
        came before."""
        if size <= self.front.limits.answer_bytes_always and not stream.queued_bytes:
            return True
        return self.share.may_send(size)

    def touch(self) -> None:
        """Something is to be written, in this turn of the loop."""
        if not self._flush_due:
            self._flush_due = True
            self.front.loop.call_soon(self._flush)

    @property
    def unsent_bytes(self) -> int:
        """What the socket has been given and the peer has not read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def _flush(self) -> None:
        self._flush_due = False
        transport = self._transport
        if transport is None or self._hung_up_at is not None:
            return
        if self.connection.has_output or self.connection.owes_pong:
            output = self.connection.take()
            self.sent_bytes += len(output)
            transport.write(output)
        limits = self.front.limits
        if self._full_since is None:
            self._make_room(limits.write_buffer_bytes)
        else:
            self._make_room(0)
            if self.unsent_bytes > limits.write_buffer_bytes + limits.control_bytes_max:
                self.is_reading = False
                transport.pause_reading()
        if self._is_refusing and not self.connection.streams:
            if not self.connection.fault:
                self._hang_up()
            self.front.maybe_idle()

    def _make_room(self, count: int) -> None:
        events = self.connection.make_room(count)
        if events:
            self._handle(events, self.heard_at)
        if self.connection.has_output:
            self.touch()
        self.front.room.release_soon()

    # ---- time --------------------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Called about every second: whether the peer has kept us waiting for too long."""
        limits, connection = self.front.limits, self.connection
        if self._hung_up_at is not None:
            if now - self._hung_up_at > LINGER_S and self._transport is not None:
                self._transport.abort()
            return
        if not connection.is_settled and now - self._began_at > limits.opening_s:
            self._end(ErrorCode.SETTINGS_TIMEOUT, "no SETTINGS came")
        elif connection.partial_since is not None and now - connection.partial_since > limits.header_block_s:
            self._end(ErrorCode.ENHANCE_YOUR_CALM, "a frame or a header block does not end")
        elif self._full_since is not None and now - self._full_since > limits.read_stall_s:
            log.info("a client's connection was ended", peer=self.peer, reason="nothing is read from it")
            self._abort()
        else:
            self._check_readers(now)
            self._check_bodies(now)
            self._check_silence(now)

    def _check_readers(self, now: float) -> None:
        """End the streams whose client takes too little of what is queued.

        To most clients that is INTERNAL, by which a watch is resumed. By CANCEL it would be CANCELLED, by which it is
        not, and by which etcd's Go client repeats writes."""
        for stream in self._slow_readers.find(self.connection, now, is_scarce=self.front.room.is_scarce):
            call = stream.call
            self.connection.reset(stream, ErrorCode.INTERNAL_ERROR)
            if call is not None:
                call.handle_gone()
            self.touch()

    def _check_bodies(self, now: float) -> None:
        """Refuse calls whose message has begun and does not go on."""
        for call, heard_at in list(self.partial.items()):
            if now - heard_at > self.front.limits.body_stall_s:
                call.fail_slow()

    def _check_silence(self, now: float) -> None:
        """Ask a silent peer for a sign of life, and hang up if there is none: its machine may be gone."""
        limits = self.front.limits
        if now - self.heard_at <= limits.idle_s:
            self._asked_at = None
        elif self._asked_at is None:
            self._asked_at = now
            self.connection.ping()
            self.touch()
        elif now - self._asked_at > limits.idle_answer_s:
            self._abort()

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _end(self, code: ErrorCode, reason: str) -> None:
        """Tell the peer why, and hang up."""
        self._handle(self.connection.end(code, reason), self.heard_at)
        self.touch()

    def _hang_up(self) -> None:
        """Close once what is left is written and the peer has had a moment to hear it."""
        if self._hung_up_at is None and self._transport is not None:
            self._hung_up_at = self._clock()
            self._transport.write(self.connection.take())
            for call in self.connection.discard():
                if call is not None:
                    call.handle_gone()
            if self._transport.can_write_eof():
                self._transport.write_eof()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def announce_end(self) -> None:
        """Ask the client to call elsewhere from now on."""
        self.connection.announce_end()
        self.touch()

    def refuse_calls(self) -> None:
        """Serve the calls that have come, no others, and hang up then."""
        self.connection.refuse_streams()
        self._is_refusing = True
        self.touch()

    def end_calls(self, error: errors.BoathouseError, *, only_lasting: bool) -> None:
        """End all calls, or those of methods that last, with the API's status for an error."""
        for stream in list(self.connection.streams.values()):
            call = stream.call
            if call is not None and not call.is_ended and (call.route.method.lasts or not only_lasting):
                call.fail(error)

    def close(self) -> None:
        """Hang up at once."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
