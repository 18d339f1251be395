"""Streams that insist on a leader end once their shard has had none for too long."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proto import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proto.catalog import TableEntry

CHECK_S: Final = 0.5


@dataclass(slots=True)
class _Guard:
    """One table, for as long as any stream insists on a leader of its shard."""

    table: TableEntry
    limits: set[asyncio.Timeout] = field(default_factory=set)
    """What ends the streams."""
    leaderless_s: float = 0.0


class LeaderVigil:
    """Looks for the leaders of the tables that streams insist on."""

    def __init__(self, has_leader: Callable[[TableEntry], bool], *, patience_s: float) -> None:
        """has_leader: whether one is known of the table's shard. patience_s: how long there may be none."""
        self._has_leader = has_leader
        self._patience_s = patience_s
        self._guards: dict[int, _Guard] = {}
        """By table id."""
        self._looking: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def while_led(self, table: TableEntry) -> AsyncIterator[None]:
        """Ends the block, wherever it waits, by NoLeader once the table's shard has had no leader for too long."""
        guard = self._guards.setdefault(table.id, _Guard(table))
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="leaders that streams insist on")
        try:
            async with asyncio.timeout(None) as limit:
                guard.limits.add(limit)
                yield
        except TimeoutError:
            if limit.expired():
                raise errors.NoLeader(f"shard {table.shard}") from None
            raise
        finally:
            guard.limits.discard(limit)
            if not guard.limits:
                self._guards.pop(table.id, None)
            if not self._guards and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CHECK_S)
            for guard in self._guards.values():
                guard.leaderless_s = 0.0 if self._has_leader(guard.table) else guard.leaderless_s + CHECK_S
                if guard.leaderless_s >= self._patience_s:
                    while guard.limits:
                        guard.limits.pop().reschedule(loop.time())
