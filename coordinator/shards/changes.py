"""The question to a table's shard what has changed in the table, which any replica answers of what it has applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.shards.shard_call import ShardCall
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS

if TYPE_CHECKING:
    from coordinator.shards.driver import Driver
    from coordinator.shards.shard_call import Role
    from proto.catalog import TableEntry
    from proto.ids import ShardId

ANSWER_S: Final = 7.0
"""For an answer, on top of what the replica is asked to wait."""


async def ask_for_changes(
    driver: Driver,
    table: TableEntry,
    request: frames.ChangesRequest,
    *,
    target: Role,
    deadline: float | None = None,
) -> tuple[frames.Reply, ShardId]:
    """What a replica tells, and of which shard: if it is not the table's, that has nothing more to tell from there on.
    deadline: without one, ANSWER_S after the wait that the request asks for."""
    if deadline is None:
        deadline = driver.time() + request.wait_ms / 1000 + ANSWER_S
    call = ShardCall(
        table.shard,
        target,
        COMMANDS[frames.TABLE_CHANGES].access,
        frames.TABLE_CHANGES,
        table.id,
        request.SerializeToString(),
        deadline=deadline,
    )
    return await driver.ask(call), call.shard
