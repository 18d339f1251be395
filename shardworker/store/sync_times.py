"""How long the disk takes to make a turn durable: what a slow leader, and a slow shard, are most often about."""

from __future__ import annotations

from collections import deque
from typing import Final

SYNCS_KEPT: Final = 512
"""Under load some seconds' worth. An idle replica shows older ones, which is the newest that anybody knows."""


class SyncTimes:
    """The last SYNCS_KEPT syncs. Noting one costs next to nothing; who asks pays for the sorting."""

    __slots__ = ("_times_ns",)

    def __init__(self) -> None:
        self._times_ns: deque[int] = deque(maxlen=SYNCS_KEPT)

    def note(self, time_ns: int) -> None:
        """A turn's COMMIT, its sync included, took so long."""
        self._times_ns.append(time_ns)

    def p99_us(self) -> int | None:
        """Microseconds within which 99 of 100 syncs ended; None before the first."""
        if not self._times_ns:
            return None
        ordered = sorted(self._times_ns)
        return ordered[(len(ordered) * 99 - 1) // 100] // 1_000
