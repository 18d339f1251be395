"""A snapshot with all that its views need beside it: what is wrong, how it went lately, what time it is. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tools.admin.diagnosis import diagnose
from tools.admin.rates import Called, Rates, rates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config.process.names import ProcessName
    from tools.admin.findings import Finding, Severity
    from tools.admin.snapshot import Snapshot

POINTS: Final = 60
"""Of a sparkline at most: a minute, at a look a second."""

Points = deque[float | None]


def _points() -> Points:
    return deque(maxlen=POINTS)


@dataclass(slots=True)
class Trend:
    """The last POINTS figures of each kind, oldest first; None where one could not be told."""

    cluster: Points = field(default_factory=_points)
    """Operations per second."""
    shards: dict[int, Points] = field(default_factory=dict)
    """Operations per second."""
    syncs: dict[int, Points] = field(default_factory=dict)
    """The leader's sync p99, in microseconds."""
    tables: dict[str, Points] = field(default_factory=dict)
    """Revisions per second."""
    shard_p99: dict[int, Points] = field(default_factory=dict)
    """Of clients' calls about its tables, in microseconds."""
    table_p99: dict[str, Points] = field(default_factory=dict)
    """Likewise."""
    calls: dict[tuple[str, str], Points] = field(default_factory=dict)
    """Calls per second, by method and table."""
    call_p99: dict[tuple[str, str], Points] = field(default_factory=dict)
    """Of these, in microseconds."""
    now: Rates = field(default_factory=lambda: Rates({}, {}, {}))

    def observe(self, before: Snapshot | None, after: Snapshot) -> None:
        """Add what happened between two snapshots."""
        if before is None:
            return
        self.now = now = rates(before, after)
        self.cluster.append(now.all_operations)
        for shard in after.shards:
            self.shards.setdefault(shard.number, _points()).append(now.operations(shard.number))
            leading = shard.leading
            sync_us = leading.sync_p99_us if leading is not None else None
            self.syncs.setdefault(shard.number, _points()).append(sync_us)
            called = now.called({table.name for table in shard.tables})
            self.shard_p99.setdefault(shard.number, _points()).append(p99_us(called))
        for table in after.tables:
            self.tables.setdefault(table.name, _points()).append(now.revisions.get(table.name))
            self.table_p99.setdefault(table.name, _points()).append(p99_us(now.called({table.name})))
        for key in self.calls.keys() | now.calls.keys():
            made = now.calls.get(key)
            self.calls.setdefault(key, _points()).append(made.per_s if made is not None else None)
            self.call_p99.setdefault(key, _points()).append(p99_us(made))


def p99_us(called: Called | None) -> float | None:
    """In microseconds; None if it is not known."""
    seconds = called.p99_s if called is not None else None
    return None if seconds is None else seconds * 1e6


@dataclass(frozen=True, slots=True)
class Scene:
    """See the module."""

    snapshot: Snapshot
    findings: Sequence[Finding]
    trend: Trend
    now: float
    """Unix seconds."""
    file: str
    """The cluster file as commands name it."""

    @classmethod
    def of(cls, snapshot: Snapshot, trend: Trend, *, now: float, file: str) -> Scene:
        """With everything that is wrong in it."""
        return cls(snapshot, diagnose(snapshot, file=file), trend, now, file)

    def about(self, *subjects: str) -> list[Finding]:
        """What is wrong with these, the worst first, and of what is as bad the first subject's."""
        found: dict[Finding, None] = {}
        for subject in subjects:
            found |= dict.fromkeys(
                each for each in self.findings if subject == each.subject or subject in each.also
            )
        return sorted(found, key=lambda each: -each.severity)

    @property
    def worst(self) -> Severity | None:
        """Of everything."""
        return max((finding.severity for finding in self.findings), default=None)


def is_here(snapshot: Snapshot, name: ProcessName) -> bool:
    """Whether a process can be acted on from this machine, and its log be read."""
    process = snapshot.process(name)
    return process is not None and process.is_here


def coverage(snapshot: Snapshot) -> str:
    """In a line: is everybody served, and what is left to lose?"""
    shards = snapshot.shards
    if not shards:
        return "no shard is known yet"
    led = sum(shard.leader is not None and shard.leading is not None for shard in shards)
    stuck = sum(len(shard.serving) < shard.majority for shard in shards)
    below = sum(shard.majority <= len(shard.serving) and shard.is_below_replicas for shard in shards)
    parts = [f"shards {led}/{len(shards)} have a leader"]
    if stuck:
        parts.append(f"{stuck} {'has' if stuck == 1 else 'have'} no quorum")
    if below:
        parts.append(f"{below} below {'its' if below == 1 else 'their'} replicas")
    return ", ".join(parts)
