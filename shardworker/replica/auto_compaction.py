"""Compacts tables as the cluster file says of each, or of all, like etcd by --auto-compaction-mode and -retention.

`revision`: every five minutes all but the newest revisions. `periodic`: every hour, or as often as the retention says
if that is shorter, what is older than the retention. A replica remembers what revision its tables were at, ten times a
round, so the first compaction comes when it has watched for a whole retention; it does so whether it leads or not, and
the leader proposes. What is compacted is then removed by the sweep, in steps.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from proto.catalog import FIRST_TABLE_ID
from proto.etcd import rpc_pb2
from proto.internal import frames_pb2 as frames
from shardworker.raft import NEVER_TICKS, Role
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from config.compaction import CompactionConfig
    from shardworker.machine.tables import TableState
    from shardworker.replica.part import ReplicaContext
    from shardworker.replica.proposals import Proposals

REVISION_INTERVAL_S: Final = 300
PERIODIC_INTERVAL_MAX_S: Final = 3_600
SAMPLES_PER_INTERVAL: Final = 10

log = structlog.get_logger()


class Retention(Protocol):
    """When to compact one table, and how far."""

    @property
    def interval_s(self) -> float:
        """Seconds between two looks at the table."""

    def look(self, revision: int) -> int | None:
        """The table is at this revision now. What to compact at, if it is time."""


class ByRevisions:
    """Keeps the newest revisions."""

    interval_s: float = REVISION_INTERVAL_S

    def __init__(self, kept: int) -> None:
        self._kept = kept

    def look(self, revision: int) -> int | None:
        return revision - self._kept if revision > self._kept else None


class ByTime:
    """Keeps what is younger than a time."""

    def __init__(self, retention_s: int) -> None:
        round_s = min(retention_s, PERIODIC_INTERVAL_MAX_S)
        self.interval_s: float = round_s / SAMPLES_PER_INTERVAL
        retention_looks = retention_s * SAMPLES_PER_INTERVAL // round_s
        self._samples: deque[int] = deque(maxlen=retention_looks + 1)
        self._looks_left = retention_looks + 1
        """Until the next compaction: first a whole retention, then a round."""

    def look(self, revision: int) -> int | None:
        self._samples.append(revision)
        self._looks_left -= 1
        if self._looks_left > 0:
            return None
        self._looks_left = SAMPLES_PER_INTERVAL
        return self._samples[0]


def retention_of(config: CompactionConfig) -> Retention:
    """What the cluster file says of a table."""
    if config.mode == "periodic":
        return ByTime(config.retention_s)
    assert isinstance(config.retention, int)
    return ByRevisions(config.retention)


class _Watched:
    def __init__(self, retention: Retention, tick_ms: int) -> None:
        self.retention = retention
        self.interval_ticks = max(1, round(retention.interval_s * 1_000 / tick_ms))
        self.ticks_left = 0
        """A table is looked at as soon as it is there."""


class AutoCompaction(Part):
    """The tables of one replica that compact themselves."""

    def __init__(self, context: ReplicaContext, proposals: Proposals) -> None:
        self._shard = context.shard
        self._core = context.core
        self._machine = context.machine
        self._proposals = proposals
        self._cluster = context.cluster
        self._may_compact = context.cluster.compacts_tables
        self._watched: dict[int, _Watched | None] = {}
        """By id, the shard's tables; None: it does not compact itself. A name may come to mean another table."""

    def tick(self) -> None:
        if not self._may_compact:
            return
        if self._watched.keys() != self._machine.tables.ids:
            self._watch()
        for table_id, watched in self._watched.items():
            if watched is None:
                continue
            watched.ticks_left -= 1
            if watched.ticks_left > 0:
                continue
            watched.ticks_left = watched.interval_ticks
            table = self._machine.tables.get(table_id)
            assert table is not None
            revision = watched.retention.look(table.revision)
            if revision is not None and self._core.role is Role.LEADER:
                self._compact(table, revision)

    def _watch(self) -> None:
        """Exactly the tables that there are now, in order of their ids."""
        known = self._watched
        self._watched = {
            table.id: known[table.id] if table.id in known else self._begin(table)
            for table in self._machine.tables
        }

    def _begin(self, table: TableState) -> _Watched | None:
        compaction = self._cluster.table_compaction(table.name)
        if compaction is None or table.id < FIRST_TABLE_ID:
            return None
        return _Watched(retention_of(compaction), self._cluster.raft.tick_ms)

    def _compact(self, table: TableState, revision: int) -> None:
        if revision <= max(table.floor, 0) or self._machine.origin_of(table.id):
            return  # a copy is compacted with its origin
        log.info("a table is compacted", shard=self._shard, table=table.name, revision=revision)
        body = rpc_pb2.CompactionRequest(revision=revision).SerializeToString()
        self._proposals.add_own(frames.ETCD_COMPACT, body, table_id=table.id)

    def ticks_until_action(self) -> int:
        return min((max(1, one.ticks_left) for one in self._watched.values() if one), default=NEVER_TICKS)
