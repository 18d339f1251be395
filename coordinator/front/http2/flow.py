"""Flow control (RFC 9113, 5.2 and 6.9): what a peer granted us to send, and what we granted it."""

from __future__ import annotations

from typing import Final

UPDATE_SHARE: Final = 2
"""A window is filled up when this fraction of it has been used: half, so that a sender never has to stop for it."""


class ReceiveWindow:
    """Bytes that the peer may still send on a connection. They are given back as they come."""

    __slots__ = ("left", "size", "used")

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = size
        self.used = 0

    def take(self, count: int) -> int:
        """Count bytes came. How many to give back now, mostly 0; negative: they were more than allowed."""
        self.left -= count
        if self.left < 0:
            return -1
        self.used += count
        if self.used * UPDATE_SHARE < self.size:
            return 0
        given, self.used = self.used, 0
        self.left += given
        return given
