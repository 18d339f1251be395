"""Who is where: which nodes hold a replica of a shard, and where each is reached.

Whoever needs to know asks a Topology, and nobody else asks the cluster file. What that says, and what the node has
learned before (config/members.py), is where a process begins. A replica needs no more: its shard's log tells the rest.
A coordinator hears from replicas who their shard's members are, and passes on what changed through `changes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from proto.ids import NodeId, ShardId

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from config.members import ShardMembers
    from config.models import ClusterConfig


_PORT_MAX: Final = 65_535


class Topology(Protocol):
    """Where everything is, now."""

    def shards(self) -> Sequence[ShardId]:
        """All shards, ascending."""

    def replicas_of(self, shard: ShardId) -> Sequence[NodeId]:
        """The nodes that hold a replica of it. Their order means nothing: no replica is preferred as leader."""

    def shards_on(self, node: NodeId) -> Sequence[ShardId]:
        """The shards that have a replica on a node, ascending."""

    def address_of(self, node: NodeId, shard: ShardId, *, seen_from: NodeId | None = None) -> str:
        """The ZeroMQ endpoint of a replica, as a process on the node seen_from reaches it; None: from any node."""

    def peer_endpoint_of(self, node: NodeId) -> str:
        """host:port where the replicas of a node begin to listen: what an API calls its peer address."""

    def group_of(self, shard: ShardId) -> int:
        """Envelope.group: tells this cluster's shard from any other on a clashing port."""

    def member_keys(self) -> dict[NodeId, bytes]:
        """Public keys between nodes, of those whose shards were told, by the newest words."""

    def changes(self, notify: Callable[[ShardId], None]) -> None:
        """Have notify called for each shard whose replicas, their addresses or keys have changed, from now on."""

    def learn(self, shard: ShardId, members: ShardMembers) -> None:
        """A replica has said who its shard's members are."""


class FileTopology:
    """What the cluster file says, and the node has learned before."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self._cluster = cluster

    def shards(self) -> Sequence[ShardId]:
        return [ShardId(number) for number in range(1, self._cluster.shards + 1)]

    def replicas_of(self, shard: ShardId) -> Sequence[NodeId]:
        return [NodeId(node) for node in self._cluster.replica_ids(shard)]

    def shards_on(self, node: NodeId) -> Sequence[ShardId]:
        return [ShardId(shard) for shard in self._cluster.shards_of(node)]

    def address_of(self, node: NodeId, shard: ShardId, *, seen_from: NodeId | None = None) -> str:
        cluster = self._cluster
        return cluster.worker_ipc(node, shard) if seen_from == node else cluster.worker_tcp(node, shard)

    def peer_endpoint_of(self, node: NodeId) -> str:
        return self._cluster.worker_tcp(node, 1).removeprefix("tcp://")

    def member_keys(self) -> dict[NodeId, bytes]:
        return {NodeId(node): key.encode() for node, key in self._cluster.member_keys.items() if key}

    def group_of(self, shard: ShardId) -> int:
        return self._cluster.group(shard)

    def changes(self, notify: Callable[[ShardId], None]) -> None:
        """A file is read once."""

    def learn(self, shard: ShardId, members: ShardMembers) -> None:
        """It stays as it was."""


class LearningTopology(FileTopology):
    """Goes by what replicas say of their shards."""

    def __init__(self, cluster: ClusterConfig) -> None:
        super().__init__(cluster)
        self._learned: dict[ShardId, ShardMembers] = {}
        self._notify: list[Callable[[ShardId], None]] = []

    def members_of(self, shard: ShardId) -> ShardMembers | None:
        """What replicas have said last of who belongs to their shard; None before they have."""
        return self._learned.get(shard)

    def replicas_of(self, shard: ShardId) -> Sequence[NodeId]:
        learned = self._learned.get(shard)
        return (
            super().replicas_of(shard)
            if learned is None
            else [NodeId(node) for node in sorted(learned.nodes)]
        )

    def member_keys(self) -> dict[NodeId, bytes]:
        """Public keys between nodes, of those whose shards were told, by the newest words."""
        told = (members.keys for members in self._learned.values())
        return super().member_keys() | {
            NodeId(node): key.encode() for keys in told for node, key in keys.items()
        }

    def shards_on(self, node: NodeId) -> Sequence[ShardId]:
        return [shard for shard in self.shards() if node in self.replicas_of(shard)]

    def address_of(self, node: NodeId, shard: ShardId, *, seen_from: NodeId | None = None) -> str:
        """As told, if that can be a node's address: a build that did not look took any. Else as the file has it. Raises
        KeyError for a node that it does not name."""
        learned = self._learned.get(shard)
        at = "" if learned is None else learned.nodes.get(node, "")
        host, _, first = at.rpartition(":")
        port = int(first or 0) + shard - 1
        if seen_from == node or not host or port > _PORT_MAX:
            return super().address_of(node, shard, seen_from=seen_from)
        return f"tcp://{host}:{port}"

    def changes(self, notify: Callable[[ShardId], None]) -> None:
        self._notify.append(notify)

    def learn(self, shard: ShardId, members: ShardMembers) -> None:
        before = self._learned.get(shard)
        if before is not None and members.is_older_than(before):
            return
        self._learned[shard] = members
        if before is None or (dict(before.nodes), dict(before.keys)) != (
            dict(members.nodes),
            dict(members.keys),
        ):
            for notify in self._notify:
                notify(shard)
