"""A request's messages as they come, and what is held of them until somebody takes them.

What is held counts for its connection and for the process (Session.hold_request). A stream's window is given back to
the client when its handler takes what came, so one that does not read is not sent more than a window.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from coordinator.front import grpc_wire
from coordinator.front.compression import decompress
from proto import errors

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from coordinator.api.call import Route
    from coordinator.front.http2.streams import Stream
    from coordinator.front.session import Session

MESSAGE_OBJECT_BYTES: Final = 64
"""What a message costs beside its bytes, as long as nobody has taken it: an empty one comes as five."""


class Incoming:
    """Of one call. What a method raises is what the call ends with."""

    __slots__ = (
        "_all_said", "_encoding", "_held_bytes", "_messages", "_news", "_reader", "_route", "_session", "_stream",
        "_ungiven_bytes", "is_partial",
    )  # fmt: skip

    def __init__(self, session: Session, stream: Stream, route: Route, encoding: str) -> None:
        self._session = session
        self._stream = stream
        self._route = route
        self._encoding = encoding
        self._reader = grpc_wire.MessageReader(route.api.message_bytes_max)
        self._messages: deque[grpc_wire.Message] = deque()
        self._held_bytes = 0  # as the session counts
        self._ungiven_bytes = 0  # received and not given back, because nobody has taken what is there
        self._news: asyncio.Future[None] | None = None  # the handler waits for a message
        # Not the stream's state: that may be ahead of what has been handed over in this turn.
        self._all_said = False  # by the client
        self.is_partial = False
        """Whether a message has come in part."""

    def collect(self, data: bytes) -> None:
        """More of a request that is one message."""
        self._session.connection.give_back(self._stream, len(data))
        self._messages.extend(self._read(data))
        if len(self._messages) > 1:
            raise errors.MalformedRequest("more than one message in a call that takes one")

    def collected(self) -> bytes:
        """The message of a request that has come whole."""
        if self.is_partial or not self._messages:
            raise errors.MalformedRequest("the request ends before its message does")
        return self._decompressed(self._messages.popleft())

    def hand_over(self) -> int:
        """So many bytes are held, which are the caller's to let go of from now on."""
        held, self._held_bytes = self._held_bytes, 0
        return held

    def queue(self, data: bytes, *, ended: bool) -> None:
        """More of a request whose messages are taken one by one."""
        messages = self._read(data) if data else []  # nothing but the end
        if self._messages:
            self._ungiven_bytes += len(data)  # the client may go on when the handler has
        else:
            self._session.connection.give_back(self._stream, len(data))
        self._messages.extend(messages)
        self._all_said = ended
        if len(self._messages) > self._session.front.limits.messages_queued_max:
            raise errors.QueueFull("too many messages that nobody has taken")
        if ended and self.is_partial:
            raise errors.MalformedRequest("the request ends before its message does")
        if self._news is not None and not self._news.done() and (messages or ended):
            self._news.set_result(None)

    def _read(self, data: bytes) -> list[grpc_wire.Message]:
        """The messages that are complete with data."""
        session = self._session
        if not session.hold_request(len(data)):
            raise errors.QueueFull("too many bytes of requests wait")
        self._held_bytes += len(data)
        messages = self._reader.feed(data)
        if isinstance(messages, list):
            objects_bytes = len(messages) * MESSAGE_OBJECT_BYTES
            if not session.hold_request(objects_bytes):
                raise errors.QueueFull("too many bytes of requests wait")
            self._held_bytes += objects_bytes
            self.is_partial = self._reader.pending_bytes > 0
            return messages
        if isinstance(messages, grpc_wire.TooLarge):
            raise errors.MessageTooLarge(f"{messages.size} vs. {self._route.api.message_bytes_max}")
        raise errors.MalformedRequest("a message begins with neither 0 nor 1")

    async def take(self, count_max: int) -> Sequence[bytes]:
        """See Call.take_messages."""
        messages = self._messages
        while not messages:
            if self._all_said:
                return ()
            self._news = self._session.front.loop.create_future()
            try:
                await self._news
            finally:
                self._news = None
        return [self._take_first() for _ in range(min(count_max, len(messages)))]

    def _take_first(self) -> bytes:
        message = self._messages.popleft()
        self._route.meter.received += 1
        count = min(len(message[1]) + grpc_wire.PREFIX_BYTES + MESSAGE_OBJECT_BYTES, self._held_bytes)
        self._held_bytes -= count
        self._session.let_go_of_request(count)
        if self._ungiven_bytes and not self._messages:
            count, self._ungiven_bytes = self._ungiven_bytes, 0
            self._session.connection.give_back(self._stream, count)
            self._session.touch()
        return self._decompressed(message)

    def _decompressed(self, message: grpc_wire.Message) -> bytes:
        compressed, data = message
        if not compressed:
            return data
        if self._encoding == grpc_wire.IDENTITY:
            raise errors.MalformedRequest("a compressed message, and no grpc-encoding")
        return decompress(self._encoding, data, bytes_max=self._route.api.message_bytes_max)

    def drop(self) -> None:
        """The call is over: nothing is held for it any more."""
        self._session.let_go_of_request(self.hand_over())
