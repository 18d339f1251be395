"""What is told of replication between clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.metrics.families import gauge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import Metric

    from coordinator.replication.report import CopyReport, Report

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
    "boathouse_replication_epoch": (
        "Raised by each promotion of a cluster; the highest that is known here.",
        lambda report: report.epoch,
    ),
    "boathouse_replication_promoted": (
        "1 if this cluster was promoted, and leads.",
        lambda report: report.leads,
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


def replication_families(report: Report | None, node: str) -> Iterator[Metric]:
    """Of a follower cluster, all of it, whichever node replicates, as this one tells it; none of any other cluster."""
    if report is not None:
        for name, (text, value) in REPLICATION.items():
            yield gauge(name, text, (), [((), value(report))])
        for name, (text, copy_value) in COPY.items():
            yield gauge(name, text, ["table"], (([copy.name], copy_value(copy)) for copy in report.copies))
        yield from _by_regattas_names(report, node)


def _by_regattas_names(report: Report, node: str) -> Iterator[Metric]:
    yield gauge(
        "regatta_replication_index",
        "Where the copy ends (follower), and the table that it is of (leader), as last heard.",
        ["role", "table"],
        (
            ([role, copy.name], copy.revision + beyond)
            for copy in report.copies
            for role, beyond in (("follower", 0), ("leader", copy.lag_revisions))
        ),
    )
    yield gauge(
        "regatta_replication_leased",
        "1 if this node replicates the table, 0 if another one does.",
        ["table"],
        (([copy.name], report.node == node) for copy in report.copies),
    )
