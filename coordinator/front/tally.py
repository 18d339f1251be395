"""How much is held for clients that have not taken it yet."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Tally:
    """Bytes of answers, on all connections that share it."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class Held:
    """The part of a tally that is held by a few who count together."""

    __slots__ = ("_freed", "_tally", "queued_bytes")

    def __init__(self, tally: Tally, freed: Callable[[], None]) -> None:
        """freed: called when less is held."""
        self._tally = tally
        self._freed = freed
        self.queued_bytes = 0

    @contextlib.contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """Hold so many more for a while."""
        self.queued_bytes += count
        self._tally.bytes += count
        try:
            yield
        finally:
            self.queued_bytes -= count
            self._tally.bytes -= count
            self._freed()
