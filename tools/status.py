"""`boathouse status`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import typer

from config.process.names import REPLICATOR
from tools.admin.cluster_source import ClusterSource
from tools.admin.diagnosis import gave_way, moving, too_new
from tools.admin.snapshot import DOWN, ELSEWHERE, Process, Replica, Replication, Snapshot
from tools.connection import given_reach
from tools.failure import Failed
from tools.output import Output, human_bytes, print_document, print_table
from tools.progress import working

if TYPE_CHECKING:
    from config import ClusterConfig
    from coordinator.replication.report import CopyReport

COPY_COLUMNS: Final = ["table", "position", "behind", "lag", "does", "reason"]
COLUMNS: Final = "node process state pid restarts cpu rss role leader revision".split()
WIDE_COLUMNS: Final = "term commit applied queued database wal sync_p99 since log".split()
UTC_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
SUPERVISOR_TIMEOUT_S: Final = 7.0
"""More than control_client's own limits, whose words say more than that it took too long."""


def status(cluster: ClusterConfig, output: Output) -> None:
    """Print every process of the cluster. Raises Failed if no supervisor of it answers here, or after the rest is
    printed, if one of them does not."""
    with working("asking supervisors and replicas"):
        found = look(cluster)
    if all(process.state in (DOWN, ELSEWHERE) for process in found.processes):
        raise Failed(f"cluster {cluster.cluster} is not up here (data in {cluster.data_dir})")
    rows = [_Row(found, process) for process in found.processes]
    if output.is_document:
        print_document(documents(found), output)
    else:
        print_table(output.columns(COLUMNS, WIDE_COLUMNS), [row.cells() for row in rows])
        for remark in remarks(found):
            typer.echo(remark)
        if found.replication is not None:
            _print_replication(found.replication, found.taken_at)
        if found.gave_way_to is not None:
            typer.echo(gave_way(found.cluster, found.gave_way_to))
        _print_followers(found)
    if found.problems:
        raise Failed("\n".join(found.problems))


def look(cluster: ClusterConfig) -> Snapshot:
    """All of the cluster now."""
    reach = given_reach(is_secure=cluster.tls.client is not None)
    with ClusterSource(cluster, supervisor_timeout_s=SUPERVISOR_TIMEOUT_S, reach=reach) as source:
        return source.poll()


def documents(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Every process, for programs."""
    return [_Row(snapshot, process).document() for process in snapshot.processes]


def remarks(snapshot: Snapshot) -> list[str]:
    """What is to be said of processes and tables beside their figures, a sentence each."""
    rows = [_Row(snapshot, process) for process in snapshot.processes]
    said = [f"{row.process.name}: {remark}" for row in rows if (remark := row.remark())]
    for table in snapshot.tables:
        if table.is_full:
            said.append(f"table {table.name} is full: what makes it grow is refused")
        if table.move is not None:
            said.append(f"table {table.name} is on its way {moving(table)}")
        said += [f"table {table.name}: {alarm} was raised, and refuses writes" for alarm in table.alarms]
    return said


def _size(count: int | None) -> str | None:
    return None if count is None else human_bytes(count)


def _print_replication(replication: Replication, now: float) -> None:
    report = replication.report
    if report is None:
        why = "nobody replicates" if replication.answered else "no replica of shard 1 could be asked"
        typer.echo(f"follows {replication.leader}: {why}")
        return
    if report.leads:
        so_far = f"has not given way: {report.trouble}" if report.trouble else "has given way"
        typer.echo(f"leads since epoch {report.epoch}; {replication.leader} {so_far}")
        return
    typer.echo(f"follows {replication.leader}: {report.node} said {max(0.0, now - report.at_s):.0f} s ago")
    if report.trouble:
        typer.echo(f"which tables it has is not known: {report.trouble}")
    print_table(COPY_COLUMNS, [_copy_cells(copy) for copy in report.copies])
    if report.tables > len(report.copies):
        typer.echo(f"and {report.tables - len(report.copies)} tables more, which are no worse off")
    for name, why in sorted(report.refused.items()):
        typer.echo(f"{name} is not copied: {why}")


def _print_followers(snapshot: Snapshot) -> None:
    """What clusters that follow this one have said of themselves, every few seconds."""
    rows = [
        {"table": table.name, "follower": name, "has": revision, "lacks": max(0, table.revision - revision)}
        for table in snapshot.tables
        for name, revision in table.followers.items()
    ]
    if rows:
        print_table(["table", "follower", "has", "lacks"], rows)


def _copy_cells(copy: CopyReport) -> dict[str, Any]:
    does = f"{copy.does} {copy.backoff_s:.1f} s" if copy.backoff_s else copy.does
    return {
        "table": copy.name,
        "position": copy.revision,
        "behind": copy.lag_revisions,
        "lag": f"{copy.lag_s:.1f} s",
        "does": f"{does}, STALLED" if copy.stalled else does,
        "reason": copy.trouble,
    }


class _Row:
    """One process with its replica, if it is one and answers."""

    def __init__(self, snapshot: Snapshot, process: Process) -> None:
        self.process = process
        self._replication = snapshot.replication
        self.leader: str | None = None
        self.replica: Replica | None = None
        self._unread: int | None = None
        number = process.name.shard
        if number is not None and (shard := snapshot.shard(number)) is not None:
            self.leader = shard.leader
            mine = next((each for each in shard.replicas if each.node == process.name.node), None)
            if mine is not None:
                self.replica = mine if mine.is_answering else None
                self._unread = mine.unread_protocol

    def remark(self) -> str:
        if self._unread is not None:
            return f"can't be read here: it answers in version {self._unread} of the protocol between nodes"
        if self.replica is not None and self.replica.fault:
            return self.replica.fault
        if self.replica is not None and self.replica.newer_protocol is not None:
            return too_new(self.replica.newer_protocol)
        if self.replica is not None and self.replica.no_space:
            return "its disk is nearly full: writes are refused, reads go on"
        return self.process.last_error

    def cells(self) -> dict[str, Any]:
        process, replica = self.process, self.replica
        return {
            "node": process.name.node,
            "process": process.name.local,
            "state": process.state,
            "pid": process.pid,
            "restarts": process.restarts,
            "cpu": None if process.cpu_percent is None else f"{process.cpu_percent:.0f}%",
            "rss": _size(process.rss_bytes),
            "role": replica and replica.role,
            "leader": self.leader,
            "revision": replica and replica.revision,
            "term": replica and replica.term,
            "commit": replica and replica.commit_index,
            "applied": replica and replica.applied_index,
            "queued": replica and replica.queued,
            "database": replica and _size(replica.database_bytes),
            "wal": replica and _size(replica.wal_bytes),
            "sync_p99": replica and replica.sync_p99_us and f"{replica.sync_p99_us / 1000:.1f} ms",
            "since": process.started_at
            and datetime.fromtimestamp(process.started_at, UTC).strftime(UTC_FORMAT),
            "log": process.log,
        }

    def document(self) -> dict[str, Any]:
        process, replica = self.process, self.replica
        name = process.name
        document: dict[str, Any] = {
            "node": name.node,
            "process": name.local,
            "kind": name.kind.module,
            "shard": name.shard,
            "pid": process.pid,
            "state": process.state,
            "restarts": process.restarts,
            "reason": process.last_error,
            "started_at": process.started_at,
            "log": process.log or None,
            "cpu_percent": process.cpu_percent,
            "rss_bytes": process.rss_bytes,
        }
        if name.kind is REPLICATOR and self._replication is not None:
            report = self._replication.report
            document["replication"] = None if report is None else asdict(report)
        if name.kind.is_replica:
            document |= {"role": None, "leader": self.leader, "revision": None, "tables": {}}
        if replica is not None:
            document |= {
                "role": replica.role,
                "term": replica.term,
                "commit_index": replica.commit_index,
                "applied_index": replica.applied_index,
                "queued": replica.queued,
                "database_bytes": replica.database_bytes,
                "wal_bytes": replica.wal_bytes,
                "sync_p99_us": replica.sync_p99_us,
                "no_space": replica.no_space,
                "fault": replica.fault,
                "revision": replica.revision,
                "tables": {table.name: table.revision for table in replica.tables},
            }
        return document
