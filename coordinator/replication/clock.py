"""Time, where replication passes it: the event loop's in a process, virtual in the simulator."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol


class Clock(Protocol):
    """Time as it passes where this runs."""

    def time(self) -> float:
        """In seconds, from any beginning."""

    async def sleep(self, seconds: float) -> None:
        """Return after so long."""


class _LoopClock:
    """The running event loop's."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


LOOP_CLOCK: Final[Clock] = _LoopClock()
