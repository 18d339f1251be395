"""Tables. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tools.tui import units
from tools.tui.page import BAD, DIM, GOOD, LEAD, Cell, Column, Page, Row
from tools.tui.place import Place, View
from tools.tui.views import cells

if TYPE_CHECKING:
    from tools.admin.snapshot import Table
    from tools.tui.scene import Scene

SPARK_WIDTH: Final = 12

COLUMNS: Final = (
    Column("TABLE"),
    Column("SHARD", is_number=True),
    Column("LEADER"),
    Column("REVISION", is_number=True),
    Column("KEYS", is_number=True),
    Column("COMPACTED", rank=3, is_number=True),
    Column("HISTORY", rank=2),
    Column("CHANGES/S", is_number=True),
    Column("LATELY", rank=2),
)


def tables(scene: Scene) -> Page:
    """Of the cluster, without boathouse's own."""
    return Page(
        "tables", COLUMNS, [_row(scene, table) for table in scene.snapshot.tables], "no table is known yet"
    )


def _row(scene: Scene, table: Table) -> Row:
    shard = scene.snapshot.shard(table.shard)
    leader = shard.leader if shard is not None else None
    points = scene.trend.tables.get(table.name, ())
    return Row(
        key=table.name,
        cells=(
            Cell(table.name),
            cells.number(table.shard),
            Cell(leader or "none", LEAD if leader else BAD),
            cells.number(table.revision),
            cells.number(table.keys),
            cells.number(table.compacted_revision),
            Cell(table.history or "-", DIM),
            cells.rate(scene.trend.now.revisions.get(table.name)),
            Cell(units.sparkline(list(points), SPARK_WIDTH), GOOD),
        ),
        opens=Place(View.KEYS, table.name),
        findings=scene.about(f"shard-{table.shard}"),
    )
