"""How many ticks of the Raft clock have passed, and what is heard before them."""

from __future__ import annotations

from typing import Final

CATCH_UP_TICKS_MAX: Final = 2
"""A loop that comes late makes up for so many ticks that matter."""


class Ticks:
    """Turns a steady clock of any unit into ticks, for a loop that may sleep over ticks which do nothing.

    The first tick that does something (an election, a heartbeat) comes after what has arrived meanwhile: the leader's
    own message may lie in the socket. After a pause (SIGSTOP, a suspended machine) it is held back for one more tick,
    because ZeroMQ's thread stood still too, and missed ticks are not made up for."""

    def __init__(self, tick: float, now: float) -> None:
        """A tick is so long; the first begins now."""
        self._tick = tick
        self._last = now
        self._held_back = False
        self.missed = 0
        """Of the last call: ticks that have passed and are not made up for."""

    def due(self, until_action: int) -> float:
        """When the tick comes that does something, if it is so many ticks away."""
        return self._last + until_action * self._tick

    def passed(self, now: float, until_action: int) -> tuple[int, int]:
        """Ticks since the last call: those before what has arrived, and those after it."""
        elapsed = int((now - self._last) / self._tick)
        self.missed = 0
        if elapsed == 0:
            return 0, 0
        self._last += elapsed * self._tick
        # Not twice in a row: a loop that is always late has to act too.
        self._held_back = elapsed > until_action + CATCH_UP_TICKS_MAX and not self._held_back
        if self._held_back:
            self.missed = elapsed - (until_action - 1)
            return until_action - 1, 0
        ticks = min(elapsed, max(CATCH_UP_TICKS_MAX, until_action))
        self.missed = elapsed - ticks
        before = min(ticks, until_action - 1)
        return before, ticks - before
