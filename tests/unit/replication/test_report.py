"""What is told of how replication goes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from coordinator.metrics import ReplicationMetrics
from coordinator.replication.report import COPIES_MAX, CopyReport, Report, parse


def copy(name: str, behind: int, lag_s: float, *, stalled: bool = False) -> CopyReport:
    return CopyReport(name, 10, behind, lag_s, "follows", stalled, "", 0.5)


REPORT = Report.of(
    "n2",
    1_700_000_000.0,
    [copy("a", 0, 0.0), copy("b", 40, 1.5), copy("c", 3, 2.5)],
    refused={"d": "a table of its own"},
)


CBA_BEHIND = (("c", 3.0), ("b", 40.0), ("a", 0.0))
CBA_SECONDS = (("c", 2.5), ("b", 1.5), ("a", 0.0))


def test_a_report_survives_the_row() -> None:
    assert parse(REPORT.encode()) == REPORT


def test_a_row_that_nobody_holds_says_nothing() -> None:
    assert parse(b"") is None
    assert parse(b'{"node": "n1"}') is None
    assert parse(b"[]") is None


def test_of_many_tables_the_worst_are_told_and_all_are_counted() -> None:
    report = Report.of(
        "n1", 0.0, [copy(f"t{n}", n, float(n), stalled=n == 3) for n in range(COPIES_MAX + 50)]
    )
    assert (report.tables, report.stalled, report.lag_revisions) == (COPIES_MAX + 50, 1, COPIES_MAX + 49)
    assert [one.name for one in report.copies[:2]] == ["t3", f"t{COPIES_MAX + 49}"]
    assert len(report.copies) == COPIES_MAX


def test_metrics_say_how_far_behind_and_when_that_was() -> None:
    registry = CollectorRegistry()
    registry.register(ReplicationMetrics(REPORT))
    lines = generate_latest(registry).decode().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "boathouse_replication_tables 3.0",
        "boathouse_replication_lag_revisions 40.0",
        "boathouse_replication_lag_seconds 2.5",
        "boathouse_replication_stalled_tables 0.0",
        "boathouse_replication_refused_tables 1.0",
        "boathouse_replication_leader_reachable 1.0",
        "boathouse_replication_reported_timestamp_seconds 1.7e+09",
        *(f'boathouse_replication_table_revision{{table="{name}"}} 10.0' for name in "cba"),
        *(f'boathouse_replication_table_lag_revisions{{table="{name}"}} {n}' for name, n in CBA_BEHIND),
        *(f'boathouse_replication_table_lag_seconds{{table="{name}"}} {n}' for name, n in CBA_SECONDS),
        *(f'boathouse_replication_table_backoff_seconds{{table="{name}"}} 0.5' for name in "cba"),
    ]
    registry = CollectorRegistry()
    registry.register(ReplicationMetrics(None))
    assert generate_latest(registry) == b""
