"""Clients' calls, by method and table. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tools.tui import units
from tools.tui.page import DIM, GOOD, Cell, Column, Page, Row
from tools.tui.place import Place, View
from tools.tui.views import cells

if TYPE_CHECKING:
    from tools.tui.scene import Scene

SPARK_WIDTH: Final = 16

COLUMNS: Final = (
    Column("METHOD"),
    Column("TABLE"),
    Column("CALLS/S", is_number=True),
    Column("LATELY", rank=2),
    Column("P99", is_number=True),
    Column("LATELY"),
    Column("API", rank=2),
)


def calls(scene: Scene) -> Page:
    """Of those that have one answer, and whose length is not up to their client."""
    trend = scene.trend
    rows = [_row(scene, method, table) for method, table in sorted(trend.calls)]
    etcd = "etcd's API does not tell of its clients' calls"
    nobody = "no client has called yet, as far as coordinators tell"
    return Page("calls", COLUMNS, rows, etcd if scene.snapshot.is_etcd else nobody)


def _row(scene: Scene, method: str, table: str) -> Row:
    service, _, name = method.lstrip("/").partition("/")
    rates = list(scene.trend.calls[method, table])
    latencies = list(scene.trend.call_p99[method, table])
    return Row(
        key=f"{method} {table}",
        cells=(
            Cell(f"{service.rpartition('.')[2]}.{name}"),
            Cell(table or "-"),
            cells.rate(rates[-1]),
            Cell(units.sparkline(rates, SPARK_WIDTH), GOOD),
            cells.duration(latencies[-1]),
            Cell(units.sparkline(latencies, SPARK_WIDTH), GOOD),
            Cell(service, DIM),
        ),
        opens=Place(View.KEYS, table) if table and not table.startswith("_") else None,
    )
