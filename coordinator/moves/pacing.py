"""How fast a table is copied, so that clients of its shards hardly notice: pure.

A part waits its turn behind what clients ask, so the time that it takes tells how much there is to do. While that is
near the least of late there is room, and the next part follows at once; what it takes beyond that the copy rests.
"""

from __future__ import annotations

from collections import deque
from typing import Final

REST_S_MAX: Final = 0.5
PARTS_REMEMBERED: Final = 200
"""The least of so many is what a part takes without others: after a minute or so a load that stays is the measure."""
ROOM: Final = 2.0
"""Parts that take so many times the least still find room: they wait for a sync more or less."""


class Pacing:
    """Of one table's copy."""

    def __init__(self) -> None:
        self._lately: deque[float] = deque(maxlen=PARTS_REMEMBERED)

    def rest_s(self, took_s: float) -> float:
        """How long to rest after a part that took so long."""
        self._lately.append(took_s)
        return min(REST_S_MAX, max(0.0, took_s - ROOM * min(self._lately)))
