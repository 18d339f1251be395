"""Replicas, as they say themselves. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from config.process.names import ProcessName
from tools.admin.diagnosis import sync_is_slow, wal_is_large
from tools.tui.page import BAD, DIM, PLAIN, WARN, Cell, Column, Page, Row
from tools.tui.place import Place, View
from tools.tui.views import cells

if TYPE_CHECKING:
    from tools.admin.snapshot import Replica, Shard
    from tools.tui.scene import Scene

COLUMNS: Final = (
    Column(" "),
    Column("REPLICA"),
    Column("ROLE"),
    Column("TERM", rank=3, is_number=True),
    Column("COMMIT", rank=2, is_number=True),
    Column("APPLIED", rank=2, is_number=True),
    Column("TRAILS", is_number=True),
    Column("QUEUE", is_number=True),
    Column("SYNC P99", is_number=True),
    Column("DATA", is_number=True),
    Column("WAL", rank=2, is_number=True),
    Column("RESTARTS", rank=4, is_number=True),
    Column("UPTIME", rank=3, is_number=True),
    Column("SEEN"),
    Column("LAST ERROR", rank=3, takes_rest=True),
)


def replicas(scene: Scene, subject: str) -> Page:
    """subject: a shard's number, a node, or "" for all."""
    rows = [
        _row(scene, shard, replica)
        for shard in scene.snapshot.shards
        for replica in shard.replicas
        if subject in ("", str(shard.number), replica.node)
    ]
    title = "replicas" + (f" of {'shard ' if subject.isdigit() else ''}{subject}" if subject else "")
    return Page(title, COLUMNS, rows, "no replica is known yet")


def _row(scene: Scene, shard: Shard, replica: Replica) -> Row:
    name = ProcessName.replica(replica.node, replica.shard)
    process = scene.snapshot.process(name)
    style = PLAIN if replica.is_answering else DIM  # what it said last
    sync_style = WARN if sync_is_slow(scene.snapshot, replica) else style
    wal_style = WARN if wal_is_large(scene.snapshot, replica) else style
    error = replica.fault or (process.last_error if process is not None else "")
    findings = scene.about(str(name), name.node, f"shard-{shard.number}")
    return Row(
        key=str(name),
        cells=(
            cells.role_letter(shard, replica),
            Cell(str(name)),
            Cell(replica.role or "-", style),
            cells.number(replica.term, style),
            cells.number(replica.commit_index, style),
            cells.number(replica.applied_index, style),
            cells.trails(shard, replica),
            cells.number(replica.queued, style),
            cells.duration(replica.sync_p99_us, sync_style),
            cells.size(replica.database_bytes, style),
            cells.size(replica.wal_bytes, wal_style),
            cells.number(process.restarts if process is not None else None),
            cells.since(process.started_at if process is not None and process.pid else None, scene.now),
            cells.age(replica.answered_at, scene.now, is_current=replica.is_answering),
            Cell(error, BAD if replica.fault else DIM),
        ),
        opens=Place(View.LOG, str(name)) if process is not None else None,
        process=name if process is not None else None,
        findings=findings,
    )
