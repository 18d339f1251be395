"""What is wrong with a cluster, as far as a snapshot shows it. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from config.process.names import ProcessName
from config.process.report import State
from tools.admin.findings import ETCD_REMEDIES, Code, Finding, finding
from tools.admin.snapshot import DOWN, ELSEWHERE, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from coordinator.replication.report import CopyReport
    from proto.catalog import Lead
    from tools.admin.snapshot import Certificate, Process, Replica, Shard, Snapshot, Table

TRAILS_ENTRIES: Final = 1_000
"""A follower in good health is behind by what is on its way, some hundred entries at most."""
QUEUE_LONG: Final = 0.25
"""Of what a process lets wait (limits.pending_requests_max)."""
CLOCK_OFF_MS: Final = 500
CRASHED_LATELY_S: Final = 60.0
REPORT_OLD_S: Final = 10.0
"""Who replicates says so every second, and is replaced within five."""
COPY_BEHIND_S: Final = 30.0
NEAR_QUOTA: Final = 0.9
CERTIFICATE_ENDS_S: Final = 30 * 86_400.0


SYNCS_MIN: Final = 100
"""Of fewer, one in a hundred is the slowest, and any disk has a slow one now and then."""


def sync_is_slow(snapshot: Snapshot, replica: Replica) -> bool:
    """Whether syncs take longer than a tick, which holds up heartbeats."""
    if replica.syncs_of_late is not None and replica.syncs_of_late < SYNCS_MIN:
        return False
    return replica.sync_p99_us is not None and replica.sync_p99_us > 1_000 * snapshot.raft.tick_ms


def wal_is_large(snapshot: Snapshot, replica: Replica) -> bool:
    """Whether the write-ahead log is longer than limits.cursor_wal_bytes_max: only a reader that stays keeps it from
    being used again."""
    return replica.wal_bytes is not None and replica.wal_bytes > snapshot.limits.cursor_wal_bytes_max


def too_new(protocol: int) -> str:
    """What it is for a replica to be spoken to in a protocol that it can't read."""
    return f"is spoken to in version {protocol} of the protocol between nodes, which is too new for it"


def gave_way(cluster: str, lead: Lead) -> str:
    """What has become of a cluster that led, or of one whose file named another to follow."""
    return (
        f"cluster {lead.cluster} leads since epoch {lead.epoch}, and the file of cluster {cluster} names none to"
        " follow: replicated tables take no writes here"
    )


def moving(table: Table) -> str:
    """Where a table is on its way, and how far it is."""
    move = table.move
    assert move is not None
    way = f"from shard {table.shard} to shard {move.target}"
    if move.is_fenced:
        return f"{way}, which takes it over now"
    of = "" if table.keys is None else f" of {table.keys:,}"
    return way if move.keys is None else f"{way}: {move.keys:,}{of} keys are there"


def of_certificates(certificates: Iterable[Certificate], *, now: float, file: str) -> Iterator[Finding]:
    """Those that have ended, or soon will."""
    for certificate in certificates:
        subject, nodes = certificate.file, ", ".join(certificate.nodes)
        left_s = certificate.ends_at - now
        if left_s <= 0:
            code = Code.CERTIFICATE_INVALID
            says = f"{subject} of {nodes} ended on {_day(certificate.ends_at)}"
        elif now < certificate.begins_at:
            code = Code.CERTIFICATE_INVALID
            says = f"{subject} of {nodes} is not valid before {_day(certificate.begins_at)}"
        elif left_s < CERTIFICATE_ENDS_S:
            code = Code.CERTIFICATE_ENDS
            says = f"{subject} of {nodes} ends on {_day(certificate.ends_at)}, in {left_s / 86_400:.0f} days"
        else:
            continue
        yield finding(code, subject, says, file=file, also=certificate.nodes, nodes=nodes)


def _day(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M}Z"


def diagnose(snapshot: Snapshot, *, file: str = "FILE") -> list[Finding]:
    """Everything that a snapshot shows to be wrong, the worst first."""
    look = _Look(snapshot, file)
    found = [
        *look.at_nodes(),
        *(each for shard in snapshot.shards for each in look.at_shard(shard)),
        *(each for process in snapshot.processes for each in look.at_process(process)),
        *(
            each
            for shard in snapshot.shards
            for replica in shard.replicas
            for each in look.at_replica(shard, replica)
        ),
        *(each for table in snapshot.tables for each in look.at_table(table)),
        *look.at_replication(),
        *of_certificates(snapshot.certificates, now=snapshot.taken_at, file=file),
    ]
    if snapshot.is_etcd:
        found = [each if each.code is Code.ALARM else replace(each, remedies=ETCD_REMEDIES) for each in found]
    return sorted(found, key=lambda each: -each.severity)


class _Look:
    def __init__(self, snapshot: Snapshot, file: str) -> None:
        self._snapshot = snapshot
        self._file = file
        up = [node.endpoint for node in snapshot.nodes if node.is_up is not False]
        self._endpoint = up[0] if up else ""

    def _found(
        self, code: Code, subject: str, says: str, also: tuple[str, ...] = (), **names: object
    ) -> Finding:
        return finding(code, subject, says, also=also, file=self._file, endpoint=self._endpoint, **names)

    def at_nodes(self) -> Iterator[Finding]:
        holding = {replica.node for replica in self._snapshot.replicas}
        # From endpoints nobody may have told who holds a shard.
        is_known = all(shard.replicas for shard in self._snapshot.shards)
        silent = {process.name.node for process in self._snapshot.processes if process.state == UNKNOWN}
        for node in self._snapshot.nodes:
            if node.is_up is False and (node.name in holding or not is_known):
                yield self._found(Code.NODE_DOWN, node.name, f"node {node.name} is down")
            elif node.is_up is False:
                says = f"node {node.name}, which holds no replica, is down"
                yield self._found(Code.EMPTY_NODE_DOWN, node.name, says)
            if node.name in silent:
                says = f"the supervisor of {node.name} does not answer"
                yield self._found(Code.SUPERVISOR_SILENT, node.name, says)
            for alarm in self._snapshot.alarms.get(node.name, ()):
                yield self._found(Code.ALARM, node.name, f"{node.name} has raised {alarm}")

    def at_shard(self, shard: Shard) -> Iterator[Finding]:
        subject = f"shard-{shard.number}"
        serving, voters = len(shard.serving), len(shard.voters)
        serve = f"{serving} of {voters} voters of shard {shard.number} serve"
        away = [node for node in shard.voters if node not in {replica.node for replica in shard.serving}]
        if shard.leader is None:
            yield self._found(Code.SHARD_NO_LEADER, subject, f"shard {shard.number} has no leader")
        if not voters:
            return  # nobody has told who belongs to it
        if serving < shard.majority:
            furthest = max(shard.replicas, key=lambda each: (each.term or 0, each.commit_index or 0))
            yield self._found(
                Code.SHARD_NO_QUORUM,
                subject,
                f"{serve}, it takes {shard.majority}",
                away=away[0],
                survivor=furthest.node,
            )
        elif serving < voters:
            yield self._found(Code.SHARD_BELOW_REPLICAS, subject, serve, away=away[0])
        if voters < shard.wanted:
            few = "1 voter" if voters == 1 else f"{voters} voters"
            says = f"shard {shard.number} has {few}, the file asks for {shard.wanted}"
            yield self._found(Code.SHARD_FEW_VOTERS, subject, says)
        levels = {replica.build_level for replica in shard.replicas if replica.build_level is not None}
        if len(levels) > 1:
            listed = ", ".join(map(str, sorted(levels)))
            says = f"builds of levels {listed} run shard {shard.number}"
            yield self._found(Code.MIXED_BUILDS, subject, says)

    def at_process(self, process: Process) -> Iterator[Finding]:
        subject = str(process.name)
        because = f": {process.last_error}" if process.last_error else ""
        match process.state:
            case State.FAILED:
                yield self._found(Code.PROCESS_FAILED, subject, f"{subject} has failed{because}")
            case State.STOPPED:
                yield self._found(Code.PROCESS_STOPPED, subject, f"{subject} is stopped")
            case State.STARTING:
                since = "" if process.started_at is None else f" for {self._since(process.started_at):,.0f} s"
                yield self._found(
                    Code.PROCESS_STARTING, subject, f"{subject} has been starting{since}{because}"
                )
            case State.STOPPING:
                yield self._found(Code.PROCESS_STOPPING, subject, f"{subject} is stopping")
            case State.BACKOFF:
                says = f"{subject} crashed and waits for its next start{because}"
                yield self._found(Code.PROCESS_BACKOFF, subject, says)
            case State.RUNNING if process.last_error and process.started_at is not None:
                if 0 <= self._since(process.started_at) < CRASHED_LATELY_S:
                    says = f"{subject} has just been started again{because}"
                    yield self._found(Code.PROCESS_CRASHED, subject, says)

    def _since(self, unix_s: float) -> float:
        return self._snapshot.taken_at - unix_s

    def at_replica(self, shard: Shard, replica: Replica) -> Iterator[Finding]:
        subject = f"{replica.node}/shard-{replica.shard}"
        if not replica.is_answering:
            if replica.unread_protocol is not None:
                says = f"{subject} answers in version {replica.unread_protocol} of the protocol between nodes"
                yield self._found(Code.TOOL_TOO_OLD, subject, says)
            elif self._should_answer(replica):
                yield self._found(Code.REPLICA_SILENT, subject, f"{subject} does not answer")
            return
        if replica.fault:
            yield self._found(Code.REPLICA_FAULT, subject, f"{subject} serves nothing: {replica.fault}")
        if replica.newer_protocol is not None:
            says = f"{subject} {too_new(replica.newer_protocol)}"
            yield self._found(Code.NEWER_PROTOCOL, subject, says)
        if replica.no_space:
            says = f"{subject} refuses writes: its disk is nearly full"
            yield self._found(Code.REPLICA_NO_SPACE, subject, says)
        behind = shard.trails(replica)
        if behind is not None and behind > TRAILS_ENTRIES:
            says = f"{subject} trails its leader by {behind:,} entries"
            yield self._found(Code.REPLICA_TRAILS, subject, says)
        if (replica.queued or 0) > QUEUE_LONG * self._snapshot.limits.pending_requests_max:
            yield self._found(Code.REPLICA_QUEUES, subject, f"{replica.queued:,} requests wait in {subject}")
        if sync_is_slow(self._snapshot, replica):
            says = f"one of a hundred syncs of {subject} takes {(replica.sync_p99_us or 0) / 1000:,.0f} ms or more"
            yield self._found(Code.REPLICA_SYNC_SLOW, subject, says)
        if wal_is_large(self._snapshot, replica):
            says = f"the write-ahead log of {subject} has {(replica.wal_bytes or 0) >> 20} MiB"
            yield self._found(Code.REPLICA_WAL_LARGE, subject, says)
        if replica.clock_skew_ms is not None and abs(replica.clock_skew_ms) > CLOCK_OFF_MS:
            way = "ahead of" if replica.clock_skew_ms > 0 else "behind"
            says = f"the clock of {replica.node} is at least {abs(replica.clock_skew_ms)} ms {way} ours"
            yield self._found(Code.CLOCK_OFF, subject, says)

    def _should_answer(self, replica: Replica) -> bool:
        """Otherwise its process or its node has a finding that says more."""
        if any(node.name == replica.node and node.is_up is False for node in self._snapshot.nodes):
            return False
        process = self._snapshot.process(ProcessName.replica(replica.node, replica.shard))
        return process is None or process.state in (State.RUNNING, DOWN, ELSEWHERE, UNKNOWN)

    def at_table(self, table: Table) -> Iterator[Finding]:
        subject = f"table {table.name}"
        for alarm in table.alarms:
            yield self._found(Code.ALARM, subject, f"{alarm} was raised for table {table.name}")
        if table.move is not None:
            says = f"table {table.name} is on its way {moving(table)}"
            yield self._found(Code.TABLE_MOVES, subject, says, target=table.move.target)
        if table.size_bytes is None or table.quota_bytes is None:
            return
        held = f"holds {table.size_bytes / (1 << 20):,.1f} of {table.quota_bytes / (1 << 20):,.1f} MiB"
        if table.is_full:
            yield self._found(Code.TABLE_FULL, subject, f"table {table.name} is full: it {held}")
        elif table.size_bytes > NEAR_QUOTA * table.quota_bytes:
            yield self._found(Code.TABLE_NEAR_QUOTA, subject, f"table {table.name} {held}")

    def at_replication(self) -> Iterator[Finding]:
        lead, replication = self._snapshot.gave_way_to, self._snapshot.replication
        if lead is not None:
            cluster = self._snapshot.cluster
            yield self._found(Code.GAVE_WAY, f"cluster {cluster}", gave_way(cluster, lead))
        if replication is None or not replication.answered:
            return  # who could not be asked has a finding of his own
        report = replication.report
        if report is None or self._since(report.at_s) > REPORT_OLD_S:
            last = "" if report is None else f"; {report.node} did {self._since(report.at_s):,.0f} s ago"
            reporter = self._snapshot.nodes[0].name if report is None else report.node
            says = f"nobody copies {replication.leader}{last}"
            yield self._found(Code.NOBODY_REPLICATES, "replicator", says, reporter=reporter)
            return
        subject = f"{report.node}/replicator"
        if report.trouble and report.leads:
            yield self._found(
                Code.OLD_LEADER_LEADS,
                subject,
                f"{replication.leader} has not given way: {report.trouble}",
                cluster=self._snapshot.cluster,
                epoch=report.epoch,
            )
        elif report.trouble:
            says = f"{replication.leader}: {report.trouble}"
            yield self._found(Code.LEADER_CLUSTER_UNKNOWN, subject, says)
        for copy in report.copies:
            yield from self._at_copy(subject, copy)
        for name, why in sorted(report.refused.items()):
            says = f"table {name} is not copied: {why}"
            yield self._found(Code.TABLE_NOT_COPIED, subject, says, (f"table {name}",))

    def _at_copy(self, subject: str, copy: CopyReport) -> Iterator[Finding]:
        because = f": {copy.trouble}" if copy.trouble else ""
        where = (
            f"at position {copy.revision:,}, {copy.lag_revisions:,} behind, not level for {copy.lag_s:,.0f} s"
        )
        also = (f"table {copy.name}",)
        if copy.stalled:
            says = f"the copy of {copy.name} makes no progress {where}{because}"
            yield self._found(Code.COPY_STALLED, subject, says, also)
        elif copy.lag_s > COPY_BEHIND_S:
            yield self._found(Code.COPY_BEHIND, subject, f"the copy of {copy.name} is {where}{because}", also)
