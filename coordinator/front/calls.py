"""One call of a gRPC client: a stream of an HTTP/2 connection as services see it (coordinator.api.call.Call).

    collecting --request complete--> [waiting for room] --> running --> ended
         \\______________________________ \\__________________ \\______ cancelled, expired, refused

A call of a method that takes one message runs once that is there; the other kinds run from their headers on.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING

import structlog

from coordinator.api import outcomes
from coordinator.api.call import Alike, StreamEnded
from coordinator.api.meter import NO_TABLE
from coordinator.front import answers, grpc_wire
from coordinator.front.compression import compress
from coordinator.front.handler_task import HandlerTask
from coordinator.front.http2.frames import EncodedHeaders, ErrorCode, read_u32
from coordinator.front.http2.headers import literal
from coordinator.front.incoming import Incoming
from proto import errors
from proto.codes import Code
from proto.methods import Access, Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence
    from typing import Any

    from coordinator.api.call import Metadata, Route
    from coordinator.front.grpc_wire import RequestHead
    from coordinator.front.http2.streams import Stream
    from coordinator.front.session import Session

log = structlog.get_logger()


class GrpcCall:
    """A call from its headers to its status."""

    __slots__ = (
        "__weakref__", "_answer_begun", "_began_s", "_body_bytes", "_client_deadline", "_encoding", "_expected_bytes",
        "_headers", "_incoming", "_is_expected", "_is_waiting", "_room", "_session", "_task", "_trailers", "_unsent",
        "body", "deadline", "deadline_slot", "identity", "is_ended", "metadata", "peer", "route", "stream", "table",
        "takes_one",
    )  # fmt: skip

    def __init__(
        self, session: Session, stream: Stream, route: Route, head: RequestHead, deadline: grpc_wire.Deadline
    ) -> None:
        self._session = session
        self.stream = stream
        self.route = route
        self.table = NO_TABLE
        self._began_s = session.read_s
        self.metadata: Metadata = head.metadata
        self.peer = session.peer
        self.identity = session.identity
        self._encoding = head.encoding
        self.deadline, self._client_deadline = deadline
        self.deadline_slot = 0
        self.body = b""
        kind = route.method.kind
        self.takes_one = kind is Kind.UNARY or kind is Kind.SERVER_STREAM
        # Its answer comes within a time limit, and counts as something to come until then.
        self._is_expected = kind is Kind.UNARY and not route.method.waits
        self._expected_bytes = 0
        self._is_waiting = False  # for its turn
        self._unsent = b""  # what a stream waits with
        self.is_ended = False
        self._task: HandlerTask | None = None
        self._incoming = None if self.takes_one else Incoming(session, stream, route, head.encoding)
        self._body_bytes = 0  # held for this call, as the session counts, until it starts
        self._room: asyncio.Future[None] | None = None  # the handler waits for its client to read
        self._answer_begun = False
        self._headers = self._trailers = b""  # what the handler adds, encoded

    # ---- the request -------------------------------------------------------------------------------------------------

    def handle_data(self, data: bytes, *, ended: bool) -> None:
        """More of the request."""
        if self.is_ended:
            return
        if self.takes_one:
            if (
                ended
                and self._incoming is None
                and len(data) >= grpc_wire.PREFIX_BYTES
                and data[0] == 0
                and read_u32(data, 1)[0] == len(data) - grpc_wire.PREFIX_BYTES
            ):
                # Nearly every call: its message came whole and alone.
                self.body = data[grpc_wire.PREFIX_BYTES :]
                if len(self.body) <= self.route.api.message_bytes_max:
                    self._maybe_start()
                    return
        self._handle_part(data, ended=ended)

    def _handle_part(self, data: bytes, *, ended: bool) -> None:
        incoming = self._incoming
        if incoming is None:
            incoming = self._incoming = Incoming(self._session, self.stream, self.route, self._encoding)
        try:
            if not self.takes_one:
                incoming.queue(data, ended=ended)
            else:
                incoming.collect(data)
                if ended:
                    self.body = incoming.collected()
        except errors.BoathouseError as error:
            self.fail(error)
            return
        partial = self._session.partial
        if incoming.is_partial:
            partial[self] = self._session.heard_at
        elif partial:
            partial.pop(self, None)
        if ended and self.takes_one:
            self._body_bytes = incoming.hand_over()
            self._let_go_of_body(self._body_bytes - len(self.body))
            self._maybe_start()

    def _let_go_of_body(self, count: int) -> None:
        self._body_bytes -= count
        self._session.let_go_of_request(count)

    # ---- what a handler sees -----------------------------------------------------------------------------------------

    def messages(self) -> AsyncIterator[bytes]:
        """See Call."""
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        batch = await self.take_messages(1)
        if not batch:
            raise StopAsyncIteration
        return batch[0]

    def take_messages(self, count_max: int) -> Coroutine[Any, Any, Sequence[bytes]]:
        """See Call."""
        assert self._incoming is not None, "a unary call has its message in body"
        return self._incoming.take(count_max)

    def add_header(self, name: str, value: str) -> None:
        """See Call."""
        assert not self._answer_begun, "the head of the answer is gone"
        self._headers += literal(name.encode(), value.encode())

    def add_trailer(self, name: str, value: str) -> None:
        """See Call."""
        self._trailers += literal(name.encode(), value.encode())

    def _head(self) -> EncodedHeaders:
        head = grpc_wire.RESPONSE_HEADS[self._encoding]
        return EncodedHeaders(head.block + self._headers, ends=False) if self._headers else head

    def _with_trailers(self, end: EncodedHeaders) -> EncodedHeaders:
        return EncodedHeaders(end.block + self._trailers, ends=True) if self._trailers else end

    async def send(self, message: bytes) -> None:
        """See Call."""
        if self.is_ended:
            raise StreamEnded
        if self._session.may_send(self.stream, len(message)):
            self._queue(self._encoded(message))
        else:
            await self._wait_for_turn(message)
        self.route.meter.sent += 1
        await self._wait_while_full()

    async def send_all(self, messages: Sequence[bytes]) -> None:
        """See Call."""
        if self.is_ended:
            raise StreamEnded
        if self._session.may_send(self.stream, _size_of(messages)):
            self._queue(self._encoded_all(messages))
            self.route.meter.sent += len(messages)
            await self._wait_while_full()
        else:
            for message in messages:
                await self.send(message)

    def send_now(self, messages: Sequence[bytes]) -> bool:
        """See Call."""
        size = _size_of(messages)
        stream, session = self.stream, self._session
        if (
            self.is_ended
            or stream.queued_bytes + size > session.front.limits.stream_answer_bytes_max
            or not session.may_send(stream, size)
        ):
            return False
        self._queue(self._encoded_all(messages))
        self.route.meter.sent += len(messages)
        return True

    def _queue(self, data: bytes) -> None:
        session, stream = self._session, self.stream
        if not self._answer_begun:
            self._answer_begun = True
            session.connection.send_head(stream, self._head())
        session.connection.send_data(stream, data)
        session.touch()

    async def _wait_while_full(self) -> None:
        stream = self.stream
        if stream.queued_bytes > self._session.front.limits.stream_answer_bytes_max:
            stream.wants_room = True
            try:
                await self._wait_for_room()
            finally:
                stream.wants_room = False

    async def _wait_for_turn(self, message: bytes) -> None:
        """Queue a message once there is room. It waits as it is: thousands of streams may wait with the same one."""
        share = self._session.share
        self._unsent = message
        self._is_waiting = True
        share.wait_to_send(self, len(message))
        try:
            await self._wait_for_room()
        finally:
            self._unsent = b""
            if self._is_waiting:  # and the handler does no longer
                self._is_waiting = False
                share.withdraw(self)

    async def _wait_for_room(self) -> None:
        self._room = self._session.front.loop.create_future()
        try:
            await self._room
        finally:
            self._room = None

    def handle_room(self) -> None:
        """The client has read."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _encoded(self, message: bytes) -> bytes:
        if self._encoding != grpc_wire.IDENTITY and message:
            smaller = compress(self._encoding, message)
            if len(smaller) < len(message):
                return grpc_wire.prefixed(smaller, compressed=True)
        return grpc_wire.prefixed(message)

    def _encoded_all(self, messages: Sequence[bytes]) -> bytes:
        if self._encoding == grpc_wire.IDENTITY:
            return grpc_wire.prefixed_all(messages)
        return b"".join(map(self._encoded, messages))

    # ---- running -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The headers are there: run a method that reads its messages itself."""
        if not self.is_ended:
            self._run()

    def _maybe_start(self) -> None:
        """Run once the answer has room."""
        if not self._is_expected:
            self._start()
            return
        share = self._session.share
        expected = self.route.meter.answer_bytes_mean
        if share.may_start(expected):
            self._start()
            return
        unheld = len(self.body) - self._body_bytes
        if not self._session.hold_request(unheld):
            self.fail(errors.QueueFull("too many bytes of requests wait"))
            return
        self._body_bytes += unheld
        self._is_waiting = share.wait_to_start(self, expected)
        if not self._is_waiting:
            self.fail(errors.QueueFull("too many requests wait for answers to be read"))

    def proceed(self) -> None:
        """See Waiting: it is the turn of a call that is complete, or of a stream's message."""
        self._is_waiting = False
        if self._task is None:
            self._start()
        else:
            self._queue(self._encoded(self._unsent))
            self.handle_room()

    def _start(self) -> None:
        if self._body_bytes:
            self._let_go_of_body(self._body_bytes)
        self._run()

    def _run(self) -> None:
        if self._is_expected:
            self._expected_bytes = self._session.share.begin(self.route.meter)
        task = HandlerTask(self._session.front.loop, self.route.handler(self), self._handle_end)  # type: ignore[arg-type]
        self._task = task
        task.run()

    def _handle_end(self, answer: bytes | None, error: BaseException | None) -> None:
        """The handler has returned or raised."""
        self._task = None
        if self._is_expected:
            size = None if answer is None else len(answer)
            self._session.share.end(self.route.meter, self._expected_bytes, size)
        if self.is_ended:
            if error is not None and not isinstance(
                error, asyncio.CancelledError | StreamEnded | errors.BoathouseError
            ):
                log.error(
                    "a call that was over failed with an unexpected error",
                    method=self.route.path,
                    exc_info=error,
                )
        elif error is not None:
            self._handle_error(error)
        elif answer is None:
            self._end_with(Code.OK, "")
        else:
            self._answer(answer)

    def _answer(self, answer: bytes) -> None:
        session = self._session
        data = grpc_wire.prefixed(answer) if self._encoding == grpc_wire.IDENTITY else self._encoded(answer)
        if not session.share.takes_answer(len(data)):
            self.fail(answers.refusal(self.route.method.access))
            return
        self._leave()
        session.connection.respond(self.stream, self._head(), data, self._with_trailers(grpc_wire.OK))
        session.touch()

    def _handle_error(self, error: BaseException) -> None:
        if isinstance(error, errors.BoathouseError):
            self.fail(error)
        elif isinstance(error, StreamEnded):
            self.abandon(ErrorCode.CANCEL)
        elif isinstance(error, asyncio.CancelledError):
            self.fail(errors.ShuttingDown("the call was cancelled"))
        else:
            log.error("a call failed with an unexpected error", method=self.route.path, exc_info=error)
            self.fail(errors.InvariantBroken(type(error).__name__))

    # ---- the end -----------------------------------------------------------------------------------------------------

    def fail(self, error: errors.BoathouseError) -> None:
        """End the call with the API's status for an error."""
        row = outcomes.to_status(self.route.api.outcomes, error)
        self._end_with(row.code, row.text)

    def expire(self) -> None:
        """See Expiring."""
        if self.is_ended:
            return
        if self._client_deadline:
            self._end_with(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
        elif self._task is None:
            self.fail(errors.ReadTimedOut())
        else:
            self.fail(
                errors.TimedOut() if self.route.method.access is Access.WRITE else errors.ReadTimedOut()
            )

    def fail_slow(self) -> None:
        """The rest of a message does not come. Nothing was done, so the client may try again."""
        self._end_with(Code.UNAVAILABLE, "the rest of a message did not come in time")

    def _end_with(self, code: Code, text: str) -> None:
        """Send a status, the last that the client hears of the call; a handler that still runs is cancelled."""
        session = self._session
        self._leave()
        if code is not Code.OK:
            self.route.meter.failed(code)
        if not self._answer_begun and code is not Code.OK:
            session.connection.send_head(
                self.stream, self._with_trailers(grpc_wire.trailers_only(code, text))
            )
        else:
            if not self._answer_begun:
                session.connection.send_head(self.stream, self._head())
            trailers = grpc_wire.OK if code is Code.OK else grpc_wire.trailers(code, text)
            session.connection.send_trailers(self.stream, self._with_trailers(trailers))
        session.touch()
        self._cancel()

    def abandon(self, code: ErrorCode) -> None:
        """End the call and its stream without a word."""
        if not self.is_ended:
            self.handle_gone()
            self._session.connection.reset(self.stream, code)
            self._session.touch()

    def handle_gone(self) -> None:
        """The client has taken the call back, or is gone."""
        if not self.is_ended:
            self._leave()
            self.route.meter.failed(Code.CANCELLED)
            self._cancel()

    def _leave(self) -> None:
        self.is_ended = True
        self.route.meter.ended(self.table, perf_counter() - self._began_s)
        self.stream.call = None  # or each would keep the other until the garbage collector comes by
        if self.deadline_slot:
            self._session.front.deadlines.remove(self)
        if self._body_bytes:
            self._let_go_of_body(self._body_bytes)
        if self._is_waiting:
            self._is_waiting = False
            self._session.share.withdraw(self)
        if self._incoming is not None:
            self._incoming.drop()
            self._session.partial.pop(self, None)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _size_of(messages: Sequence[bytes]) -> int:
    return messages.size_bytes if isinstance(messages, Alike) else sum(map(len, messages))
