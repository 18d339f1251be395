"""What happened between two snapshots, per second. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tools.admin.snapshot import Replica, Shard, Snapshot


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second. What can't be told is not in here: a process that began anew, one that did not answer."""

    writes: Mapping[int, float]
    """Commands applied, by shard."""
    reads: Mapping[int, float]
    """Reads that its replicas served, by shard."""
    revisions: Mapping[str, float]
    """Changes of a table, by table."""

    def operations(self, shard: int) -> float | None:
        """Writes and reads of a shard."""
        if shard not in self.writes and shard not in self.reads:
            return None
        return self.writes.get(shard, 0.0) + self.reads.get(shard, 0.0)

    @property
    def all_operations(self) -> float | None:
        """Of the cluster, as far as it can be told; None if nothing can."""
        if not self.writes and not self.reads:
            return None
        return sum(self.writes.values()) + sum(self.reads.values())


def rates(before: Snapshot, after: Snapshot) -> Rates:
    """From one snapshot to a later one."""
    seconds = after.taken_at - before.taken_at
    writes: dict[int, float] = {}
    reads: dict[int, float] = {}
    revisions: dict[str, float] = {}
    if seconds <= 0:
        return Rates(writes, reads, revisions)
    for shard in after.shards:
        earlier = before.shard(shard.number)
        if earlier is None:
            continue
        applied = [
            grown
            for old, new in _pairs(earlier, shard)
            if (grown := _grown(old.commands_applied, new.commands_applied)) is not None
        ]
        if applied:
            # Every replica applies every command: whoever is in time has the whole of it.
            writes[shard.number] = max(applied) / seconds
        served = [
            grown
            for old, new in _pairs(earlier, shard)
            if (grown := _grown(old.reads_served, new.reads_served)) is not None
        ]
        if served:
            reads[shard.number] = sum(served) / seconds
        known = {table.name: table.revision for table in earlier.tables}
        for table in shard.tables:
            grown = _grown(known.get(table.name), table.revision)
            if grown is not None:
                revisions[table.name] = grown / seconds
    return Rates(writes, reads, revisions)


def _pairs(before: Shard, after: Shard) -> list[tuple[Replica, Replica]]:
    old = {replica.node: replica for replica in before.replicas if replica.is_answering}
    return [
        (old[replica.node], replica)
        for replica in after.replicas
        if replica.is_answering and replica.node in old
    ]


def _grown(before: int | None, after: int | None) -> int | None:
    """None if either is unknown, or counting began anew."""
    if before is None or after is None or after < before:
        return None
    return after - before
