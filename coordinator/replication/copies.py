"""The copies of a follower cluster, in their shards: where each stands, and what is applied to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.shards.router import LEADER, Call
from proto.internal import frames_pb2 as frames
from proto.methods import Access
from proto.varint import varint

if TYPE_CHECKING:
    from coordinator.shards.driver import Driver
    from coordinator.shards.request_ids import RequestIds
    from proto.catalog import TableEntry

READ_S: Final = 5.0
WRITE_S: Final = 10.0


class Shards:
    """Calls to the leaders of this cluster's shards, by the replicator itself."""

    def __init__(self, driver: Driver, ids: RequestIds) -> None:
        self._driver = driver
        self._ids = ids

    async def ask(
        self, access: Access, method: frames.Method.ValueType, table: TableEntry, body: bytes, time_s: float
    ) -> frames.Reply:
        """A write under an id of its own, or a linearizable read. Raises what those may."""
        writes = access is Access.WRITE
        return await self._driver.ask(
            Call(
                table.shard,
                LEADER,
                access,
                method,
                table.id,
                body,
                deadline=self._driver.time() + time_s,
                request_id=self._ids.draw() if writes else b"",
                linearizable=not writes,
            )
        )


class Copies:
    """Of all tables."""

    def __init__(self, shards: Shards) -> None:
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

    async def take_part(self, copy: TableEntry, part: bytes) -> int:
        """As apply(), of a part of a snapshot: a frames.TablePairs, encoded."""
        reply = await self._shards.ask(
            Access.WRITE, frames.REPLICATE_SNAPSHOT, copy, _beside_origin(copy, part), WRITE_S
        )
        return reply.revision


def _beside_origin(copy: TableEntry, message: bytes) -> bytes:
    """A ReplicatedChanges or ReplicatedPairs around a message that is encoded already, and may be large."""
    return b"".join((b"\x08", varint(copy.origin), b"\x12", varint(len(message)), message))
