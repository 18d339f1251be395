"""What replicas say about themselves: asked for one by one, never routed to the leader."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from coordinator.shards.shard_call import ShardCall
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from coordinator.shards.driver import Driver
    from proto.ids import NodeId, ShardId

ANSWER_TIMEOUT_S: Final = 1.0
"""A replica does not wait for anything to answer this; one that takes longer counts as gone."""
OTHERS_TIMEOUT_S: Final = 0.2
"""Of those that are asked beside the nearest for somebody who waits a second in all, as kubelet does for a probe."""


class ReplicaStatuses:
    """Asks replicas for their status."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def ask(
        self, shard: ShardId, node: NodeId, *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> frames.ReplicaStatus:
        """One replica's status. Raises NoLeader (out of reach) or ReadTimedOut."""
        call = ShardCall(
            shard,
            node,
            Access.REPLICA,
            frames.REPLICA_STATUS,
            0,
            b"",
            deadline=self._driver.time() + timeout_s,
        )
        return frames.ReplicaStatus.FromString((await self._driver.ask(call)).body)

    async def nearest(self, shard: ShardId) -> frames.ReplicaStatus:
        """The status of the local replica, or of another one while that does not answer. Raises NoLeader."""
        routes = self._driver.routes(shard)
        first = routes.nearest()
        others = [node for node in routes.nodes if node != first]
        for node in ([] if first is None else [first]) + others:
            try:
                return await self.ask(shard, node)
            except errors.BoathouseError:
                continue
        raise errors.NoLeader(f"no replica of shard {shard} answers")

    async def nearest_first(self, shard: ShardId) -> list[frames.ReplicaStatus]:
        """As nearest(), and then the statuses of the others that answer at once. Raises NoLeader."""
        first = await self.nearest(shard)
        others = [(shard, node) for node in self._driver.routes(shard).nodes if node != first.node]
        answers = await self._ask_all(others, timeout_s=OTHERS_TIMEOUT_S)
        return [first, *(answer for answer in answers if answer is not None)]

    async def on(self, node: NodeId, shards: Sequence[ShardId]) -> dict[ShardId, frames.ReplicaStatus | None]:
        """By shard, the statuses of a node's replicas; None for one that does not answer in time."""
        answers = await self._ask_all((shard, node) for shard in shards)
        return dict(zip(shards, answers, strict=True))

    async def everywhere(self, shard: ShardId) -> list[frames.ReplicaStatus]:
        """The statuses of all replicas that answer in time, by node."""
        answers = await self._ask_all((shard, node) for node in self._driver.routes(shard).nodes)
        return sorted((answer for answer in answers if answer is not None), key=lambda status: status.node)

    async def _ask_all(
        self, replicas: Iterable[tuple[ShardId, NodeId]], *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> list[frames.ReplicaStatus | None]:
        """The statuses of these (shard, node), all asked at once; None for one that does not answer in time."""
        asked = (self.ask(shard, node, timeout_s=timeout_s) for shard, node in replicas)
        answers: list[frames.ReplicaStatus | None] = []
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(answer, errors.BoathouseError):
                answers.append(None)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                answers.append(answer)
        return answers


def table_revision(status: frames.ReplicaStatus, table_id: int) -> int:
    """The table's revision at that replica; 0 if it has no such table."""
    return next((table.revision for table in status.tables if table.id == table_id), 0)
