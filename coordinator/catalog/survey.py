"""What the shards hold, whatever the catalog says of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from proto import catalog, errors
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordinator.catalog.contents import Contents
    from coordinator.shards.replica_status import ReplicaStatuses
    from proto.catalog import TableEntry

BYTES_STEP: Final = 64 << 20
KEYS_STEP: Final = 100_000
"""Shards that differ by less have the same load: logs and free pages alone come to as much."""


class Load(NamedTuple):
    """What a shard has to carry, the heaviest part first."""

    bytes_steps: int = 0
    keys_steps: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """See the module."""

    tables: Sequence[TableEntry]
    """By id. One that a replica alone still has, because it lags, is among them; one on its way to another shard is
    only where it comes from."""
    moves: Mapping[tuple[int, ShardId], tuple[ShardId, int]]
    """Of tables on their way, by table id and where they come from: where they go, and the move's number."""
    highest_id: int
    """Of these tables, and of those that were deleted."""
    loads: Mapping[ShardId, Load]

    def emptiest(self, seen: Contents) -> ShardId:
        """The shard with the least data; among equals the one with the fewest tables, the catalog counted, the first of
        several."""
        counts = Counter(entry.shard for entry in seen.entries.values())
        return min(self.loads, key=lambda shard: (self.loads[shard], counts[shard], shard))


async def survey_shards(statuses: ReplicaStatuses, shards: Sequence[ShardId]) -> Survey:
    """What they hold. Raises NoLeader for a shard whose leader does not answer."""
    found: set[TableEntry] = set()
    highest_id = 0
    loads = {}
    moves: dict[tuple[int, ShardId], tuple[ShardId, int]] = {}
    for shard, replicas in zip(
        shards,
        await asyncio.gather(*(statuses.everywhere(shard) for shard in shards)),
        strict=True,
    ):
        leader = _leader_among(replicas)
        if leader is None:
            raise errors.NoLeader(f"shard {shard} has no leader that could say which tables it holds")
        loads[shard] = Load(
            leader.database_in_use_bytes // BYTES_STEP, sum(t.keys for t in leader.tables) // KEYS_STEP
        )
        found |= {
            catalog.TableEntry(table.name, table.id, shard, table.history, origin=table.origin)
            for replica in replicas
            for table in replica.tables
        }
        highest_id = max([highest_id, *(replica.highest_table_id for replica in replicas)])
        for state in leader.moves:
            if state.state in (frames.MoveState.COPYING, frames.MoveState.FENCED):
                moves[state.table_id, shard] = ShardId(state.shard), state.number
    arriving = {(table_id, target) for (table_id, _), (target, _) in moves.items()}
    tables = sorted(
        (entry for entry in found if not entry.is_reserved and (entry.id, entry.shard) not in arriving),
        key=lambda entry: entry.id,
    )
    return Survey(tables, moves, max([highest_id, *(entry.id for entry in tables)]), loads)


async def leader_status(statuses: ReplicaStatuses, shard: ShardId) -> frames.ReplicaStatus:
    """What the shard's leader says of itself. Raises NoLeader."""
    leader = _leader_among(await statuses.everywhere(shard))
    if leader is None:
        raise errors.NoLeader(f"shard {shard} has no leader")
    return leader


def _leader_among(replicas: Sequence[frames.ReplicaStatus]) -> frames.ReplicaStatus | None:
    return next((replica for replica in replicas if replica.leader == replica.node), None)
