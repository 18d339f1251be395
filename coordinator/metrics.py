"""What the replicas of this node say of themselves, in Prometheus's words.

Nothing is counted on the way of a request: the figures are asked for when somebody reads them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from coordinator.front import compression, http1

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from coordinator.replication.report import CopyReport, Report
    from proto.catalog import TableEntry
    from proto.ids import ShardId
    from proto.internal import frames_pb2 as frames

    Statuses = Mapping[ShardId, frames.ReplicaStatus | None]
    """By shard; None for a replica that does not answer."""

REPLICA: Final[Mapping[str, tuple[str, Callable[[frames.ReplicaStatus], float]]]] = {
    "boathouse_replica_fault": (
        "1 if the replica found that its data is damaged or differs from the other replicas', and stopped serving.",
        lambda status: bool(status.fault),
    ),
    "boathouse_replica_no_space": (
        "1 if the replica refuses writes because its disk is full.",
        lambda status: status.no_space,
    ),
    "boathouse_replica_has_leader": (
        "1 if the replica knows a leader of its shard.",
        lambda status: status.leader != 0,
    ),
    "boathouse_replica_is_leader": (
        "1 if the replica leads its shard.",
        lambda status: status.leader == status.node,
    ),
    "boathouse_replica_term": ("Raft term.", lambda status: status.term),
    "boathouse_replica_commit_index": (
        "Raft index up to which the replica knows the log to be committed.",
        lambda status: status.commit_index,
    ),
    "boathouse_replica_applied_index": (
        "Raft index up to which the replica has applied the log.",
        lambda status: status.applied_index,
    ),
    "boathouse_replica_database_bytes": (
        "Size of the replica's database file.",
        lambda status: status.database_bytes,
    ),
    "boathouse_replica_database_in_use_bytes": (
        "Part of the replica's database file that holds data.",
        lambda status: status.database_in_use_bytes,
    ),
    # By etcd's names, for the dashboards and alerts that people have. What is one figure of an etcd is one of each
    # replica here.
    "etcd_server_has_leader": ("1 if a leader exists, 0 if not.", lambda status: status.leader != 0),
    "etcd_server_is_leader": (
        "1 if the replica is the leader, 0 if not.",
        lambda status: status.leader == status.node,
    ),
    "etcd_server_is_learner": (
        "1 if the replica is a learner, 0 if not.",
        lambda status: status.node in status.learners,
    ),
    "etcd_server_proposals_committed_total": (
        "Raft index up to which entries are committed.",
        lambda status: status.commit_index,
    ),
    "etcd_server_proposals_applied_total": (
        "Raft index up to which entries are applied.",
        lambda status: status.applied_index,
    ),
    "etcd_server_proposals_pending": (
        "Writes that wait for their answer.",
        lambda status: status.statistics["writes_waiting"],
    ),
    "etcd_mvcc_db_total_size_in_bytes": (
        "Size of the database, allocated on disk.",
        lambda status: status.database_bytes,
    ),
    "etcd_mvcc_db_total_size_in_use_in_bytes": (
        "Part of the database that is in use.",
        lambda status: status.database_in_use_bytes,
    ),
}
"""Help text and value of each gauge with a label `shard`."""

TABLE: Final[Mapping[str, tuple[str, Callable[[frames.TableStatus], float]]]] = {
    "boathouse_table_revision": (
        "Revision of the table that the replica has applied.",
        lambda table: table.revision,
    ),
    "boathouse_table_keys": ("Keys in the table.", lambda table: table.keys),
    "boathouse_table_size_bytes": (
        "What the table holds, history included, as its quota counts.",
        lambda table: table.size_bytes,
    ),
    "boathouse_table_quota_bytes": (
        "What the table may hold; 0 = any amount.",
        lambda table: table.quota_bytes,
    ),
    "boathouse_table_full": ("1 if the table's quota refuses what makes it grow.", lambda table: table.full),
    # By etcd's names, as above.
    "etcd_server_quota_backend_bytes": (
        "What the table may hold; 0 = any amount.",
        lambda table: table.quota_bytes,
    ),
    "etcd_debugging_mvcc_keys_total": ("Keys in the table.", lambda table: table.keys),
    "etcd_debugging_mvcc_current_revision": ("The table's revision.", lambda table: table.revision),
    "etcd_debugging_mvcc_compact_revision": (
        "The revision that the table is compacted at; -1 = never.",
        lambda table: table.compacted_revision,
    ),
}
"""Help text and value of each gauge with labels `shard` and `table`."""


class ReplicaMetrics(Collector):
    """Gauges made from replicas' statuses of one moment."""

    def __init__(self, statuses: Statuses) -> None:
        self._statuses = statuses

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The names alone, by which a scrape may choose."""
        yield GaugeMetricFamily("boathouse_replica_up", "")
        for name in (*REPLICA, *TABLE):
            yield GaugeMetricFamily(name, "")

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """All gauges. A replica that does not answer has only boathouse_replica_up, with 0."""
        statuses = self._statuses
        up = GaugeMetricFamily("boathouse_replica_up", "1 if the replica answers.", labels=["shard"])
        for shard, answer in statuses.items():
            up.add_metric([str(shard)], answer is not None)
        yield up
        answers = [status for status in statuses.values() if status is not None]
        for name, (text, replica_value) in REPLICA.items():
            family = GaugeMetricFamily(name, text, labels=["shard"])
            for status in answers:
                family.add_metric([str(status.shard)], replica_value(status))
            yield family
        for name in sorted({name for status in answers for name in status.statistics}):
            # What the parts of a replica count: each names its own, so a new part needs no line here.
            text = f"{name.replace('_', ' ').capitalize()}, as the replica counts them."
            family = GaugeMetricFamily(f"boathouse_replica_{name}", text, labels=["shard"])
            for status in answers:
                if name in status.statistics:
                    family.add_metric([str(status.shard)], status.statistics[name])
            yield family
        for name, (text, table_value) in TABLE.items():
            family = GaugeMetricFamily(name, text, labels=["shard", "table"])
            for status in answers:
                for table in status.tables:
                    family.add_metric([str(status.shard), table.name], table_value(table))
            yield family


class WatchedTable(Protocol):
    """What is told of a table that clients watch through this coordinator."""

    @property
    def table(self) -> TableEntry: ...
    @property
    def watchers_count(self) -> int: ...
    @property
    def behind_count(self) -> int: ...
    @property
    def lag_revisions(self) -> int: ...


WATCH: Final[Mapping[str, tuple[str, Callable[[WatchedTable], float]]]] = {
    "boathouse_watchers": ("Watchers of the table.", lambda watched: watched.watchers_count),
    "boathouse_watchers_behind": (
        "Watchers that still have to be told of something: they began in the past, or their clients read slowly.",
        lambda watched: watched.behind_count,
    ),
    "boathouse_watch_lag_revisions": (
        "How far the last of the table's watchers is behind.",
        lambda watched: watched.lag_revisions,
    ),
}


class WatchMetrics(Collector):
    """Gauges of the tables that are watched, as they were when it was made: it is read on another thread."""

    def __init__(self, tables: Iterable[WatchedTable]) -> None:
        self._values = {
            name: [(watched.table.name, value(watched)) for watched in tables]
            for name, (_, value) in WATCH.items()
        }

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The names alone."""
        return [GaugeMetricFamily(name, "") for name in WATCH]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """All gauges."""
        for name, (text, _) in WATCH.items():
            family = GaugeMetricFamily(name, text, labels=["table"])
            for table, value in self._values[name]:
                family.add_metric([table], value)
            yield family


REPLICATION: Final[Mapping[str, tuple[str, Callable[[Report], float]]]] = {
    "boathouse_replication_tables": (
        "Tables that are copied from the leader cluster.",
        lambda report: report.tables,
    ),
    "boathouse_replication_lag_revisions": (
        "How far the last of them is behind.",
        lambda report: report.lag_revisions,
    ),
    "boathouse_replication_lag_seconds": (
        "Since when one of them is not known to be level.",
        lambda report: report.lag_s,
    ),
    "boathouse_replication_stalled_tables": (
        "Tables that are neither level nor come nearer. Worth an alert above 0.",
        lambda report: report.stalled,
    ),
    "boathouse_replication_refused_tables": (
        "Tables of the leader cluster that can't be copied; boathouse status says why.",
        lambda report: len(report.refused),
    ),
    "boathouse_replication_leader_reachable": (
        "1 if the leader cluster says which tables it has, else 0.",
        lambda report: not report.trouble,
    ),
    "boathouse_replication_reported_timestamp_seconds": (
        "When the replicating node last said so. Worth an alert if it gets old: nobody replicates then.",
        lambda report: report.at_s,
    ),
}


COPY: Final[Mapping[str, tuple[str, Callable[[CopyReport], float]]]] = {
    "boathouse_replication_table_revision": ("Where the copy ends.", lambda copy: copy.revision),
    "boathouse_replication_table_lag_revisions": (
        "How far the copy is behind, as last heard of the leader cluster.",
        lambda copy: copy.lag_revisions,
    ),
    "boathouse_replication_table_lag_seconds": (
        "Since when the copy is not known to be level.",
        lambda copy: copy.lag_s,
    ),
    "boathouse_replication_table_backoff_seconds": (
        "What is waited after a failure before the next try; 0 if none has failed.",
        lambda copy: copy.backoff_s,
    ),
}
"""Of the tables that are worst off (report.COPIES_MAX)."""


class ReplicationMetrics(Collector):
    """Gauges of a follower cluster, all of it, whichever node replicates; none of any other cluster."""

    def __init__(self, report: Report | None) -> None:
        self._report = report

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The names alone."""
        return [GaugeMetricFamily(name, "") for name in (*REPLICATION, *COPY)]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """All gauges."""
        if self._report is not None:
            for name, (text, value) in REPLICATION.items():
                yield GaugeMetricFamily(name, text, value=value(self._report))
            for name, (text, copy_value) in COPY.items():
                family = GaugeMetricFamily(name, text, labels=["table"])
                for copy in self._report.copies:
                    family.add_metric([copy.name], copy_value(copy))
                yield family


def page(
    ask: Callable[[], Awaitable[Statuses]],
    watched: Callable[[], Sequence[WatchedTable]],
    replication: Callable[[], Awaitable[Report | None]],
) -> http1.Page:
    """The page that Prometheus reads. `ask` and `replication` are awaited once a scrape."""

    async def metrics(request: http1.Request) -> http1.Response:
        statuses = await ask()
        others = (WatchMetrics(watched()), ReplicationMetrics(await replication()))
        # A node of many tables has megabytes of figures: calls do not wait for them to be written down.
        return await asyncio.to_thread(_render, (ReplicaMetrics(statuses), *others), request)

    return metrics


def _render(collectors: Iterable[Collector], request: http1.Request) -> http1.Response:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    names = parse_qs(request.query).get("name[]")
    body = encode(registry.restricted_registry(names) if names else registry)
    headers = [("Content-Type", content_type), ("Vary", "Accept, Accept-Encoding")]
    if _takes_gzip(request.headers.get("accept-encoding", "")):
        headers.append(("Content-Encoding", "gzip"))
        body = compression.compress("gzip", body)
    return http1.Response(headers=headers, body=body)


def _takes_gzip(accept_encoding: str) -> bool:
    return any(word.partition(";")[0].strip().lower() == "gzip" for word in accept_encoding.split(","))
