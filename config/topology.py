"""Who is where: which nodes hold a replica of a shard, and where each is reached.

Whoever needs to know asks a Topology, and nobody else asks the cluster file. Today its one source is that file, which
does not change while a process runs; a source that changes tells so through `changes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from proto.ids import NodeId, ShardId

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from config.models import ClusterConfig


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

    def changes(self, notify: Callable[[ShardId], None]) -> None:
        """Have notify called for each shard whose replicas or their addresses have changed, from now on."""


class FileTopology:
    """What the cluster file says."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self._cluster = cluster

    def shards(self) -> Sequence[ShardId]:
        return [ShardId(number) for number in range(1, self._cluster.shards + 1)]

    def replicas_of(self, shard: ShardId) -> Sequence[NodeId]:
        return [NodeId(node.id) for node in self._cluster.replica_nodes(shard)]

    def shards_on(self, node: NodeId) -> Sequence[ShardId]:
        return [ShardId(shard) for shard in self._cluster.shards_of(node)]

    def address_of(self, node: NodeId, shard: ShardId, *, seen_from: NodeId | None = None) -> str:
        cluster = self._cluster
        return cluster.worker_ipc(node, shard) if seen_from == node else cluster.worker_tcp(node, shard)

    def peer_endpoint_of(self, node: NodeId) -> str:
        return self._cluster.worker_tcp(node, 1).removeprefix("tcp://")

    def group_of(self, shard: ShardId) -> int:
        return self._cluster.group(shard)

    def changes(self, notify: Callable[[ShardId], None]) -> None:
        """A file is read once."""
