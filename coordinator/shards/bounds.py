"""How much may wait in one coordinator, whatever it waits for: an answer, a leader, or the name of its table."""

from __future__ import annotations

from proto import errors


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
