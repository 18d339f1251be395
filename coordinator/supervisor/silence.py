"""Has a process that lives stopped doing anything? Pure: times come in as seconds of any steady clock."""

from __future__ import annotations

from typing import Final

WATCH_INTERVAL_S: Final = 0.5
"""How often the supervisor looks."""


class Silence:
    """How long one process has sent no beat, in time during which the supervisor itself was awake.

    Not in time of the clock: after a suspended machine wakes up, every process has been silent for hours, and none of
    them hangs. So a look adds what has passed since the last one, but never more than twice the interval: a supervisor
    that was away for hours adds a second, and hears the beats before it has looked often enough."""

    def __init__(self, limit_s: float, start_limit_s: float) -> None:
        """Of these, 0 means that nothing is ever too long. start_limit_s: until the first beat, or until it serves."""
        self.limit_s = start_limit_s
        """The one that counts now."""
        self._between_beats_s = limit_s
        self._silent_s: float | None = 0.0
        """None for one that serves and never beats: it is not watched."""
        self._has_beaten = False
        self._looked_s: float | None = None

    def beat(self) -> None:
        """It lives, as of the next look."""
        self._has_beaten, self.limit_s = True, self._between_beats_s
        self._silent_s = 0.0

    def serve(self) -> None:
        """It has begun to serve. Without a beat, nobody knows how it goes on."""
        if not self._has_beaten:
            self._silent_s = None

    def is_too_long(self, now_s: float) -> bool:
        """Look at it; whether it hangs."""
        passed_s = now_s - self._looked_s if self._looked_s is not None else 0.0
        self._looked_s = now_s
        if self._silent_s is None or not self.limit_s:
            return False
        self._silent_s += min(max(passed_s, 0.0), 2 * WATCH_INTERVAL_S)
        return self._silent_s > self.limit_s
