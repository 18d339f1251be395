"""What a replica has applied since its process began: for figures."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from proto.histogram import DISK_BOUNDS_S, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proto.internal import frames_pb2 as frames

SLOW_S: Final = 0.1
"""Applying the entries of a turn is slow from here on, as in etcd."""


class Applied:
    """Counts, and how long it took."""

    def __init__(self) -> None:
        self._commands: Counter[int] = Counter()
        self._turns = Histogram(DISK_BOUNDS_S)
        self._slow_count = 0

    def turn(self, commands: Iterable[frames.Command], seconds: float) -> None:
        """A turn has applied these, and more than none."""
        self._commands.update([command.method for command in commands])
        self._turns.observe(seconds)
        if seconds > SLOW_S:
            self._slow_count += 1

    def tell(self, status: frames.ReplicaStatus) -> None:
        """Add what there is to say."""
        status.commands.update(self._commands)
        status.durations["apply"].CopyFrom(self._turns.to_frame())
        status.statistics["commands_applied"] = self._commands.total()
        status.statistics["slow_applies"] = self._slow_count
