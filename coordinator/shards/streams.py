"""An answer in parts that only one replica can give, because it holds what the parts are taken from.

Which replica that is was decided by whoever answered first; from then on there is no other. When it goes away, the
stream ends with CursorNotFound: nobody else has its view.

While a part is on its way to the client, the replica makes the next one. So a stream holds two at a time, and no more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coordinator.shards.shard_call import ShardCall
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coordinator.shards.driver import Driver
    from proto.catalog import TableEntry
    from proto.ids import NodeId


class PinnedStream:
    """The parts of one answer; close() it in any case."""

    def __init__(
        self, driver: Driver, table: TableEntry, node: NodeId, first: frames.Reply, *, step_timeout_s: float
    ) -> None:
        """first was answered by the replica on node. step_timeout_s bounds each further part; the whole may take as
        long as its client reads on."""
        self.table = table
        """The table that is read, as the call that began the stream found it."""
        self._driver = driver
        self._node = node
        self._first = first
        self._cursor = first.cursor
        self._following: asyncio.Task[frames.Reply] | None = None
        self._step_timeout_s = step_timeout_s

    async def parts(self) -> AsyncGenerator[frames.Reply, None]:
        """All of them, the first one too. Raises CursorNotFound if the replica or its cursor is gone."""
        reply = self._first
        while reply.cursor:
            following = self._following = asyncio.ensure_future(self._next(reply.cursor))
            following.add_done_callback(_retrieve)
            yield reply
            reply = await following
            self._cursor = reply.cursor
        yield reply

    async def _next(self, cursor: int) -> frames.Reply:
        return await self._driver.ask(
            ShardCall(
                self.table.shard,
                self._node,
                Access.REPLICA,
                frames.CURSOR_NEXT,
                self.table.id,
                b"",
                deadline=self._driver.time() + self._step_timeout_s,
                cursor=cursor,
            )
        )

    def close(self) -> None:
        """Nobody reads on: what the replica holds for this stream is for others."""
        if self._following is not None:
            self._following.cancel()
        if self._cursor:
            self._driver.close_cursor(self.table.shard, self._node, self._cursor)
            self._cursor = 0


def _retrieve(task: asyncio.Task[frames.Reply]) -> None:
    """Whoever reads may have gone; the error is then nobody's."""
    if not task.cancelled():
        task.exception()
