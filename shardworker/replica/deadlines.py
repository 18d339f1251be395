"""When things run out, in ticks: each has a time to live, may be renewed before it is over, and is told once it is.

A heap holds one entry for each, which is never later than its deadline. A renewal does not touch the heap: an entry
that comes up too early is put back in its right place. So a renewal costs an assignment, and so does `restart`, which
gives everything its full time again: nobody looks at all of them at any moment.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

from shardworker.replica.part import NEVER_TICKS

Key = tuple[int, int]

LOOKS_MAX: Final = 5_000
"""Entries that one call looks at: about 10 ms. After a restart most come up too early."""

STALE_MAX: Final = 1_024
"""Entries of what is gone that the heap may hold, beyond as many as there are others."""


class _Timer:
    __slots__ = ("queued", "restarts", "since", "ttl_ticks")

    def __init__(self, since: int, ttl_ticks: int, restarts: int) -> None:
        self.since = since
        self.restarts = restarts
        """How many there had been by then."""
        self.ttl_ticks = ttl_ticks
        self.queued = since + ttl_ticks
        """Of its heap entry; any other is stale. -1: it was told, and has none."""


class Deadlines:
    """Deadlines by key, on a clock of ticks."""

    def __init__(self) -> None:
        self.now = 0
        self._epoch = self._restarts = 0
        self._timers: dict[Key, _Timer] = {}
        self._heap: list[tuple[int, Key]] = []

    def __len__(self) -> int:
        return len(self._timers)

    def __contains__(self, key: Key) -> bool:
        return key in self._timers

    def tick(self) -> None:
        """One tick has passed."""
        self.now += 1

    def add(self, key: Key, ttl_ticks: int, left_ticks: int | None = None) -> None:
        """Runs out after so many ticks from now, or after left_ticks until it is renewed. What was there under this key
        is gone."""
        since = self.now if left_ticks is None else self.now + left_ticks - ttl_ticks
        timer = self._timers[key] = _Timer(since, ttl_ticks, self._restarts)
        heappush(self._heap, (timer.queued, key))
        self._maybe_clean()

    def remove(self, key: Key) -> None:
        """Never runs out."""
        self._timers.pop(key, None)
        self._maybe_clean()

    def clear(self) -> None:
        """Nothing is left."""
        self._timers.clear()
        self._heap.clear()

    def renew(self, key: Key) -> None:
        """Its time begins anew. What was told to have run out runs again."""
        timer = self._timers[key]
        timer.since, timer.restarts = max(self.now, self._since(timer)), self._restarts
        if timer.queued < 0:
            self._queue(key, timer)

    def restart(self, grace_ticks: int) -> None:
        """The time of everything that is there begins anew, so many ticks from now."""
        self._restarts += 1
        self._epoch = max(self._epoch, self.now + grace_ticks)

    def deadline(self, key: Key) -> int:
        """The tick at which it runs out."""
        return self._deadline(self._timers[key])

    def _since(self, timer: _Timer) -> int:
        return timer.since if timer.restarts == self._restarts else max(timer.since, self._epoch)

    def _deadline(self, timer: _Timer) -> int:
        return self._since(timer) + timer.ttl_ticks

    def _queue(self, key: Key, timer: _Timer) -> None:
        timer.queued = self._deadline(timer)
        heappush(self._heap, (timer.queued, key))

    def take_due(self, count_max: int) -> list[Key]:
        """What has run out, the earliest first, at most so many; each is told once. Some may have to wait for the next
        call, because this one looks at LOOKS_MAX entries."""
        heap = self._heap
        due: list[Key] = []
        looks = LOOKS_MAX
        while heap and heap[0][0] <= self.now and len(due) < count_max and looks:
            looks -= 1
            queued, key = heappop(heap)
            timer = self._timers.get(key)
            if timer is None or timer.queued != queued:
                continue
            if self._deadline(timer) <= self.now:
                timer.queued = -1
                due.append(key)
            else:
                self._queue(key, timer)
        return due

    def ticks_until_due(self) -> int:
        """Ticks that may pass before take_due() has to be called; at least 1."""
        return max(1, self._heap[0][0] - self.now) if self._heap else NEVER_TICKS

    def _maybe_clean(self) -> None:
        """Drop the entries of what is gone, once they are most of the heap."""
        if len(self._heap) > 2 * len(self._timers) + STALE_MAX:
            self._heap = [(timer.queued, key) for key, timer in self._timers.items() if timer.queued >= 0]
            heapify(self._heap)
