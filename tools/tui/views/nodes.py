"""The overview: node by node. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from config.process.report import State
from tools.tui.page import BAD, DIM, GOOD, LEAD, WARN, Cell, Column, Page, Row
from tools.tui.place import Place, View
from tools.tui.views import cells

if TYPE_CHECKING:
    from tools.admin.snapshot import Node
    from tools.tui.scene import Scene

COLUMNS: Final = (
    Column(" "),
    Column("NODE"),
    Column("ENDPOINT", rank=3),
    Column("UP"),
    Column("LEADS", is_number=True),
    Column("REPLICAS", is_number=True),
    Column("QUEUE", rank=2, is_number=True),
    Column("CPU", is_number=True),
    Column("RSS", is_number=True),
    Column("DATA", rank=2, is_number=True),
    Column("FREE", rank=3, is_number=True),
    Column("SYNC P99", rank=2, is_number=True),
)

_TOLD: Final = frozenset(map(str, State))
"""What a supervisor says of a process, and not we for want of its word."""


def overview(scene: Scene) -> Page:
    """What each node has and does."""
    return Page(
        "overview", COLUMNS, [_row(scene, node) for node in scene.snapshot.nodes], "no node is known yet"
    )


def _row(scene: Scene, node: Node) -> Row:
    snapshot = scene.snapshot
    processes = [process for process in snapshot.processes if process.name.node == node.name]
    replicas = [replica for replica in snapshot.replicas if replica.node == node.name]
    answering = [replica for replica in replicas if replica.is_answering]
    leads = sum(shard.leader == node.name and shard.leading is not None for shard in snapshot.shards)
    findings = scene.about(
        node.name,
        *(str(process.name) for process in processes),
        *(f"{replica.node}/shard-{replica.shard}" for replica in replicas),
    )
    running = sum(process.state == State.RUNNING for process in processes)
    if node.is_up is not False and any(process.state in _TOLD for process in processes):
        up = Cell(f"{running}/{len(processes)}", GOOD if running == len(processes) else WARN)
    else:
        words = {True: ("yes", GOOD), False: ("no", BAD), None: ("?", DIM)}
        up = Cell(*words[node.is_up])
    slowest = max(
        (replica.sync_p99_us for replica in answering if replica.sync_p99_us is not None), default=None
    )
    free = min(
        (replica.disk_free_bytes for replica in answering if replica.disk_free_bytes is not None),
        default=None,
    )
    data = cells.total([replica.database_bytes for replica in answering])
    rss = cells.total([process.rss_bytes for process in processes])
    serving = sum(not replica.fault for replica in answering)
    return Row(
        key=node.name,
        cells=(
            cells.mark(findings),
            Cell(node.name),
            Cell(node.endpoint, DIM),
            up,
            cells.number(leads, LEAD if leads else DIM),
            Cell(f"{serving}/{len(replicas)}", GOOD if serving == len(replicas) else WARN, sort=serving),
            cells.number(cells.total([replica.queued for replica in answering])),
            cells.percent(cells.total([process.cpu_percent for process in processes])),
            cells.size(None if rss is None else int(rss)),
            cells.size(None if data is None else int(data)),
            cells.size(free),
            cells.duration(slowest),
        ),
        opens=Place(View.PROCESSES if processes else View.REPLICAS, node.name),
        findings=findings,
    )
