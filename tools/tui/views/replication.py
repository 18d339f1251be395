"""Copies of tables between clusters: those that this one makes of its leader cluster's, and those that clusters make
which follow this one. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tools.tui import units
from tools.tui.page import BAD, DIM, GOOD, WARN, Cell, Column, Page, Row
from tools.tui.place import Place, View
from tools.tui.views import cells

if TYPE_CHECKING:
    from coordinator.replication.report import CopyReport
    from tools.admin.snapshot import Replication, Table
    from tools.tui.scene import Scene

COLUMNS: Final = (
    Column(" "),
    Column("TABLE"),
    Column("COPIED"),
    Column("POSITION", is_number=True),
    Column("BEHIND", is_number=True),
    Column("LAG", is_number=True),
    Column("DOES"),
    Column("TROUBLE", rank=2, takes_rest=True),
)


def replication(scene: Scene) -> Page:
    """Of this cluster, in either direction."""
    snapshot = scene.snapshot
    rows = [] if snapshot.replication is None else _copies(scene, snapshot.replication)
    rows += [
        _follower(scene, table, follower, revision)
        for table in snapshot.tables
        for follower, revision in sorted(table.followers.items())
    ]
    title = "replication"
    if snapshot.replication is not None:
        title += f", {_who(snapshot.replication, scene.now)}"
    return Page(
        title, COLUMNS, rows, "no table is copied: from no other cluster, and by none that follows this one"
    )


def _who(replication: Replication, now: float) -> str:
    report = replication.report
    if report is None:
        return f"follows {replication.leader}" + (": nobody copies" if replication.answered else "")
    said = f"{report.node} said {units.span(now - report.at_s)} ago"
    return (
        f"leads since epoch {report.epoch}: {said}"
        if report.leads
        else f"follows {replication.leader}: {said}"
    )


def _copies(scene: Scene, replication: Replication) -> list[Row]:
    report = replication.report
    if report is None or report.leads:
        return []
    return [
        *(_copy(scene, copy, report.node) for copy in report.copies),
        *(_refused(scene, table, why, report.node) for table, why in sorted(report.refused.items())),
    ]


def _copy(scene: Scene, copy: CopyReport, node: str) -> Row:
    findings = scene.about(f"table {copy.name}")
    style = BAD if copy.stalled else WARN if findings else GOOD
    wait = f", waits {copy.backoff_s:.1f} s" if copy.backoff_s else ""
    return Row(
        key=f"from {copy.name}",
        cells=(
            cells.mark(findings),
            Cell(copy.name),
            Cell("to here", DIM),
            cells.number(copy.revision),
            cells.number(copy.lag_revisions, style),
            Cell(f"{copy.lag_s:.1f}s", style, sort=copy.lag_s),
            Cell(f"X stalled{wait}" if copy.stalled else f"{copy.does}{wait}", style),
            Cell(copy.trouble, DIM),
        ),
        opens=Place(View.LOG, f"{node}/replicator"),
        findings=findings,
    )


def _refused(scene: Scene, table: str, why: str, node: str) -> Row:
    findings = scene.about(f"table {table}")
    nothing = Cell("-", DIM, sort=-1.0)
    return Row(
        key=f"from {table}",
        cells=(
            cells.mark(findings), Cell(table), Cell("to here", DIM), nothing, nothing, nothing,
            Cell("is not copied", WARN), Cell(why),
        ),
        opens=Place(View.LOG, f"{node}/replicator"),
        findings=findings,
    )  # fmt: skip


def _follower(scene: Scene, table: Table, follower: str, revision: int) -> Row:
    """As the follower has said of itself, every few seconds."""
    return Row(
        key=f"to {follower} {table.name}",
        cells=(
            Cell(" "),
            Cell(table.name),
            Cell(f"by {follower}"),
            cells.number(revision),
            cells.number(max(0, table.revision - revision)),
            Cell("-", DIM, sort=-1.0),
            Cell("", DIM),
            Cell("", DIM),
        ),
        opens=Place(View.KEYS, table.name),
        findings=scene.about(f"table {table.name}"),
    )
