"""Processes, as supervisors and the operating system have them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tools.tui.page import BAD, DIM, PLAIN, WARN, Cell, Column, Page, Row
from tools.tui.place import Place, View
from tools.tui.views import cells

if TYPE_CHECKING:
    from tools.admin.snapshot import Process
    from tools.tui.scene import Scene

COLUMNS: Final = (
    Column(" "),
    Column("PROCESS"),
    Column("STATE"),
    Column("ROLE", rank=2),
    Column("PID", rank=3, is_number=True),
    Column("CPU", is_number=True),
    Column("RSS", is_number=True),
    Column("RESTARTS", rank=2, is_number=True),
    Column("UPTIME", is_number=True),
    Column("SEEN", rank=2),
    Column("LAST ERROR", rank=2, takes_rest=True),
)


def processes(scene: Scene, node: str) -> Page:
    """Of a node, or of all."""
    rows = [
        _row(scene, process) for process in scene.snapshot.processes if not node or process.name.node == node
    ]
    title = f"processes of {node}" if node else "processes"
    empty = "nobody tells of processes; 4 shows the replicas"
    return Page(title, COLUMNS, rows, empty)


def _row(scene: Scene, process: Process) -> Row:
    name = process.name
    findings = scene.about(str(name), name.node, *([f"shard-{name.shard}"] if name.shard is not None else []))
    role, style = "", PLAIN
    if name.shard is not None and (shard := scene.snapshot.shard(name.shard)) is not None:
        replica = next((each for each in shard.replicas if each.node == name.node), None)
        if replica is not None and replica.is_answering:
            role, style = replica.role, cells.role_letter(shard, replica).style
    return Row(
        key=str(name),
        cells=(
            cells.letter(process),
            Cell(str(name)),
            cells.state(process),
            Cell(role, style),
            Cell(str(process.pid) if process.pid else "-", DIM, sort=float(process.pid or -1)),
            cells.percent(process.cpu_percent),
            cells.size(process.rss_bytes),
            cells.number(process.restarts, WARN if process.restarts and findings else PLAIN),
            cells.since(process.started_at if process.pid else None, scene.now),
            _seen(process, scene.now),
            Cell(process.last_error, BAD if process.state != "running" else DIM),
        ),
        opens=Place(View.LOG, str(name)),
        process=name,
        findings=findings,
    )


def _seen(process: Process, now: float) -> Cell:
    if process.answered_at is None:
        return Cell("", sort=0.0)  # its state says that nobody answers for it
    return cells.age(process.answered_at, now, is_current=True)
