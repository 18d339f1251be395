"""Numbers that must not be mixed up."""

from __future__ import annotations

from typing import NewType

NodeId = NewType("NodeId", int)
"""A node of the cluster, from 1. In frames 0 says: none."""
ShardId = NewType("ShardId", int)
"""A shard, from 1."""
