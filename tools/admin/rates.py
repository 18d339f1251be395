"""What happened between two snapshots, per second. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proto.histogram import CALL_BOUNDS_S

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from tools.admin.node_pages import Series
    from tools.admin.snapshot import Replica, Shard, Snapshot


@dataclass(frozen=True, slots=True)
class Called:
    """Calls that ended between two looks."""

    counts: Sequence[int]
    """By range of their duration (proto/histogram.py)."""
    seconds: float
    """From look to look."""

    @property
    def per_s(self) -> float:
        """How many a second."""
        return sum(self.counts) / self.seconds

    @property
    def p99_s(self) -> float | None:
        """What 99 of 100 took at most, as far as ranges tell: within one, durations are taken to lie evenly. None if
        there were no calls."""
        total = sum(self.counts)
        if not total:
            return None
        left, lower = 0.99 * total, 0.0
        for count, upper in zip(self.counts, CALL_BOUNDS_S, strict=False):
            if count and left <= count:
                return lower + (upper - lower) * left / count
            left, lower = left - count, upper
        return lower  # longer than all bounds: at least so long


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second. What can't be told is not in here: a process that began anew, one that did not answer."""

    writes: Mapping[int, float]
    """Commands applied, by shard."""
    reads: Mapping[int, float]
    """Reads that its replicas served, by shard."""
    revisions: Mapping[str, float]
    """Changes of a table, by table."""
    calls: Mapping[tuple[str, str], Called] = field(default_factory=dict)
    """Of clients, by method and table."""

    def operations(self, shard: int) -> float | None:
        """Writes and reads of a shard."""
        if shard not in self.writes and shard not in self.reads:
            return None
        return self.writes.get(shard, 0.0) + self.reads.get(shard, 0.0)

    def called(self, tables: Container[str]) -> Called | None:
        """Calls about any of these tables together; None if nothing is known of any."""
        known = [called for (_, table), called in self.calls.items() if table in tables]
        if not known:
            return None
        return Called(_sum([called.counts for called in known]), known[0].seconds)

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
    return Rates(writes, reads, revisions, _calls(before.calls, after.calls, seconds))


def _calls(
    before: Mapping[Series, Sequence[int]], after: Mapping[Series, Sequence[int]], seconds: float
) -> dict[tuple[str, str], Called]:
    ended: dict[tuple[str, str], list[Sequence[int]]] = {}
    for series, counts in _growth(before, after):
        ended.setdefault((series.method, series.table), []).append(counts)
    return {key: Called(_sum(counts), seconds) for key, counts in sorted(ended.items())}


def _growth(
    before: Mapping[Series, Sequence[int]], after: Mapping[Series, Sequence[int]]
) -> Iterator[tuple[Series, Sequence[int]]]:
    known = {series.process for series in before}
    for series, counts in after.items():
        # Of a process that was looked at, what was not there had not begun.
        earlier = before.get(series, [0] * len(counts) if series.process in known else ())
        grown = [new - old for new, old in zip(counts, earlier, strict=False)]
        if grown and min(grown) >= 0:
            yield series, grown


def _sum(counts: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*counts, strict=True)]


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
