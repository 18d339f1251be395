"""Calls to a cluster's shards that no client makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.shards.shard_call import LEADER, NEAREST, ShardCall
from proto.methods import Access

if TYPE_CHECKING:
    from coordinator.shards.driver import Driver
    from coordinator.shards.request_ids import RequestIds
    from proto.catalog import TableEntry
    from proto.internal import frames_pb2 as frames


class OwnCalls:
    """Of all tables."""

    def __init__(self, driver: Driver, ids: RequestIds) -> None:
        self._driver = driver
        self._ids = ids

    async def ask(
        self, access: Access, method: frames.Method.ValueType, table: TableEntry, body: bytes, time_s: float
    ) -> frames.Reply:
        """A write under an id of its own, or a linearizable read. Raises what those may."""
        writes = access is Access.WRITE
        return await self._driver.ask(
            ShardCall(
                table.shard,
                LEADER,
                access,
                method,
                table.id,
                body,
                deadline=self._driver.time() + time_s,
                request_id=self._ids.draw() if writes else b"",
                linearizable=not writes,
            )
        )

    async def ask_nearest(
        self, method: frames.Method.ValueType, table: TableEntry, body: bytes, time_s: float
    ) -> frames.Reply:
        """A read, from a replica that may lag. Raises what one may."""
        deadline = self._driver.time() + time_s
        return await self._driver.ask(
            ShardCall(table.shard, NEAREST, Access.READ, method, table.id, body, deadline=deadline)
        )
