"""The two lines above every view. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tools.admin.findings import Severity
from tools.tui import units
from tools.tui.page import DIM, GOOD, LEAD, PLAIN, WARN, Cell
from tools.tui.scene import coverage
from tools.tui.views.cells import STALE_S, of_severity

if TYPE_CHECKING:
    from tools.tui.scene import Scene

SPARK_WIDTH: Final = 16


def headline(scene: Scene) -> tuple[list[Cell], list[Cell]]:
    """What the cluster is and does; then whether everybody is served."""
    snapshot = scene.snapshot
    ops = scene.trend.now.all_operations
    taken = datetime.fromtimestamp(snapshot.taken_at, UTC)
    first = [
        Cell(snapshot.cluster, LEAD),
        Cell(_counted(len(snapshot.nodes), "node")),
        Cell(_counted(len(snapshot.shards), "shard")),
        Cell(f"{'-' if ops is None else units.rate(ops)} ops/s"),
        Cell(units.sparkline(list(scene.trend.cluster), SPARK_WIDTH), GOOD),
        Cell(f"{taken:%H:%M:%S}Z", DIM),
    ]
    old_s = scene.now - snapshot.taken_at
    if old_s > STALE_S:
        first.append(Cell(f"{units.span(old_s)} old", WARN))
    worst = of_severity(scene.worst)
    is_well = scene.worst in (None, Severity.NOTE)
    second = [Cell(coverage(snapshot), GOOD if is_well else worst.style)]
    if scene.findings:
        second.append(Cell(f"{worst.text} {_counted(len(scene.findings), 'finding')}", worst.style))
    second += [Cell(problem, PLAIN) for problem in snapshot.problems[:1]]
    return first, second


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
