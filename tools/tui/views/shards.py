"""Shards. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tools.tui import units
from tools.tui.page import BAD, DIM, GOOD, LEAD, WARN, Cell, Column, Page, Row
from tools.tui.place import Place, View
from tools.tui.views import cells

if TYPE_CHECKING:
    from tools.admin.snapshot import Shard
    from tools.tui.scene import Scene

SPARK_WIDTH: Final = 12

COLUMNS: Final = (
    Column(" "),
    Column("SHARD", is_number=True),
    Column("LEADER"),
    Column("VOTERS"),
    Column("TERM", rank=3, is_number=True),
    Column("COMMIT", rank=2, is_number=True),
    Column("LAG", is_number=True),
    Column("QUEUE", is_number=True),
    Column("OPS/S", is_number=True),
    Column("LATELY", rank=2),
    Column("P99", is_number=True),
    Column("LATELY", rank=3),
    Column("SYNC P99", rank=2, is_number=True),
    Column("LATELY", rank=5),
    Column("DATA", rank=2, is_number=True),
    Column("TABLES", rank=3, takes_rest=True),
)


def shards(scene: Scene) -> Page:
    """Of the cluster."""
    return Page(
        "shards", COLUMNS, [_row(scene, shard) for shard in scene.snapshot.shards], "no shard is known yet"
    )


def _row(scene: Scene, shard: Shard) -> Row:
    answering = [replica for replica in shard.replicas if replica.is_answering]
    leading = shard.leading
    subject = f"shard-{shard.number}"
    findings = scene.about(subject, *(f"{replica.node}/{subject}" for replica in shard.replicas))
    serving, voters = len(shard.serving), len(shard.voters)
    voters_style = BAD if serving < shard.majority else WARN if serving < voters else GOOD
    behind = max(
        (trails for replica in answering if (trails := shard.trails(replica)) is not None), default=None
    )
    commit = max((replica.commit_index or 0 for replica in answering), default=None)
    data = max((replica.database_bytes or 0 for replica in answering), default=None)
    leader = Cell("none", BAD) if shard.leader is None else Cell(shard.leader, LEAD)
    if shard.leader is not None and leading is None:
        leader = Cell(f"{shard.leader}?", WARN)
    trend = scene.trend
    ops, syncs = trend.shards.get(shard.number, ()), trend.syncs.get(shard.number, ())
    latencies = list(trend.shard_p99.get(shard.number, ()))
    return Row(
        key=subject,
        cells=(
            cells.mark(findings),
            cells.number(shard.number),
            leader,
            Cell(f"{serving}/{voters}", voters_style, sort=serving),
            cells.number(shard.term),
            cells.number(commit),
            cells.number(behind),
            cells.number(cells.total([replica.queued for replica in answering])),
            cells.rate(scene.trend.now.operations(shard.number)),
            Cell(units.sparkline(list(ops), SPARK_WIDTH), GOOD),
            cells.duration(latencies[-1] if latencies else None),
            Cell(units.sparkline(latencies, SPARK_WIDTH), GOOD),
            cells.duration(leading.sync_p99_us if leading is not None else None),
            Cell(units.sparkline(list(syncs), SPARK_WIDTH), DIM),
            cells.size(data),
            Cell(" ".join(table.name for table in shard.tables), DIM),
        ),
        opens=Place(View.REPLICAS, str(shard.number)),
        findings=findings,
    )
