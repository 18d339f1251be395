"""What is told of how replication goes."""

from __future__ import annotations

import json
from dataclasses import replace

from coordinator.metrics.replication import replication_families
from coordinator.replication.report import COPIES_MAX, CopyReport, Report, Rows, is_free, parse


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


STUCK = Report.of("n2", 1.0, [replace(copy("a", 40, 20.0), stuck_s=18.5)])


def test_a_report_survives_the_rows() -> None:
    for report in (REPORT, STUCK):
        assert parse(report.encode()) == report


def test_versions_that_know_fewer_fields_read_the_row() -> None:
    """They take a row with another for one that nobody can read, and its holder for one that died."""
    row = json.loads(STUCK.encode().lease)
    assert set(row) == {
        *("node", "at_s", "tables", "lag_revisions", "lag_s", "stalled", "epoch", "leads", "trouble"),
        *("refused", "copies"),
    }
    assert [set(one) for one in row["copies"]] == [
        {"name", "revision", "lag_revisions", "lag_s", "does", "stalled", "trouble", "backoff_s"}
    ]
    assert replace(STUCK, node="").encode().lease == b"", "who lets go"


def test_what_versions_between_and_later_ones_write_is_read() -> None:
    row = {**json.loads(STUCK.encode().lease), "new": 1}
    row["copies"][0] |= {"stuck_s": 18.5, "new": 1}
    assert parse(Rows(json.dumps(row).encode())) == STUCK
    assert is_free(json.dumps(row | {"node": ""}).encode())


def test_a_row_that_an_earlier_version_wrote_goes_without_the_one_beside_it() -> None:
    earlier = replace(STUCK, at_s=2.0).encode().lease
    (read,) = (report for report in [parse(Rows(earlier, STUCK.encode().more))] if report)
    assert [one.stuck_s for one in read.copies] == [0.0]


def test_a_row_that_nobody_holds_says_nothing() -> None:
    for nothing in (b"", b'{"node": "n1"}', b"[]"):
        assert parse(Rows(nothing)) is None
    assert parse(replace(STUCK, node="").encode()) is None


def test_of_many_tables_the_worst_are_told_and_all_are_counted() -> None:
    report = Report.of(
        "n1", 0.0, [copy(f"t{n}", n, float(n), stalled=n == 3) for n in range(COPIES_MAX + 50)]
    )
    assert (report.tables, report.stalled, report.lag_revisions) == (COPIES_MAX + 50, 1, COPIES_MAX + 49)
    assert [one.name for one in report.copies[:2]] == ["t3", f"t{COPIES_MAX + 49}"]
    assert len(report.copies) == COPIES_MAX


def test_metrics_say_how_far_behind_and_when_that_was() -> None:
    samples = [sample for family in replication_families(REPORT, "n1") for sample in family.samples]
    assert [
        (sample.name.removeprefix("boathouse_replication_"), *sample.labels.values(), sample.value)
        for sample in samples
    ] == [
        ("tables", 3),
        ("lag_revisions", 40),
        ("lag_seconds", 2.5),
        ("stalled_tables", 0),
        ("refused_tables", 1),
        ("leader_reachable", 1),
        ("epoch", 1),
        ("promoted", 0),
        ("reported_timestamp_seconds", 1_700_000_000.0),
        *(("table_revision", name, 10) for name in "cba"),
        *(("table_lag_revisions", name, behind) for name, behind in CBA_BEHIND),
        *(("table_lag_seconds", name, seconds) for name, seconds in CBA_SECONDS),
        *(("table_backoff_seconds", name, 0.5) for name in "cba"),
        *(
            ("regatta_replication_index", role, name, 10 + (behind if role == "leader" else 0))
            for name, behind in CBA_BEHIND
            for role in ("follower", "leader")
        ),
        *(("regatta_replication_leased", name, False) for name in "cba"),
    ]
    assert list(replication_families(None, "n1")) == []
