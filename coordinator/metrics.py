"""What the replicas of this node say of themselves, in Prometheus's words.

Nothing is counted on the way of a request: the figures are asked for when somebody reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

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
}
"""Help text and value of each gauge with a label `shard`."""

TABLE: Final[Mapping[str, tuple[str, Callable[[frames.TableStatus], float]]]] = {
    "boathouse_table_revision": (
        "Revision of the table that the replica has applied.",
        lambda table: table.revision,
    ),
    "boathouse_table_keys": ("Keys in the table.", lambda table: table.keys),
}
"""Help text and value of each gauge with labels `shard` and `table`."""


class ReplicaMetrics(Collector):
    """Gauges made from replicas' statuses at the moment of a scrape."""

    def __init__(self, ask: Callable[[], Statuses]) -> None:
        """`ask` may block; it is called once a scrape, on the scrape's thread."""
        self._ask = ask

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: otherwise the registry would ask replicas that are not there yet."""
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """All gauges. A replica that does not answer has only boathouse_replica_up, with 0."""
        statuses = self._ask()
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
        for name, (text, table_value) in TABLE.items():
            family = GaugeMetricFamily(name, text, labels=["shard", "table"])
            for status in answers:
                for table in status.tables:
                    family.add_metric([str(status.shard), table.name], table_value(table))
            yield family


def make_registry(ask: Callable[[], Statuses]) -> CollectorRegistry:
    """The replicas' metrics and this process's own."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(ReplicaMetrics(ask))
    return registry
