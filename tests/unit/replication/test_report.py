"""What is told of how replication goes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from coordinator.metrics import ReplicationMetrics
from coordinator.replication.report import Report, parse

REPORT = Report("n2", 1_700_000_000.0, 3, 40, 2.5)


def test_a_report_survives_the_row() -> None:
    assert parse(REPORT.encode()) == REPORT


def test_a_row_that_nobody_holds_says_nothing() -> None:
    assert parse(b"") is None
    assert parse(b'{"node": "n1"}') is None
    assert parse(b"[]") is None


def test_metrics_say_how_far_behind_and_when_that_was() -> None:
    registry = CollectorRegistry()
    registry.register(ReplicationMetrics(REPORT))
    lines = generate_latest(registry).decode().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "boathouse_replication_tables 3.0",
        "boathouse_replication_lag_revisions 40.0",
        "boathouse_replication_lag_seconds 2.5",
        "boathouse_replication_reported_timestamp_seconds 1.7e+09",
    ]
    registry = CollectorRegistry()
    registry.register(ReplicationMetrics(None))
    assert generate_latest(registry) == b""
