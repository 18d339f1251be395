"""Whose client reads too slowly: what is queued for it is in the way of others, and may be for ever.

A client has to take a part of what is queued within each `read_stall_s`: while there is room for all, `read_bytes_min`
are enough, so that a slow line is no fault; when room is scarce, an eighth of it, or a few who take a byte now and then
would hold what others need. A stream whose window is closed is judged by what it has taken itself. One whose client
is willing waits for the connection's window or its socket, and is judged by what the connection has taken.

A method that lasts, as Watch, has clients that wait for what may come, and that may be busy or stopped for a while.
What is queued for one has a bound (stream_answer_bytes_max), from where its handler goes on: it is let alone while
there is room, in the process and on its connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from typing import Any

    from coordinator.front.http2.connection import Connection
    from coordinator.front.http2.streams import Stream
    from coordinator.front.limits import Limits

SHARE: Final = 8
"""Of what is queued, one part in so many is to be taken."""


class _Mark(NamedTuple):
    """Where a stream stood."""

    since: float
    sent_bytes: int
    queued_bytes: int
    connection_sent_bytes: int
    connection_queued_bytes: int


class SlowReaders:
    """Of one connection."""

    __slots__ = ("_limits", "_marks")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._marks: dict[int, _Mark] = {}

    def find(self, connection: Connection[Any], now: float, *, is_scarce: bool) -> list[Stream]:
        """The streams to be ended. To be asked more often than each read_stall_s."""
        before, self._marks = self._marks, {}
        if not connection.queued_bytes:
            return []
        slow = []
        is_patient = not is_scarce and 2 * connection.queued_bytes <= self._limits.connection_answer_bytes_max
        for stream in connection.streams.values():
            if not stream.queue or (is_patient and _lasts(stream)):
                continue
            mark = before.get(stream.id)
            if mark is None or now - mark.since > self._limits.read_stall_s:
                if mark is not None and self._is_slow(stream, connection, mark, is_scarce=is_scarce):
                    slow.append(stream)
                    continue
                mark = _Mark(
                    now,
                    stream.sent_bytes,
                    stream.queued_bytes,
                    connection.sent_bytes,
                    connection.queued_bytes,
                )
            self._marks[stream.id] = mark
        return slow

    def _is_slow(self, stream: Stream, connection: Connection[Any], mark: _Mark, *, is_scarce: bool) -> bool:
        if stream.send_window > 0:
            taken = connection.sent_bytes - mark.connection_sent_bytes
            due = mark.connection_queued_bytes // SHARE
        else:
            taken = stream.sent_bytes - mark.sent_bytes
            due = mark.queued_bytes // SHARE
        if not is_scarce:
            due = min(due, self._limits.read_bytes_min)
        return taken < max(due, 1)


def _lasts(stream: Stream) -> bool:
    return stream.call is not None and stream.call.route.method.lasts
