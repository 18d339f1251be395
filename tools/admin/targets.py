"""TARGET on the command line: which processes it means. Pure.

n1                all processes of a node
n1/coordinator    one process, or where a node has several of a kind, all of them
n1/coordinator-2  one of several
n1/shard-2        one replica
shard-2           all replicas of a shard"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from config.process.names import SHARDWORKER, ProcessName, processes_of

if TYPE_CHECKING:
    from config import ClusterConfig

_SHARD = re.compile(rf"{SHARDWORKER.stem}-([0-9]{{1,9}})")


class UnknownTarget(ValueError):
    """The cluster has no such process; the text says which it has."""


def resolve(cluster: ClusterConfig, target: str) -> list[ProcessName]:
    """The processes that a TARGET names, never none. Raises UnknownTarget."""
    shard = _SHARD.fullmatch(target)
    if shard:
        number = _shard(cluster, int(shard[1]))
        return [ProcessName.replica(node.name, number) for node in cluster.replica_nodes(number)]
    node, slash, local = target.partition("/")
    if node not in cluster.nodes:
        raise UnknownTarget(
            f"{target} names no node of cluster {cluster.cluster} ({', '.join(cluster.nodes)}); "
            f"a target is n1, n1/coordinator, n1/shard-2 or shard-2"
        )
    found = [
        name for name in processes_of(cluster, node) if not slash or local in (name.local, name.kind.stem)
    ]
    if not found:
        known = ", ".join(name.local for name in processes_of(cluster, node))
        raise UnknownTarget(f"node {node} has no {local or 'process without a name'}; it has {known}")
    return found


def everything(cluster: ClusterConfig) -> list[ProcessName]:
    """All processes of a cluster."""
    return [name for node in cluster.nodes for name in processes_of(cluster, node)]


def _shard(cluster: ClusterConfig, number: int) -> int:
    if not 1 <= number <= cluster.shards:
        raise UnknownTarget(
            f"there is no shard {number}; cluster {cluster.cluster} has shards 1 to {cluster.shards}"
        )
    return number
