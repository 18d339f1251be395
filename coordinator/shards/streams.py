"""An answer in parts that only one replica can give, because it holds what the parts are taken from.

Which replica that is was decided by whoever answered first; from then on there is no other. When it goes away, the
stream ends with CursorNotFound: nobody else has its view.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.shards.router import Call
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
        self._step_timeout_s = step_timeout_s

    async def parts(self) -> AsyncGenerator[frames.Reply, None]:
        """All of them, the first one too. Raises CursorNotFound if the replica or its cursor is gone."""
        yield self._first
        while self._cursor:
            reply = await self._driver.ask(
                Call(
                    self.table.shard,
                    self._node,
                    Access.REPLICA,
                    frames.CURSOR_NEXT,
                    self.table.id,
                    b"",
                    deadline=self._driver.time() + self._step_timeout_s,
                    cursor=self._cursor,
                )
            )
            self._cursor = reply.cursor
            yield reply

    def close(self) -> None:
        """Nobody reads on: what the replica holds for this stream is for others."""
        if self._cursor:
            self._driver.close_cursor(self.table.shard, self._node, self._cursor)
            self._cursor = 0
