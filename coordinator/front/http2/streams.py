"""One stream of a connection, and which frames it allows when (RFC 9113, 5.1), at a server that pushes nothing.

    IDLE --HEADERS--> OPEN --its end--> HALF_CLOSED_REMOTE --our end--> CLOSED          RST_STREAM, by either: CLOSED

An answer that ends before its request does is followed by RST_STREAM (8.1), so no stream stays half closed on our
side. An idle stream and a closed one have no object: of the first there are 2^31, and the second must cost nothing.
What comes for them is judged by Connection, from the id alone.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from coordinator.front.http2.frames import ErrorCode

if TYPE_CHECKING:
    from coordinator.front.http2.frames import EncodedHeaders


class State(enum.IntEnum):
    """Of a stream that is neither idle nor forgotten."""

    OPEN = 0
    HALF_CLOSED_REMOTE = 1
    """The client has said all."""
    CLOSED = 2


class Input(enum.IntEnum):
    """What comes for a stream that is not idle."""

    DATA = 0
    DATA_END = 1
    """DATA with END_STREAM."""
    HEADERS = 2
    HEADERS_END = 3
    """Trailers: HEADERS of a stream that is open already."""


_O, _R, _LATE = State.OPEN, State.HALF_CLOSED_REMOTE, ErrorCode.STREAM_CLOSED

TRANSITIONS: Final[tuple[tuple[State | ErrorCode, ...], ...]] = (
    # DATA   DATA_END  HEADERS                    HEADERS_END
    (_O,     _R,       ErrorCode.PROTOCOL_ERROR,  _R),  # OPEN
    (_LATE,  _LATE,    _LATE,                     _LATE),  # HALF_CLOSED_REMOTE
    (_LATE,  _LATE,    _LATE,                     _LATE),  # CLOSED
)  # fmt: skip
"""By state and input: the next state, or the code of the error it is."""

LENGTH_UNKNOWN: Final = -1


class Stream:
    """What is known of a stream, for the connection; `call` is for the layer above."""

    __slots__ = (
        "call", "content_left", "credit", "id", "queue", "queued_bytes", "receive_window", "send_window",
        "sent_bytes", "state", "trailers", "wants_room",
    )  # fmt: skip

    def __init__(self, stream_id: int, *, ended: bool, send_window: int, receive_window: int) -> None:
        self.id = stream_id
        self.state = State.HALF_CLOSED_REMOTE if ended else State.OPEN
        self.send_window = send_window
        """May be negative: a client's SETTINGS can take back what it granted (6.9.2)."""
        self.receive_window = receive_window
        self.credit = 0
        """Received, and not yet given back with WINDOW_UPDATE."""
        self.content_left = LENGTH_UNKNOWN
        """Bytes that content-length still promises."""
        self.queue: deque[bytes] = _NOTHING
        """Data to be sent, as windows and the socket allow."""
        self.queued_bytes = 0
        self.sent_bytes = 0
        """Of what was queued."""
        self.trailers: EncodedHeaders | None = None
        """Ends the stream once the queue is empty."""
        self.wants_room = False
        """Whether the layer above waits for the queue to shrink."""
        self.call: Any = None

    def queue_data(self, data: bytes) -> None:
        """Put data at the end of the queue."""
        if self.queue is _NOTHING:
            self.queue = deque()
        self.queue.append(data)
        self.queued_bytes += len(data)


_NOTHING: Final[deque[bytes]] = deque(maxlen=0)
"""The queue of most streams, which never need one."""
