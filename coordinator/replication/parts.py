"""The parts of a snapshot on their way to the copy's shard: in order, and some at a time.

While one is applied the next ones arrive, so that both clusters, and what is between them, work at once. A shard that
changes its leader meanwhile may get one of them ahead of another, and refuses it: it is then sent once more, when all
that were ahead of it have been taken."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from proto import errors

if TYPE_CHECKING:
    from coordinator.replication.clock import Started, Starter
    from coordinator.replication.copies import Copies
    from proto.catalog import TableEntry

UNDER_WAY_MAX: Final = 3
"""One that is applied, one that waits for that, and one that comes: more only take memory."""


class PartsUnderWay:
    """Of one snapshot. give_up() in any case."""

    def __init__(self, copies: Copies, copy: TableEntry, starter: Starter) -> None:
        self._copies = copies
        self._copy = copy
        self._starter = starter
        self._parts: deque[tuple[bytes, Started[int]]] = deque()

    async def add(self, part: bytes) -> bool:
        """Send the next one, and return once there is room for another: whether an earlier one was taken meanwhile.
        Raises what taking one may."""
        self._parts.append((part, self._starter.start(self._copies.take_part(self._copy, part))))
        if len(self._parts) < UNDER_WAY_MAX:
            return False
        await self._first()
        return True

    async def finish(self) -> int:
        """All of them were added: the copy's revision once the last one has put the snapshot in place."""
        revision = 0
        while self._parts:
            revision = await self._first()
        return revision

    async def _first(self) -> int:
        part, taken = self._parts.popleft()
        try:
            return await taken
        except errors.SnapshotInterrupted:
            return await self._copies.take_part(self._copy, part)

    def give_up(self) -> None:
        """Wait for none of those that are under way; some of them may still be taken."""
        while self._parts:
            _, taken = self._parts.popleft()
            taken.cancel()
