"""The copies of a follower cluster, in their shards: where each stands, and what is applied to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.internal import frames_pb2 as frames
from proto.methods import Access
from proto.varint import varint

if TYPE_CHECKING:
    from coordinator.shards.own_calls import OwnCalls
    from proto.catalog import TableEntry

READ_S: Final = 5.0
WRITE_S: Final = 10.0


class Copies:
    """Of all tables."""

    def __init__(self, shards: OwnCalls) -> None:
        self._shards = shards

    async def status(self, copy: TableEntry) -> frames.TableStatus:
        """Where a copy stands, by a linearizable read."""
        reply = await self._shards.ask(Access.READ, frames.TABLE_STATUS, copy, b"", READ_S)
        return frames.TableStatus.FromString(reply.body)

    async def apply(self, copy: TableEntry, changes: bytes) -> int:
        """Have the copy's shard apply a frames.TableChanges, encoded as the leader cluster sent it; the revision at
        which the copy stands then. Raises ReplicationRefused, and what a write may."""
        reply = await self._shards.ask(
            Access.WRITE, frames.REPLICATE_CHANGES, copy, _beside_origin(copy, changes), WRITE_S
        )
        return reply.revision

    async def take_users(self, copy: TableEntry, users: bytes) -> None:
        """As apply(), of a frames.TableUsers, encoded."""
        await self._shards.ask(
            Access.WRITE, frames.REPLICATE_USERS, copy, _beside_origin(copy, users), WRITE_S
        )

    async def take_part(self, copy: TableEntry, part: bytes) -> int:
        """As apply(), of a part of a snapshot: a frames.TablePairs, encoded."""
        reply = await self._shards.ask(
            Access.WRITE, frames.REPLICATE_SNAPSHOT, copy, _beside_origin(copy, part), WRITE_S
        )
        return reply.revision

    async def follow(self, copy: TableEntry, commands: bytes, *, after: int) -> int:
        """As apply(), of what follows upon an index of the log of a cluster that speaks no replication but Regatta's: a
        replication.v1.ReplicateCommandsResponse, encoded. The index to which the copy has come then, which may be that
        of an earlier one of these; 0 if that is not known."""
        told = frames.FollowedCommands(origin=copy.origin, after=after, commands=commands)
        reply = await self._shards.ask(
            Access.WRITE, frames.FOLLOW_COMMANDS, copy, told.SerializeToString(), WRITE_S
        )
        return frames.FollowedIndex.FromString(reply.body).leader_index

    async def take_followed(
        self, copy: TableEntry, part: bytes, time_s: float, *, leader_index: int
    ) -> bytes:
        """As apply(), of a part of a snapshot from there: a frames.RestoredPart, encoded. leader_index: with its end,
        where the table stood. A frames.RestoredTable, encoded."""
        told = frames.FollowedPart(origin=copy.origin, part=part, leader_index=leader_index)
        reply = await self._shards.ask(
            Access.WRITE, frames.FOLLOW_SNAPSHOT, copy, told.SerializeToString(), time_s
        )
        return reply.body


def _beside_origin(copy: TableEntry, message: bytes) -> bytes:
    """A ReplicatedChanges or ReplicatedPairs around a message that is encoded already, and may be large."""
    return b"".join((b"\x08", varint(copy.origin), b"\x12", varint(len(message)), message))
