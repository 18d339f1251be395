"""Tables. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tools.admin.diagnosis import NEAR_QUOTA
from tools.tui import units
from tools.tui.page import BAD, DIM, GOOD, LEAD, PLAIN, WARN, Cell, Column, Page, Row
from tools.tui.place import Place, View
from tools.tui.scene import p99_us
from tools.tui.views import cells

if TYPE_CHECKING:
    from tools.admin.snapshot import Table
    from tools.tui.scene import Scene

SPARK_WIDTH: Final = 12

COLUMNS: Final = (
    Column(" "),
    Column("TABLE"),
    Column("SHARD", is_number=True),
    Column("LEADER"),
    Column("REVISION", is_number=True),
    Column("KEYS", is_number=True),
    Column("COMPACTED", rank=3, is_number=True),
    Column("HISTORY", rank=2),
    Column("SIZE", rank=3, is_number=True),
    Column("QUOTA", rank=4, is_number=True),
    Column("CHANGES/S", is_number=True),
    Column("LATELY", rank=3),
    Column("CALLS/S", rank=2, is_number=True),
    Column("P99", is_number=True),
    Column("LATELY", rank=2),
)


COPY_COLUMNS: Final = (
    Column("BEHIND", is_number=True),
    Column("LAG", is_number=True),
    Column("COPY", rank=2),
)
"""In a cluster that follows another one."""
MOVE_COLUMN: Final = Column("MOVES TO", rank=2)
"""While any is on its way."""


def tables(scene: Scene) -> Page:
    """Of the cluster, without boathouse's own."""
    tables = scene.snapshot.tables
    moves = [MOVE_COLUMN] if any(table.move is not None for table in tables) else []
    copies = COPY_COLUMNS if scene.snapshot.replication is not None else ()
    rows = [_row(scene, table, has_move=bool(moves)) for table in tables]
    return Page("tables", (*COLUMNS, *copies, *moves), rows, "no table is known yet")


def _row(scene: Scene, table: Table, *, has_move: bool) -> Row:
    shard = scene.snapshot.shard(table.shard)
    leader = shard.leader if shard is not None else None
    points = scene.trend.tables.get(table.name, ())
    called = scene.trend.now.called({table.name})
    latencies = scene.trend.table_p99.get(table.name, ())
    findings = scene.about(f"table {table.name}", f"shard-{table.shard}")
    return Row(
        key=table.name,
        cells=(
            cells.mark(findings),
            Cell(table.name),
            cells.number(table.shard),
            Cell(leader or "none", LEAD if leader else BAD),
            cells.number(table.revision),
            cells.number(table.keys),
            cells.number(table.compacted_revision),
            Cell(table.history or "-", DIM),
            cells.size(table.size_bytes, _size_style(table)),
            cells.size(table.quota_bytes, DIM),
            cells.rate(scene.trend.now.revisions.get(table.name)),
            Cell(units.sparkline(list(points), SPARK_WIDTH), GOOD),
            cells.rate(called.per_s if called is not None else None),
            cells.duration(p99_us(called)),
            Cell(units.sparkline(list(latencies), SPARK_WIDTH), GOOD),
            *_copy_cells(scene, table),
            *([_move_cell(table)] if has_move else []),
        ),
        opens=Place(View.KEYS, table.name),
        findings=findings,
    )


def _size_style(table: Table) -> str:
    if table.is_full:
        return BAD
    near = NEAR_QUOTA * (table.quota_bytes or 0)
    return WARN if near and (table.size_bytes or 0) > near else PLAIN


def _copy_cells(scene: Scene, table: Table) -> tuple[Cell, ...]:
    replication = scene.snapshot.replication
    if replication is None:
        return ()
    copy = replication.copies.get(table.name)
    if copy is None:
        return Cell("-", DIM, sort=-1.0), Cell("-", DIM, sort=-1.0), Cell("", DIM)
    if copy.stalled:
        return cells.number(copy.lag_revisions), _lag(copy.lag_s, BAD), Cell("X stalled", BAD)
    style = WARN if scene.about(f"table {table.name}") else GOOD
    return cells.number(copy.lag_revisions), _lag(copy.lag_s, style), Cell(copy.does, style)


def _move_cell(table: Table) -> Cell:
    move = table.move
    if move is None:
        return Cell("", DIM)
    if move.is_fenced:
        return Cell(f"{move.target}, writes wait", LEAD)
    share = f" {100 * move.keys / table.keys:.0f}%" if move.keys is not None and table.keys else ""
    return Cell(f"{move.target}{share}", LEAD)


def _lag(lag_s: float, style: str) -> Cell:
    return Cell(f"{lag_s:.1f}s", style, sort=lag_s)
