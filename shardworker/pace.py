"""When a worker takes its next batch of requests.

Much of a turn's cost does not depend on how many requests it serves, so under load they are taken in batches; what
peers say is never held back. For writes, where every replica takes a turn and syncs, the batches are further apart the
faster they come. Below LOAD_REQUESTS_PER_S everything is taken at once: one client, or a few, are never made to wait.
"""

from __future__ import annotations

import math
from typing import Final

PACE_S: Final = 0.004
PACE_S_PER_WRITE_PER_S: Final = 0.000006
PACE_S_MAX: Final = 0.014
PACE_S_MAX_ALONE: Final = 0.008
"""Batches are PACE_S apart, for writes 6 ms at 1,000 a second, and at most PACE_S_MAX. A replica without peers has only
its own turns to save."""

LOAD_REQUESTS_PER_S: Final = 1000.0

LOAD_WINDOW_S: Final = 0.05
"""Time constant of the average that is compared with it."""


class Pace:
    """Pure: it is told what was taken, and when."""

    def __init__(self, *, alone: bool, now: float) -> None:
        """alone: the replica has no peers. Times are seconds of a steady clock."""
        self._longest_s = PACE_S_MAX_ALONE if alone else PACE_S_MAX
        self._requests = Rate(LOAD_WINDOW_S, now)
        self._writes = Rate(LOAD_WINDOW_S, now)
        self.next_batch = 0.0
        """Requests that come before this wait for it."""

    def taken(self, requests: int, writes: int, now: float) -> None:
        """A batch of so many requests was taken, so many of them writes."""
        self._requests.add(requests, now)
        self._writes.add(writes, now)
        under_load = self._requests.per_s > LOAD_REQUESTS_PER_S
        self.next_batch = now + self._pace_s() if under_load else 0.0

    def _pace_s(self) -> float:
        return min(self._longest_s, max(PACE_S, self._writes.per_s * PACE_S_PER_WRITE_PER_S))


class Rate:
    """An exponentially decaying average of events per second."""

    def __init__(self, window_s: float, now: float) -> None:
        self._window_s = window_s
        self._last = now
        self.per_s = 0.0

    def add(self, events: int, now: float) -> None:
        """So many events have happened up to now."""
        self.per_s = self.per_s * math.exp((self._last - now) / self._window_s) + events / self._window_s
        self._last = now
