"""Which nodes hold a shard's replicas. Pure: every process of the cluster computes the same answer from the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

N = TypeVar("N")


def rotation(nodes: Sequence[N], shard: int, replicas: int) -> tuple[N, ...]:
    """`replicas` distinct nodes for a shard (counted from 1), its preferred leader first.

    Consecutive shards start one node further round, so preferred leaders and replicas spread evenly: no node leads
    more than one shard more than another. Nothing but the order of `nodes` matters, so give them in the order of
    their ids, which stays the same when lines move in the file."""
    assert 1 <= replicas <= len(nodes)
    assert shard >= 1
    first = (shard - 1) % len(nodes)
    return tuple(nodes[(first + step) % len(nodes)] for step in range(replicas))
