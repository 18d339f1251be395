"""Which nodes hold a shard's replicas. Pure: every process computes the same answer from the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

N = TypeVar("N")


def rotation(nodes: Sequence[N], shard: int, replicas: int) -> tuple[N, ...]:
    """`replicas` distinct nodes for a shard (counted from 1), in placement order, which prefers nobody as leader.

    Consecutive shards start one node further round, so replicas spread evenly. Only the order of `nodes`
    matters, so give them in the order of their ids, which stays the same when lines move in the file."""
    assert 1 <= replicas <= len(nodes)
    assert shard >= 1
    first = (shard - 1) % len(nodes)
    return tuple(nodes[(first + step) % len(nodes)] for step in range(replicas))
