"""What the peer of a connection did, for whoever serves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from coordinator.front.http2.frames import ConnectionFault, ErrorCode
    from coordinator.front.http2.streams import Stream

T = TypeVar("T")


@dataclass(slots=True)
class RequestStarted(Generic[T]):
    """A client opened a stream."""

    stream: Stream
    head: T
    varying: bytes | None
    """The value of the field that `head` does not know of; None if it did not come."""
    ended: bool
    """There is no body."""


@dataclass(slots=True)
class DataArrived:
    """Part of a request's body. Give what was dealt with back by Connection.give_back."""

    stream: Stream
    data: bytes
    ended: bool
    """Nothing follows."""


@dataclass(slots=True)
class StreamEnded:
    """The client took the request back, or broke a rule: nothing can be sent on the stream any more."""

    stream: Stream
    code: ErrorCode


@dataclass(slots=True)
class RoomMade:
    """A stream that wanted room has less than half of its allowance queued."""

    stream: Stream


@dataclass(slots=True)
class ConnectionEnded:
    """The peer broke a rule; after what `take` gives now, the connection is to be closed."""

    fault: ConnectionFault


Event = RequestStarted[T] | DataArrived | StreamEnded | RoomMade | ConnectionEnded
