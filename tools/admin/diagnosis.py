"""What may be wrong with a cluster: how it is told from a snapshot, what it means, and the command that mends it.

One table, RULES, for all who explain: the terminal interface beside a cell, `boathouse doctor` line by line. What can't
be seen in a snapshot, but is found out by trying (checks.py), has its rule here as well. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from config.process.names import ProcessName
from config.process.report import State
from tools.admin.snapshot import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tools.admin.snapshot import Process, Replica, Shard, Snapshot

TRAILS_ENTRIES: Final = 1_000
"""A follower in good health is behind by what is on its way, some hundred entries at most."""
QUEUED_MAX: Final = 5_000
"""A quarter of what a process lets wait (limits.pending_requests_max)."""
SYNC_SLOW_US: Final = 100_000
"""A tick (raft.tick_ms): syncs that take longer hold up heartbeats."""
WAL_LARGE_BYTES: Final = 256 << 20
"""limits.cursor_wal_bytes_max: only a reader that stays keeps the write-ahead log from being used again."""
CLOCK_OFF_MS: Final = 500
CRASHED_LATELY_S: Final = 60.0
REPORT_OLD_S: Final = 10.0
"""Who replicates says so every second, and is replaced within five."""
COPY_BEHIND_S: Final = 30.0

ETCD_REMEDY: Final = (
    "etcdctl endpoint status --cluster; etcdctl endpoint health --cluster; then the member's own log"
)
"""What is not ours has its own tools."""


class Severity(enum.IntEnum):
    """How much it matters. The higher the worse."""

    WARNING = 1
    """Clients are served; less is left to lose than there should be."""
    CRITICAL = 2
    """Some clients are not served, or data is in doubt."""


class Code(enum.StrEnum):
    """What is wrong; stable, for programs."""

    SHARD_NO_LEADER = "shard-no-leader"
    SHARD_NO_QUORUM = "shard-no-quorum"
    SHARD_BELOW_REPLICAS = "shard-below-replicas"
    NODE_DOWN = "node-down"
    SUPERVISOR_SILENT = "supervisor-silent"
    PROCESS_FAILED = "process-failed"
    PROCESS_STOPPED = "process-stopped"
    PROCESS_BACKOFF = "process-backoff"
    PROCESS_CRASHED = "process-crashed"
    REPLICA_SILENT = "replica-silent"
    REPLICA_FAULT = "replica-fault"
    REPLICA_NO_SPACE = "replica-no-space"
    REPLICA_TRAILS = "replica-trails"
    REPLICA_QUEUES = "replica-queues"
    REPLICA_SYNC_SLOW = "replica-sync-slow"
    REPLICA_WAL_LARGE = "replica-wal-large"
    CLOCK_OFF = "clock-off"
    MIXED_BUILDS = "mixed-builds"
    ALARM = "alarm"
    NOBODY_REPLICATES = "nobody-replicates"
    LEADER_CLUSTER_UNKNOWN = "leader-cluster-unknown"
    OLD_LEADER_LEADS = "old-leader-leads"
    COPY_STALLED = "copy-stalled"
    COPY_BEHIND = "copy-behind"
    TABLE_NOT_COPIED = "table-not-copied"
    DISK_LOW = "disk-low"
    DISK_SLOW = "disk-slow"
    DISK_UNUSABLE = "disk-unusable"
    FOLDER_OPEN = "folder-open"
    PORT_TAKEN = "port-taken"
    PORT_CLOSED = "port-closed"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a code stands for. {subject} and {file} in the remedy are put in."""

    severity: Severity
    meaning: str
    remedy: str


_W, _C = Severity.WARNING, Severity.CRITICAL

RULES: Final[Mapping[Code, Rule]] = {
    Code.SHARD_NO_LEADER: Rule(
        _C,
        "Writes and linearizable reads of its tables wait and then fail as UNAVAILABLE; serializable reads go on. With "
        "a majority of voters up an election takes a second or two.",
        "boathouse status {file}",
    ),
    Code.SHARD_NO_QUORUM: Rule(
        _C,
        "Fewer voters serve than it takes to commit, so nobody can be elected. Nothing that was acknowledged is lost: "
        "the shard goes on when a majority is back.",
        "boathouse start {subject} {file}",
    ),
    Code.SHARD_BELOW_REPLICAS: Rule(
        _W,
        "It serves, with fewer copies than it should have. If more voters go, it stops serving.",
        "boathouse start {subject} {file}",
    ),
    Code.NODE_DOWN: Rule(
        _C,
        "Nothing of this node answers. Its shards go on as long as the others are a majority; its clients have to use "
        "another node.",
        "boathouse up {file} --node {subject}",
    ),
    Code.SUPERVISOR_SILENT: Rule(
        _W,
        "The parent of the node's processes does not answer, so nobody restarts them. They go on serving.",
        "ps -fp $(cat the lock file in the node's folder); then boathouse up {file}",
    ),
    Code.PROCESS_FAILED: Rule(
        _C,
        "It crashed too often, or refused to start, and is left alone until somebody has looked.",
        "boathouse logs {subject} {file}; boathouse start {subject} {file}",
    ),
    Code.PROCESS_STOPPED: Rule(
        _W, "Somebody stopped it. It stays stopped until it is started.", "boathouse start {subject} {file}"
    ),
    Code.PROCESS_BACKOFF: Rule(
        _W,
        "It crashed and is started again after a wait, which doubles each time.",
        "boathouse logs {subject} {file}",
    ),
    Code.PROCESS_CRASHED: Rule(
        _W, "It ended by itself less than a minute ago, and runs again.", "boathouse logs {subject} {file}"
    ),
    Code.REPLICA_SILENT: Rule(
        _W,
        "Its process should run but does not answer. One that hangs is killed and started again by its supervisor "
        "(supervisor.hang_timeout_ms).",
        "boathouse logs {subject} {file}; boathouse restart {subject} {file}",
    ),
    Code.REPLICA_FAULT: Rule(
        _C,
        "It found its own data damaged, or different from the other replicas', and serves nothing. It is rebuilt from "
        "the leader if there is one.",
        "boathouse logs {subject} {file}",
    ),
    Code.REPLICA_NO_SPACE: Rule(
        _C,
        "Its disk is nearly full (store.disk_free_bytes_min): writes are refused as NOSPACE, except deletes and "
        "compactions; reads go on. Writes are taken again by themselves once there is space.",
        "free space on that disk, or delete keys and compact: boathouse kv del KEY --prefix",
    ),
    Code.REPLICA_TRAILS: Rule(
        _W,
        "It has not applied what its leader has committed. Until it has caught up it can't replace the leader without "
        "a pause, and its serializable reads are old.",
        "boathouse logs {subject} {file}; if it does not catch up: boathouse restart {subject} {file}",
    ),
    Code.REPLICA_QUEUES: Rule(
        _W,
        "More requests arrive than it answers. Beyond limits.pending_requests_max they are refused as "
        "RESOURCE_EXHAUSTED.",
        "spread tables over more shards, or leaders over more nodes: move this shard's leader",
    ),
    Code.REPLICA_SYNC_SLOW: Rule(
        _W,
        "Of a hundred syncs one takes longer than a tick. Each write waits for a majority's syncs, so a slow leader "
        "makes the whole shard slow.",
        "move the shard's leader to another node, and find out who else uses that disk: iostat -x 1",
    ),
    Code.REPLICA_WAL_LARGE: Rule(
        _W,
        "A reader that stays (an iteration, a snapshot for another replica) keeps the write-ahead log from being used "
        "again. It is cut back once the reader is gone.",
        "boathouse restart {subject} {file} ends its readers, if it does not shrink by itself",
    ),
    Code.CLOCK_OFF: Rule(
        _W,
        "This machine and that node disagree about the time. Consensus does not depend on it; leases and the times in "
        "logs do.",
        "chronyc tracking (or timedatectl timesync-status) on both machines",
    ),
    Code.MIXED_BUILDS: Rule(
        _W,
        "Replicas of the shard run different versions. That is fine during an upgrade; what only the newer one can do "
        "begins once all voters run it.",
        "finish the upgrade: boathouse restart {subject} {file}",
    ),
    Code.ALARM: Rule(
        _C,
        "The member raised an alarm. NOSPACE: writes are refused until there is space. CORRUPT: its data differs from "
        "the others'.",
        "etcdctl alarm list; after compacting and defragmenting: etcdctl alarm disarm",
    ),
    Code.NOBODY_REPLICATES: Rule(
        _C,
        "No node copies the leader cluster's tables, so what is read here gets old. A replicator that works says so "
        "every second; when its node dies, another one takes over within five.",
        "boathouse status {file}; boathouse logs n1/replicator {file}",
    ),
    Code.LEADER_CLUSTER_UNKNOWN: Rule(
        _C,
        "The leader cluster does not say which tables it has, so tables are neither made nor deleted here, and as a "
        "rule none is copied and no write is passed on. It is asked again all the time.",
        "boathouse logs {subject} {file}; then follows.endpoints, follows.tls and follows.token_file in the file",
    ),
    Code.OLD_LEADER_LEADS: Rule(
        _C,
        "This cluster was promoted, and the one that led before has not heard of it: writes that reach that one are "
        "taken, and are lost once it copies from here. It is told so as soon as it answers.",
        "there, if it can't be reached from here: boathouse fence --leader THIS --epoch N --yes; or stop it",
    ),
    Code.COPY_STALLED: Rule(
        _C,
        "The copy is neither level nor comes nearer: reads of it here get older and older, and writes that are passed "
        "on end without an answer, though they are made.",
        "boathouse logs {subject} {file}",
    ),
    Code.COPY_BEHIND: Rule(
        _W,
        "The copy comes nearer, but was not level for a while: reads of it here are that old.",
        "see whether boathouse_replication_table_lag_revisions falls; if not, the link or this cluster's disks are too "
        "slow for what the leader cluster writes",
    ),
    Code.TABLE_NOT_COPIED: Rule(
        _W,
        "The leader cluster has the table, and this cluster does not copy it.",
        "boathouse table list; boathouse logs {subject} {file}",
    ),
    Code.DISK_LOW: Rule(
        _W,
        "Less than four times what must stay free (store.disk_free_bytes_min) is left; below that writes are refused.",
        "df -h {subject}; free space, or move data_dir to a larger disk",
    ),
    Code.DISK_SLOW: Rule(
        _W,
        "A small write took this long to be durable. Every write of a client waits for one such sync on a majority of "
        "nodes.",
        "iostat -x 1 while it is slow; use a local SSD for data_dir",
    ),
    Code.DISK_UNUSABLE: Rule(
        _C, "The folder can't be written by this user, so no replica can start there.", "ls -ld {subject}; id"
    ),
    Code.FOLDER_OPEN: Rule(
        _W,
        "Other users of this machine can look into the data. A supervisor closes it when it starts.",
        "chmod -R go= {subject}",
    ),
    Code.PORT_TAKEN: Rule(
        _C,
        "Another program listens there, so the node can't start.",
        "ss -ltnp; give the node other ports in {file}",
    ),
    Code.PORT_CLOSED: Rule(
        _W,
        "The node is up, but nobody takes connections there.",
        "boathouse status {file}; a firewall in between",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one subject."""

    code: Code
    subject: str
    """A TARGET of the command line where there is one: n1, n1/shard-2, shard-2; else a path or an address."""
    says: str
    """What was seen, with its figures."""
    remedy: str

    @property
    def severity(self) -> Severity:
        """How much it matters."""
        return RULES[self.code].severity

    @property
    def meaning(self) -> str:
        """What it is for clients and data."""
        return RULES[self.code].meaning


def finding(code: Code, subject: str, says: str, *, file: str) -> Finding:
    """A finding with the remedy of its rule. file: the cluster file, as an operator would write it."""
    return Finding(code, subject, says, RULES[code].remedy.format(subject=subject, file=file).rstrip())


def diagnose(snapshot: Snapshot, *, file: str = "FILE") -> list[Finding]:
    """Everything that a snapshot shows to be wrong, the worst first."""
    seen = [
        *_of_nodes(snapshot),
        *(each for shard in snapshot.shards for each in _of_shard(snapshot, shard)),
        *(each for process in snapshot.processes for each in _of_process(snapshot, process)),
        *(
            each
            for shard in snapshot.shards
            for replica in shard.replicas
            for each in _of_replica(snapshot, shard, replica)
        ),
        *_of_replication(snapshot),
    ]
    found = [finding(code, subject, says, file=file) for code, subject, says in seen]
    if snapshot.is_etcd:
        found = [each if each.code is Code.ALARM else replace(each, remedy=ETCD_REMEDY) for each in found]
    return sorted(found, key=lambda each: -each.severity)


Seen = tuple[Code, str, str]


def _of_nodes(snapshot: Snapshot) -> Iterator[Seen]:
    silent = {process.name.node for process in snapshot.processes if process.state == UNKNOWN}
    for node in snapshot.nodes:
        if node.is_up is False:
            yield Code.NODE_DOWN, node.name, f"node {node.name} is down"
        if node.name in silent:
            yield Code.SUPERVISOR_SILENT, node.name, f"the supervisor of {node.name} does not answer"
        for alarm in snapshot.alarms.get(node.name, ()):
            yield Code.ALARM, node.name, f"{node.name} has raised {alarm}"


def _of_shard(snapshot: Snapshot, shard: Shard) -> Iterator[Seen]:
    subject = f"shard-{shard.number}"
    serving, voters = len(shard.serving), len(shard.voters)
    if shard.leader is None:
        yield Code.SHARD_NO_LEADER, subject, f"shard {shard.number} has no leader"
    if serving < shard.majority:
        yield (
            Code.SHARD_NO_QUORUM,
            subject,
            f"{serving} of {voters} voters of shard {shard.number} serve, it takes {shard.majority}",
        )
    elif serving < voters:
        yield (
            Code.SHARD_BELOW_REPLICAS,
            subject,
            f"{serving} of {voters} voters of shard {shard.number} serve",
        )
    levels = {replica.build_level for replica in shard.replicas if replica.build_level is not None}
    if len(levels) > 1:
        listed = ", ".join(map(str, sorted(levels)))
        yield Code.MIXED_BUILDS, subject, f"builds of levels {listed} run shard {shard.number}"


def _of_process(snapshot: Snapshot, process: Process) -> Iterator[Seen]:
    subject = str(process.name)
    because = f": {process.last_error}" if process.last_error else ""
    match process.state:
        case State.FAILED:
            yield Code.PROCESS_FAILED, subject, f"{subject} has failed{because}"
        case State.STOPPED:
            yield Code.PROCESS_STOPPED, subject, f"{subject} is stopped"
        case State.BACKOFF:
            yield Code.PROCESS_BACKOFF, subject, f"{subject} crashed and waits for its next start{because}"
        case State.RUNNING if process.last_error and process.started_at is not None:
            if 0 <= snapshot.taken_at - process.started_at < CRASHED_LATELY_S:
                yield Code.PROCESS_CRASHED, subject, f"{subject} has just been started again{because}"


def _of_replica(snapshot: Snapshot, shard: Shard, replica: Replica) -> Iterator[Seen]:
    subject = f"{replica.node}/shard-{replica.shard}"
    if not replica.is_answering:
        if _should_answer(snapshot, replica):
            yield Code.REPLICA_SILENT, subject, f"{subject} does not answer"
        return
    if replica.fault:
        yield Code.REPLICA_FAULT, subject, f"{subject} serves nothing: {replica.fault}"
    if replica.no_space:
        yield Code.REPLICA_NO_SPACE, subject, f"{subject} refuses writes: its disk is nearly full"
    behind = shard.trails(replica)
    if behind is not None and behind > TRAILS_ENTRIES:
        yield Code.REPLICA_TRAILS, subject, f"{subject} trails its leader by {behind:,} entries"
    if replica.queued is not None and replica.queued > QUEUED_MAX:
        yield Code.REPLICA_QUEUES, subject, f"{replica.queued:,} requests wait in {subject}"
    if replica.sync_p99_us is not None and replica.sync_p99_us > SYNC_SLOW_US:
        yield (
            Code.REPLICA_SYNC_SLOW,
            subject,
            f"one of a hundred syncs of {subject} takes {replica.sync_p99_us / 1000:,.0f} ms or more",
        )
    if replica.wal_bytes is not None and replica.wal_bytes > WAL_LARGE_BYTES:
        yield (
            Code.REPLICA_WAL_LARGE,
            subject,
            f"the write-ahead log of {subject} has {replica.wal_bytes >> 20} MiB",
        )
    if replica.clock_skew_ms is not None and abs(replica.clock_skew_ms) > CLOCK_OFF_MS:
        way = "ahead of" if replica.clock_skew_ms > 0 else "behind"
        yield (
            Code.CLOCK_OFF,
            subject,
            f"the clock of {replica.node} is at least {abs(replica.clock_skew_ms)} ms {way} ours",
        )


def _of_replication(snapshot: Snapshot) -> Iterator[Seen]:
    replication = snapshot.replication
    if replication is None or not replication.answered:
        return  # who could not be asked has a finding of his own
    report = replication.report
    if report is None or snapshot.taken_at - report.at_s > REPORT_OLD_S:
        last = "" if report is None else f"; {report.node} did {snapshot.taken_at - report.at_s:,.0f} s ago"
        yield Code.NOBODY_REPLICATES, "replicator", f"nobody copies {replication.leader}{last}"
        return
    subject = f"{report.node}/replicator"
    if report.trouble and report.leads:
        yield Code.OLD_LEADER_LEADS, subject, f"{replication.leader} has not given way: {report.trouble}"
    elif report.trouble:
        yield Code.LEADER_CLUSTER_UNKNOWN, subject, f"{replication.leader}: {report.trouble}"
    for copy in report.copies:
        because = f": {copy.trouble}" if copy.trouble else ""
        where = (
            f"at revision {copy.revision:,}, {copy.lag_revisions:,} behind, not level for {copy.lag_s:,.0f} s"
        )
        if copy.stalled:
            yield Code.COPY_STALLED, subject, f"the copy of {copy.name} makes no progress {where}{because}"
        elif copy.lag_s > COPY_BEHIND_S:
            yield Code.COPY_BEHIND, subject, f"the copy of {copy.name} is {where}{because}"
    for name, why in sorted(report.refused.items()):
        yield Code.TABLE_NOT_COPIED, subject, f"table {name} is not copied: {why}"


def _should_answer(snapshot: Snapshot, replica: Replica) -> bool:
    """Otherwise its process or its node has a finding that says more."""
    if any(node.name == replica.node and node.is_up is False for node in snapshot.nodes):
        return False
    process = snapshot.process(ProcessName.replica(replica.node, replica.shard))
    return process is None or process.state not in (State.STOPPED, State.FAILED, State.BACKOFF)
