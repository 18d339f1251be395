"""Frames that bring no work and cost a peer nothing to send: they are counted, and too many end the connection.

They are forgotten with time and with work done, since some of them come with any work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.front.http2.frames import ConnectionFault, ErrorCode

if TYPE_CHECKING:
    from coordinator.front.limits import Limits


class Nuisance:
    """Of one connection."""

    __slots__ = ("_heard_at", "_limits", "_marked_at", "count", "marked_stream")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._heard_at = 0.0
        self._marked_at = 0.0
        self.count = 0.0
        """What is not forgotten yet."""
        self.marked_stream = 0
        """The last that was opened when a moment began: to reset one up to it is no nuisance (Limits.moment_s)."""

    def pass_time(self, now: float, last_stream: int) -> None:
        """The peer is heard at that time, and has opened streams up to this one by then."""
        if now - self._marked_at >= self._limits.moment_s:
            self._marked_at, self.marked_stream = now, last_stream
        if self.count:
            passed = now - self._heard_at
            self.count = max(0.0, self.count - passed * self._limits.nuisance_per_s)
        self._heard_at = now

    def add(self, weight: int = 1) -> ConnectionFault | None:
        """Count a frame, as so many if it costs as much as they do; what that leads to, if it is one too many."""
        self.count += weight
        if self.count > self._limits.nuisance_max:
            return ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without work in them")
        return None

    def forgive(self) -> None:
        """Work was done: forget what comes with it."""
        if self.count:
            self.count = max(0.0, self.count - self._limits.nuisance_per_work)
