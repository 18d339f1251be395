"""Deadlines of calls, kept coarsely: a set for each quarter of a second, and one timer for all.

Most calls end long before, so entering and leaving is all that has to be cheap. What waits for a shard is ended to
the point by the router, in the API's own words; this is for whatever else a handler waits for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio

SLOTS_PER_S: Final = 4


class Expiring(Protocol):
    """What has a deadline."""

    deadline_slot: int
    """0 = none; for Deadlines alone."""

    def expire(self) -> None:
        """The deadline has passed."""


class Deadlines:
    """All deadlines of a process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Expiring]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, expiring: Expiring, deadline: float) -> None:
        """Expire it at the deadline, at most 1.5 slots late and never early."""
        slot = int(deadline * SLOTS_PER_S) + 1
        expiring.deadline_slot = slot
        there = self._slots.get(slot)
        if there is not None:
            there.add(expiring)
            return
        self._slots[slot] = {expiring}
        if self._timer is None:
            self._timer = self._loop.call_later(1 / SLOTS_PER_S, self._tick)

    def remove(self, expiring: Expiring) -> None:
        """It has ended by itself."""
        there = self._slots.get(expiring.deadline_slot)
        if there is not None:
            there.discard(expiring)
        expiring.deadline_slot = 0

    def _tick(self) -> None:
        now = self._loop.time() * SLOTS_PER_S
        for slot in [slot for slot in self._slots if slot <= now]:
            for expiring in self._slots.pop(slot):
                expiring.deadline_slot = 0
                expiring.expire()
        self._timer = self._loop.call_later(1 / SLOTS_PER_S, self._tick) if self._slots else None

    def close(self) -> None:
        """Nothing expires any more."""
        self._slots.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
