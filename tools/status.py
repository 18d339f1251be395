"""`boathouse status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import typer

from tools.admin.status import NotUp, ProcessRow, gather
from tools.failure import Failed
from tools.output import Output, human_bytes, print_json, print_table

if TYPE_CHECKING:
    from config import ClusterConfig

COLUMNS: Final = "node process state pid restarts cpu rss role leader revision".split()


def status(cluster: ClusterConfig, output: Output) -> None:
    """Print every process of the cluster. Raises Failed if no supervisor of it answers here, or after the rest is
    printed, if one of them does not."""
    try:
        found = gather(cluster)
    except NotUp as error:
        raise Failed(str(error)) from None
    if output is Output.JSON:
        print_json([_document(row) for row in found.rows])
    else:
        print_table(COLUMNS, [_cells(row) for row in found.rows])
        for row in found.rows:
            if reason := _remark(row):
                typer.echo(f"{row.name}: {reason}")
    if found.problems:
        raise Failed("\n".join(found.problems))


def _remark(row: ProcessRow) -> str:
    if row.replica is not None and row.replica.fault:
        return row.replica.fault
    return row.report.reason if row.report is not None else ""


def _cells(row: ProcessRow) -> dict[str, Any]:
    report, replica = row.report, row.replica
    return {
        "node": row.name.node,
        "process": row.name.local,
        "state": row.state,
        "pid": report and report.pid,
        "restarts": report and report.restarts,
        "cpu": None if row.cpu_percent is None else f"{row.cpu_percent:.0f}%",
        "rss": None if row.rss_bytes is None else human_bytes(row.rss_bytes),
        "role": replica and replica.role,
        "leader": row.leader,
        "revision": replica and replica.revision,
    }


def _document(row: ProcessRow) -> dict[str, Any]:
    name, report, replica = row.name, row.report, row.replica
    document: dict[str, Any] = {
        "node": name.node,
        "process": name.local,
        "kind": name.kind.module,
        "shard": name.shard,
        "pid": report and report.pid,
        "state": row.state,
        "restarts": report and report.restarts,
        "reason": report.reason if report else "",
        "started_at": report and report.started_at,
        "log": report and report.log,
        "cpu_percent": row.cpu_percent,
        "rss_bytes": row.rss_bytes,
    }
    if name.kind.is_replica:
        document |= {
            "role": None,
            "leader": row.leader,
            "revision": None,
            "tables": {},
        }
    if replica is not None:
        document |= {
            "role": replica.role,
            "term": replica.term,
            "commit_index": replica.commit_index,
            "applied_index": replica.applied_index,
            "database_bytes": replica.database_bytes,
            "no_space": replica.no_space,
            "fault": replica.fault,
            "revision": replica.revision,
            "tables": dict(replica.tables),
        }
    return document
