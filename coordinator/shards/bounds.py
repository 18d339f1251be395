"""How much one coordinator holds: requests that wait for an answer, a leader or the name of their table, and answers
that wait for their clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import errors

if TYPE_CHECKING:
    from collections.abc import Callable


class Bounds:
    """Requests under way, by number and by bytes. Over either bound the next one is refused, at once and clearly."""

    __slots__ = ("_bytes_max", "_calls_max", "calls", "size_bytes")

    def __init__(self, *, calls_max: int, bytes_max: int) -> None:
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self.calls = 0
        self.size_bytes = 0

    def enter(self, size_bytes: int) -> None:
        """One more, of this size; each is to leave() with the same size. Raises QueueFull."""
        if self.calls >= self._calls_max or self.size_bytes + size_bytes > self._bytes_max:
            raise errors.QueueFull(f"{self.calls} calls of {self.size_bytes} bytes are under way")
        self.calls += 1
        self.size_bytes += size_bytes

    def leave(self, size_bytes: int) -> None:
        """One of this size has ended."""
        self.calls -= 1
        self.size_bytes -= size_bytes


class AnswerBudget:
    """How much of answers may wait for clients before no replica is told any more that its answers were taken.

    A replica sends so many bytes ahead of what it knows to be taken (limits.link_answer_bytes_max), and keeps the other
    requests, which cost it less than their answers would. So what a coordinator holds is bounded by this budget and
    what the replicas have under way, however many answers are asked for, and however slowly they are taken.
    """

    __slots__ = ("_bytes_max", "_held_bytes")

    def __init__(self, held_bytes: Callable[[], int], *, bytes_max: int) -> None:
        """held_bytes tells how much is queued for clients that have not taken it yet."""
        self._held_bytes = held_bytes
        self._bytes_max = bytes_max

    @property
    def is_used_up(self) -> bool:
        """Whether as much waits as may."""
        return self._held_bytes() >= self._bytes_max
