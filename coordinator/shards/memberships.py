"""Who the cluster's nodes are, by what replicas say of their shards' members, and by the cluster file where nobody has
said otherwise. A node is what etcd calls a member: it is one as long as it holds a replica, or founded the cluster and
never held one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from config.members import ShardMembers
from proto.ids import NodeId, ShardId
from proto.internal import frames_pb2 as frames
from proto.node_records import in_record, keys_of, members_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config import ClusterConfig
    from config.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A node as clients see it."""

    node: NodeId
    member_id: int
    name: str
    """Empty until it has started."""
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool


class Memberships:
    """The newest word on each shard's members."""

    def __init__(self, cluster: ClusterConfig, topology: Topology) -> None:
        self._cluster = cluster
        self._topology = topology
        self._of_file = {NodeId(node.id): node for node in cluster.nodes.values()}
        self._heard: dict[ShardId, tuple[ShardMembers, frames.Membership]] = {}

    def hear(self, shard: ShardId, state: frames.ReplicaState) -> None:
        """A replica has said who belongs to its shard."""
        told = ShardMembers(
            state.applied_index,
            members_of(state.membership),
            keys_of(state.membership),
            state.membership.generation,
        )
        before = self._heard.get(shard)
        if before is None or not told.is_older_than(before[0]):
            self._heard[shard] = told, state.membership
        self._topology.learn(shard, told)

    def of(self, shard: ShardId) -> frames.Membership | None:
        """The members of a shard, as far as a replica has said it."""
        found = self._heard.get(shard)
        return None if found is None else found[1]

    def record(self, node: NodeId) -> frames.NodeRecord:
        """Who a node is and where, by the word of its shards, or of the cluster file."""
        told = frames.NodeRecord()
        for _, membership in self._heard.values():
            for entry in membership.directory:
                record = in_record(entry.record)
                if entry.node == node and (record.name or not told.member_id):
                    told = record
        return told if told.member_id else self._record_of_file(node)

    def _record_of_file(self, node: NodeId) -> frames.NodeRecord:
        if node not in self._of_file:
            return frames.NodeRecord(member_id=int(node))
        return frames.NodeRecord(
            member_id=self._cluster.member_id(node),
            name=self._of_file[node].name,
            peer_urls=[f"http://{self._topology.peer_endpoint_of(node)}"],
            client_urls=[self._cluster.client_url(node)],
        )

    def member_id(self, node: int) -> int:
        """etcd's id of a node."""
        return self.record(NodeId(node)).member_id

    def members(self) -> list[Member]:
        """All nodes of the cluster, by their ids as members."""
        found = [self._member(node) for node in sorted(self.nodes())]
        return sorted(found, key=lambda member: member.member_id)

    def nodes(self) -> set[NodeId]:
        """The nodes that are members."""
        holding = {node for shard in self._topology.shards() for node in self._topology.replicas_of(shard)}
        founding = {
            NodeId(node.id) for shard in self._topology.shards() for node in self._cluster.founders(shard)
        }
        idle = {node for node, config in self._of_file.items() if not config.joins and node not in founding}
        return holding | idle

    def held_by(self, node: NodeId) -> list[ShardId]:
        """The shards that a node is a member of."""
        return [shard for shard in self._topology.shards() if node in self._topology.replicas_of(shard)]

    def learns(self, node: NodeId, shard: ShardId) -> bool:
        """Whether its replica has no vote."""
        membership = self.of(shard)
        return membership is not None and node in membership.learners

    def _member(self, node: NodeId) -> Member:
        record, shards = self.record(node), self.held_by(node)
        return Member(
            node=node,
            member_id=record.member_id,
            name=record.name,
            peer_urls=tuple(record.peer_urls),
            client_urls=tuple(record.client_urls),
            is_learner=bool(shards)
            and not record.promote
            and all(self.learns(node, shard) for shard in shards),
        )

    def new_node(self) -> NodeId:
        """The number of a node that comes now: higher than all that are known, or have left."""
        left = {NodeId(entry.node) for _, told in self._heard.values() for entry in told.departed}
        return NodeId(max({*self.nodes(), *self._of_file, *left}) + 1)

    def new_member_id(self, node: NodeId, peer_urls: Sequence[str]) -> int:
        """etcd's id of a node that comes now."""
        text = "\0".join(["member", self._cluster.cluster, str(node), *sorted(peer_urls)]).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) or 1
