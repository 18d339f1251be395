"""Moves leadership, and waits until the shard agrees that it has moved."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from tools.admin.shards import ShardView, view

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from config.process.names import ProcessName
    from proto.internal import frames_pb2 as frames

POLL_S: Final = 0.05


class Replicas(Protocol):
    """What replicas are asked."""

    def ask(self, names: Sequence[ProcessName]) -> dict[ProcessName, frames.ReplicaStatus]:
        """What they say of themselves; those that don't answer are left out."""

    def transfer(self, leader: ProcessName, target: ProcessName) -> str:
        """Ask a leader to hand over to a replica of its shard. Why it does not, or ""."""


class NotMoved(Exception):
    """Leadership stayed where it was; the text says why."""


def move_leadership(
    world: Replicas,
    shard: ShardView,
    target: ProcessName,
    *,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Have `target` lead; returns once it says that it does. Raises NotMoved: nobody leads yet, the leader refuses, or
    the target has not taken over within timeout_s."""
    leader = shard.leader
    if leader is None:
        raise NotMoved(f"shard {shard.shard} has no leader that could hand over")
    if leader == target:
        return
    deadline_s = clock() + timeout_s
    refusal = world.transfer(leader, target)
    if refusal:
        raise NotMoved(f"{leader} does not hand over to {target}: {refusal}")
    while True:
        now = view(shard.shard, shard.replicas, world.ask(shard.replicas)).leader
        if now == target:
            return
        if clock() >= deadline_s:
            stays = f"{now} leads" if now is not None else "nobody leads"
            raise NotMoved(f"{target} did not take over shard {shard.shard} within {timeout_s:g} s: {stays}")
        pause(POLL_S)
