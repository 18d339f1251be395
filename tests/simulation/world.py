"""Virtual time and everything that happens in it, in one order, from one seed.

Each part of the simulation draws from a random stream of its own, named after it: taking one kind of fault away then
leaves the dice of all others as they were, which is what makes shrinking work. The trace is hashed as it grows, so
that two runs can be compared byte for byte without keeping millions of lines.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND: Final = 1_000_000
MS: Final = 1_000
"""Time is counted in microseconds from the start of the simulation."""

RECENT_LINES_MAX: Final = 120


class World:
    """The event queue and the trace of one simulation."""

    def __init__(self, seed: int, write: Callable[[str], object] | None = None) -> None:
        """`write` gets every line of the trace; without it only the newest lines and the digest are kept."""
        self.seed = seed
        self.now_us = 0
        self.recent: deque[str] = deque(maxlen=RECENT_LINES_MAX)
        self._write = write
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._digest = hashlib.blake2b(digest_size=16)

    def stream(self, name: str) -> random.Random:
        """An independent source of randomness; the same for the same seed and name in every process."""
        return random.Random(f"{self.seed}/{name}")

    def at(self, time_us: int, action: Callable[[], None]) -> None:
        """Run the action then, after what was planned earlier for the same time."""
        self._count += 1
        heapq.heappush(self._events, (max(time_us, self.now_us), self._count, action))

    def after(self, delay_us: int, action: Callable[[], None]) -> None:
        self.at(self.now_us + delay_us, action)

    def run_until(self, time_us: int) -> None:
        """Let time pass."""
        events = self._events
        while events and events[0][0] <= time_us:
            self.now_us, _, action = heapq.heappop(events)
            action()
        self.now_us = time_us

    def note(self, text: str) -> None:
        """A line of the trace."""
        line = f"{self.now_us:>10} {text}"
        self._digest.update(line.encode())
        self._digest.update(b"\n")
        self.recent.append(line)
        if self._write is not None:
            self._write(line)

    def digest(self) -> str:
        """Stands for the whole trace so far."""
        return self._digest.hexdigest()
