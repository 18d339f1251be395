"""How many bytes of answers a process may hold: those that are queued, and those that are to be expected.

How large an answer will be is not known before it is there. So each call under way counts for as much as answers were
lately, on average. While that is too much together, further calls wait for their turn; and an answer that comes all
the same when there is no room left is dropped, so that memory has a bound whatever clients ask for.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from coordinator.front.http2.connection import Tally

if TYPE_CHECKING:
    from coordinator.front.limits import Limits

MEMORY_CALLS: Final = 64
"""The average follows a change within about so many calls."""


class Waiting(Protocol):
    """A call that waits for its turn."""

    is_ended: bool

    def start(self) -> None:
        """It is its turn."""


class AnswerRoom:
    """One for all connections of a process."""

    __slots__ = ("_bytes_always", "_bytes_max", "_waiting", "_waiting_max", "running", "size_mean", "tally")

    def __init__(self, limits: Limits) -> None:
        self._bytes_max = limits.answer_bytes_max
        self._bytes_always = limits.answer_bytes_always
        self._waiting_max = limits.calls_waiting_max
        self._waiting: deque[Waiting] = deque()
        self.tally = Tally()
        """What is queued on connections."""
        self.running = 0
        """Calls with one answer that are under way."""
        self.size_mean = 0.0

    @property
    def is_there(self) -> bool:
        """Whether another call may start."""
        return self.tally.bytes + self.running * self.size_mean < self._bytes_max and not self._waiting

    def wait(self, call: Waiting) -> bool:
        """Let a call wait for its turn. False if too many do already."""
        if len(self._waiting) >= self._waiting_max:
            self._waiting = deque(other for other in self._waiting if not other.is_ended)
            if len(self._waiting) >= self._waiting_max:
                return False
        self._waiting.append(call)
        return True

    def ended(self, size: int) -> None:
        """A running call has its answer, of so many bytes."""
        self.running -= 1
        self.size_mean += (size - self.size_mean) / MEMORY_CALLS

    def takes(self, size: int) -> bool:
        """Whether an answer of so many bytes may be queued."""
        return size <= self._bytes_always or self.tally.bytes + size <= 2 * self._bytes_max

    def release(self) -> None:
        """Start the calls that there is room for now."""
        waiting = self._waiting
        while waiting and (
            waiting[0].is_ended or self.tally.bytes + self.running * self.size_mean < self._bytes_max
        ):
            call = waiting.popleft()
            if not call.is_ended:
                call.start()

    @property
    def has_waiting(self) -> bool:
        """Whether release() may do something."""
        return bool(self._waiting)
