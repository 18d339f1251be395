"""When things run out, in ticks: each has a time to live, may be renewed before it is over, and is told once it is.

Others note how much of it was left; after `restart` everything counts from there. So they are to be told now and then
of what has lost a step of its time since they noted it last (`take_unnoted`). A step is half of its time, within
bounds: what is renewed within that is never told.

A heap holds one entry for each, which is never later than anything that may have to be told of it. A renewal does not
touch the heap: an entry that comes up too early is put back in its right place. So a renewal costs an assignment, and
so does `restart`: nobody looks at all of them at any moment.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Final

from shardworker.raft import NEVER_TICKS

Key = tuple[int, int]

LOOKS_MAX: Final = 5_000
"""Entries that one call looks at: about 10 ms. After a restart most come up too early."""

STALE_MAX: Final = 1_024
"""Entries of what is gone that the heap may hold, beyond as many as there are others."""


class _Timer:
    __slots__ = ("ends", "noted_ticks", "queued", "restarts", "ttl_ticks")

    def __init__(self, ends: int, noted_ticks: int, ttl_ticks: int, restarts: int) -> None:
        self.ends = ends
        """The tick at which it runs out, if it was counted since the last restart."""
        self.noted_ticks = noted_ticks
        """What is left of it for who counts from there."""
        self.ttl_ticks = ttl_ticks
        self.restarts = restarts
        """How many there had been when it was counted last."""
        self.queued = -1
        """Of its heap entry; any other is stale. -1: it was told, and has none."""


class Deadlines:
    """Deadlines by key, on a clock of ticks."""

    def __init__(self, grace_ticks: int, *, step_ticks_min: int, step_ticks_max: int) -> None:
        """grace_ticks: what a restart adds to the time of everything. The others: bounds of a step."""
        self.now = 0
        self._grace_ticks = grace_ticks
        self._step_ticks_min, self._step_ticks_max = step_ticks_min, step_ticks_max
        self._epoch = self._restarts = 0
        self._timers: dict[Key, _Timer] = {}
        self._heap: list[tuple[int, Key]] = []
        self._unnoted: dict[Key, None] = {}
        """Those that had lost a step when their entry came up, in that order."""

    def __len__(self) -> int:
        return len(self._timers)

    def __contains__(self, key: Key) -> bool:
        return key in self._timers

    def tick(self, ticks: int = 1) -> None:
        """So many ticks have passed."""
        self.now += ticks

    def add(self, key: Key, ttl_ticks: int, left_ticks: int | None = None) -> None:
        """Runs out after so many ticks from now, or after left_ticks until it is renewed, and everybody knows. What was
        there under this key is gone."""
        left = ttl_ticks if left_ticks is None else left_ticks
        timer = self._timers[key] = _Timer(self.now + left, left, ttl_ticks, self._restarts)
        self._queue(key, timer, self._comes_up(timer))
        self._maybe_clean()

    def remove(self, key: Key) -> None:
        """Never runs out."""
        self._timers.pop(key, None)
        self._unnoted.pop(key, None)
        self._maybe_clean()

    def clear(self) -> None:
        """Nothing is left."""
        self._timers.clear()
        self._heap.clear()
        self._unnoted.clear()

    def renew(self, key: Key) -> None:
        """Its time begins anew, unless it has more. What was told to have run out runs again."""
        timer = self._timers[key]
        timer.ends, timer.restarts = max(self._ends(timer), self.now + timer.ttl_ticks), self._restarts
        if timer.queued < 0:
            self._queue(key, timer, self._comes_up(timer))

    def restart(self) -> None:
        """Everything has the time again that others know of, and the grace on top."""
        self._restarts += 1
        self._epoch = self.now + self._grace_ticks
        self._unnoted.clear()

    def note(self, key: Key, left_ticks: int) -> None:
        """Others know that so much was left of it. What was counted since the last restart is counted on; all else runs
        out that long after it."""
        timer = self._timers[key]
        timer.noted_ticks = left_ticks
        if self._has_lost_step(timer):
            self._unnoted[key] = None
        comes_up = self._comes_up(timer)
        if 0 <= timer.queued != comes_up:
            self._queue(key, timer, comes_up)
            self._maybe_clean()

    def deadline(self, key: Key) -> int:
        """The tick at which it runs out."""
        return self._ends(self._timers[key])

    def _ends(self, timer: _Timer) -> int:
        return timer.ends if timer.restarts == self._restarts else self._epoch + timer.noted_ticks

    # ---- what others know -------------------------------------------------------------------------------------------

    def _step(self, timer: _Timer) -> int:
        return min(max(timer.ttl_ticks // 2, self._step_ticks_min), self._step_ticks_max)

    def _has_lost_step(self, timer: _Timer) -> bool:
        return self._ends(timer) - self.now <= timer.noted_ticks - self._step(timer)

    def take_unnoted(self, count_max: int) -> list[tuple[Key, int]]:
        """What has lost a step, and the ticks that are left; of the others it is known well enough, or they were told
        already. For what take_due() came upon."""
        taken: list[tuple[Key, int]] = []
        while self._unnoted and len(taken) < count_max:
            key = next(iter(self._unnoted))
            del self._unnoted[key]
            timer = self._timers[key]
            left = self._ends(timer) - self.now
            if left > 0 and self._has_lost_step(timer):
                self._settle(timer)
                taken.append((key, left))
        return taken

    @property
    def has_unnoted(self) -> bool:
        """Whether take_unnoted() has something to look at."""
        return bool(self._unnoted)

    def take_losing(self, ticks_min: int) -> list[tuple[Key, int]]:
        """What would win at least so much by a restart now, and the ticks that are left, of about those LOOKS_MAX that
        come up first."""
        taken: dict[Key, int] = {}
        for queued, key in islice(self._heap, LOOKS_MAX):
            timer = self._timers.get(key)
            if timer is not None and timer.queued == queued:
                left = self._ends(timer) - self.now
                if 0 < left <= timer.noted_ticks - ticks_min:
                    self._settle(timer)
                    taken[key] = left
        return list(taken.items())

    def _settle(self, timer: _Timer) -> None:
        """It was counted: what others are told of it changes nothing here."""
        timer.ends, timer.restarts = self._ends(timer), self._restarts

    # ---- the heap ---------------------------------------------------------------------------------------------------

    def _comes_up(self, timer: _Timer) -> int:
        """When to look at it next: when it runs out, also if there were a restart meanwhile, or has lost a step."""
        ends = self._ends(timer)
        latest = min(ends, self.now + self._grace_ticks + timer.noted_ticks)
        loses = ends - timer.noted_ticks + self._step(timer)
        return loses if self.now < loses < latest else latest

    def _queue(self, key: Key, timer: _Timer, at: int) -> None:
        timer.queued = at
        heappush(self._heap, (at, key))

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
            left = self._ends(timer) - self.now
            if left <= 0:
                timer.queued = -1
                due.append(key)
                continue
            if self._has_lost_step(timer):
                self._unnoted[key] = None
            self._queue(key, timer, self._comes_up(timer))
        return due

    def ticks_until_due(self) -> int:
        """Ticks that may pass before take_due() has to be called; at least 1."""
        return max(1, self._heap[0][0] - self.now) if self._heap else NEVER_TICKS

    def _maybe_clean(self) -> None:
        """Drop the entries of what is gone, once they are most of the heap."""
        if len(self._heap) > 2 * len(self._timers) + STALE_MAX:
            self._heap = [(timer.queued, key) for key, timer in self._timers.items() if timer.queued >= 0]
            heapify(self._heap)
