"""When a crashed process is started again. Pure: times come in as seconds of any steady clock."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config import SupervisorConfig


class RestartPolicy:
    """Exponential back-off, and an end to it.

    The wait doubles with each crash and starts over once the process has run for stable_ms. A process that
    crashes crashes_max times within crash_window_ms stays down: what fails that often needs a person, and its
    log must not be rotated away by the attempts."""

    def __init__(self, settings: SupervisorConfig) -> None:
        self._settings = settings
        self._crashes: deque[float] = deque()
        self._in_a_row = 0
        self._asked_last = False

    def asked(self, *, started_s: float, now_s: float) -> float | None:
        """As crashed(), for a process that asked to be started again: at once, and not counted as a crash.

        Unless it did so the last time too and ran for less than stable_ms since: what does nothing but ask would be
        started without end."""
        repeats = self._asked_last and (now_s - started_s) * 1000 < self._settings.stable_ms
        wait_s = self.crashed(started_s=started_s, now_s=now_s) if repeats else 0.0
        self._asked_last = True
        return wait_s

    def crashed(self, *, started_s: float, now_s: float) -> float | None:
        """Seconds to wait before the next start, or None to give up."""
        settings = self._settings
        self._asked_last = False
        if (now_s - started_s) * 1000 >= settings.stable_ms:
            self._in_a_row = 0
        self._crashes.append(now_s)
        while (now_s - self._crashes[0]) * 1000 > settings.crash_window_ms:
            self._crashes.popleft()
        if len(self._crashes) >= settings.crashes_max:
            return None
        # 2**40 ms is over any backoff_max_ms; the bound keeps the number small after many years.
        wait_ms = min(settings.backoff_max_ms, settings.backoff_min_ms * (1 << min(self._in_a_row, 40)))
        self._in_a_row += 1
        return wait_ms / 1000

    @property
    def crashes(self) -> int:
        """Crashes within the window that ends with the last one."""
        return len(self._crashes)

    def reset(self) -> None:
        """Someone asked for a start: earlier crashes no longer count."""
        self._crashes.clear()
        self._in_a_row = 0
        self._asked_last = False
