"""Changes the members of shards, by asking their leaders; and says of this node who it is, once it has joined."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from coordinator.shards.shard_call import LEADER, ShardCall
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from collections.abc import Callable

    from config import ClusterConfig, NodeConfig
    from coordinator.shards.driver import Driver
    from coordinator.shards.memberships import Memberships
    from coordinator.shards.replica_status import ReplicaStatuses
    from proto.ids import NodeId, ShardId

log = structlog.get_logger()

AGAIN_S: Final = 0.1
"""A change that another one is in the way of is asked for again after so long."""
PUBLISH_S: Final = 1.0
"""How often a node that has joined looks whether its shards know its name."""

Step = frames.MembershipStep


class MemberChanges:
    """One change of one shard at a time."""

    def __init__(self, driver: Driver, statuses: ReplicaStatuses, memberships: Memberships) -> None:
        self._driver = driver
        self._statuses = statuses
        self._memberships = memberships

    async def change(self, shard: ShardId, step: frames.MembershipStep, deadline: float) -> None:
        """Have it made; it is applied when this returns. Raises MembershipError, NoLeader, ReadTimedOut."""
        while True:
            try:
                await self._ask(shard, frames.ChangeMembership(steps=[step]), deadline)
            except errors.ChangeUnderWay:
                if self._driver.time() + AGAIN_S >= deadline:
                    raise
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def check(self, shard: ShardId, step: frames.MembershipStep, deadline: float) -> None:
        """Whether it could be made now. Raises as change()."""
        await self._ask(shard, frames.ChangeMembership(steps=[step], only_check=True), deadline)

    async def _ask(self, shard: ShardId, change: frames.ChangeMembership, deadline: float) -> None:
        body = change.SerializeToString()
        call = ShardCall(shard, LEADER, Access.LEADER, frames.CHANGE_MEMBERSHIP, 0, body, deadline=deadline)
        await self._driver.ask(call)

    async def active_voters(self, shard: ShardId) -> tuple[set[int], set[int]]:
        """The voters of a shard, and those of them that its leader has heard from lately. Raises NoLeader."""
        leader = self._driver.routes(shard).leader
        if leader is None:
            raise errors.NoLeader(f"shard {shard}")
        status = await self._statuses.ask(shard, leader)
        active = {peer.node for peer in status.progress if peer.active} | {status.node}
        voters = set(status.membership.voters)
        return voters, voters & active

    async def publish(
        self, cluster: ClusterConfig, node: NodeConfig, here: NodeId, become: Callable[[int], object]
    ) -> None:
        """Tell the shards that this node has joined, by its number, what it is called and where its clients come, for
        ever; and tell `become` as which member. Who founded the cluster is known from its file."""
        while True:
            await asyncio.sleep(PUBLISH_S)
            become(self._memberships.member_id(here))
            for shard in self._memberships.held_by(here):
                try:
                    await self._publish(shard, cluster, node, here)
                except errors.BoathouseError as error:
                    log.warning(
                        "the shard does not know this node's name yet", shard=shard, reason=str(error)
                    )

    async def _publish(self, shard: ShardId, cluster: ClusterConfig, node: NodeConfig, here: NodeId) -> None:
        membership = self._memberships.of(shard)
        known = {} if membership is None else {entry.node: entry.record for entry in membership.directory}
        if here not in known:
            return
        record = frames.NodeRecord.FromString(known[here])
        url = cluster.client_url(node.id)
        if (record.name, list(record.client_urls)) == (node.name, [url]):
            return
        record.name, record.client_urls[:] = node.name, [url]
        deadline = self._driver.time() + cluster.limits.write_timeout_ms / 1000
        await self.change(shard, Step(kind=Step.UPDATE, node=here, record=record), deadline)
