"""What the parts of a worker are told of the cluster file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.raft import Membership, NodeId, Settings
from shardworker.store import StoreSettings

if TYPE_CHECKING:
    from config import ClusterConfig
    from shardworker.store import ReplicaStore


def raft_settings(cluster: ClusterConfig, node: NodeId) -> Settings:
    """Of the core of a replica on this node."""
    raft = cluster.raft
    return Settings(
        node=node,
        election_ticks=raft.election_ticks,
        heartbeat_ticks=raft.heartbeat_ticks,
        append_bytes_max=raft.append_bytes_max,
        inflight_appends_max=raft.inflight_appends_max,
        inflight_bytes_max=raft.inflight_bytes_max,
        uncommitted_bytes_max=raft.uncommitted_bytes_max,
        eager_commit=False,  # the loop announces commits that no append carries along (loop.ANNOUNCE_S)
    )


def store_settings(cluster: ClusterConfig) -> StoreSettings:
    """Of a replica's database."""
    store = cluster.store
    return StoreSettings(
        cache_bytes=store.page_cache_bytes,
        checkpoint_wal_bytes=store.checkpoint_wal_bytes,
        wal_bytes_max=4 * store.checkpoint_wal_bytes,
    )


def is_alone(node: int, founders: Membership) -> bool:
    """Whether this node's replica is all of its shard."""
    return founders.voters == {NodeId(node)}


def begin_alone(store: ReplicaStore, founders: Membership) -> None:
    """A new replica that is all of its shard has nobody to ask (replica/census.py): it begins."""
    if is_alone(store.identity.node, founders) and not store.membership.voters and store.rebuild is None:
        with store.turn(sync=True) as turn:
            turn.set_membership(founders)
