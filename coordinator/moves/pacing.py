"""How fast a table is copied, so that clients of its shards hardly notice: pure.

A part waits its turn behind what clients ask, so the time that the target is at it tells how much there is to do. While
that is near the least of late there is room, and the next part follows at once; what it takes beyond that the copy
rests.

Some parts are under way at a time, and the target may take them together. So the time of each is counted from when the
one before was taken, and what counts is the mean of as many as are under way.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from coordinator.moves.mover import UNDER_WAY_MAX

REST_S_MAX: Final = 0.5
PARTS_REMEMBERED: Final = 200
"""The least of so many is what a part takes without others: after a minute or so a load that stays is the measure."""
ROOM: Final = 2.0
"""Parts that take so many times the least still find room: they wait for a sync more or less."""


class Pacing:
    """Of one table's copy."""

    def __init__(self) -> None:
        self._taken_s = float("-inf")
        self._each: deque[float] = deque(maxlen=UNDER_WAY_MAX)
        self._lately: deque[float] = deque(maxlen=PARTS_REMEMBERED)

    def rest_s(self, sent_s: float, taken_s: float) -> float:
        """How long to rest after a part that was sent and taken at these times of a steady clock."""
        self._each.append(max(0.0, taken_s - max(sent_s, self._taken_s)))
        self._taken_s = taken_s
        if len(self._each) < UNDER_WAY_MAX:
            return 0.0
        mean_s = sum(self._each) / len(self._each)
        self._lately.append(mean_s)
        return min(REST_S_MAX, max(0.0, mean_s - ROOM * min(self._lately)))
