"""What the nodes of this machine have learned of who holds which shard, where that is not as the file founded it.

The truth is in each shard's own log (shardworker/replica/members.py). A node's coordinator hears of it from replicas
and tells its supervisor, which keeps it in the node's folder: so the node starts the right replicas before anybody
answers, and finds the others even if the file does not name them. What is kept may be old; replicas say what is newer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from config.durable_files import write_durably

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from config.models import ClusterConfig

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class ShardMembers:
    """The members of one shard."""

    index: int
    """Of the shard's log, by which they were that: of two the higher one is newer."""
    nodes: Mapping[int, str]
    """By id; host:port where the node's replicas begin to listen, or empty: as the cluster file says."""
    keys: Mapping[int, str] = field(default_factory=dict)
    """By id; public keys between nodes, of those whose shards were told."""
    generation: int = 0
    """Of the shard's group: what one of a higher generation says is newer, whatever the index."""

    def is_older_than(self, other: ShardMembers) -> bool:
        """Whether the other knows of changes that this does not."""
        return (self.generation, self.index) < (other.generation, other.index)


Members = dict[int, ShardMembers]
"""By shard."""


def file_of(cluster: ClusterConfig, node: str) -> Path:
    """Where a node's supervisor keeps it."""
    return cluster.node_dir(node) / "members.json"


def read(cluster: ClusterConfig, node: str) -> Members:
    """What a node of this machine has kept; nothing if it has learned of no change. Raises OSError, or ValueError for a
    damaged file."""
    try:
        found = json.loads(file_of(cluster, node).read_bytes())
    except FileNotFoundError:
        return {}
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{file_of(cluster, node)} is not of format {FORMAT}")
    if found.get("cluster") != cluster.cluster:
        return {}
    return {int(shard): from_event(event) for shard, event in found["shards"].items()}


def from_event(event: Mapping[str, Any]) -> ShardMembers:
    """What a coordinator has told. Raises KeyError, TypeError or ValueError."""
    nodes = {int(node): str(at) for node, at in event["nodes"].items()}
    keys = {int(node): str(key) for node, key in event.get("keys", {}).items()}
    return ShardMembers(int(event["index"]), nodes, keys, int(event.get("generation", 0)))


def to_event(members: ShardMembers) -> dict[str, Any]:
    """What from_event() reads."""
    return {
        "index": members.index,
        "nodes": dict(members.nodes),
        "keys": dict(members.keys),
        "generation": members.generation,
    }


def write(cluster: ClusterConfig, node: str, members: Members) -> None:
    """Keep it for a node. After a crash the file is the old one or the new one."""
    shards = {shard: to_event(found) for shard, found in members.items()}
    document = {"format": FORMAT, "cluster": cluster.cluster, "shards": shards}
    write_durably(file_of(cluster, node), json.dumps(document, indent=2) + "\n")


def newest_here(cluster: ClusterConfig) -> Members:
    """The newest that any node of this machine has kept. What cannot be read is left out."""
    newest: Members = {}
    for node in cluster.nodes:
        try:
            found = read(cluster, node)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        for shard, members in found.items():
            if shard not in newest or newest[shard].is_older_than(members):
                newest[shard] = members
    return newest


def with_members(cluster: ClusterConfig, members: Members) -> ClusterConfig:
    """The cluster as it is by these members."""
    named = {node.id for node in cluster.nodes.values()}
    keys = {node: key for found in members.values() for node, key in found.keys.items() if node not in named}
    holders = {shard: dict(found.nodes) for shard, found in members.items()}
    return cluster.model_copy(update={"holders": holders, "member_keys": keys})
