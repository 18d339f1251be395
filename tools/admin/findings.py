"""What may be wrong with a cluster: what each thing means, and the commands that mend it. Pure.

One table, RULES, for all who explain: the terminal interface beside a cell, `boathouse doctor` line by line. Who looks
(diagnosis.py) and who tries (checks.py) makes findings of it."""

from __future__ import annotations

import enum
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class Severity(enum.IntEnum):
    """How much it matters. The higher the worse."""

    NOTE = 0
    """Nothing is wrong: it explains what is seen."""
    WARNING = 1
    """Clients are served; less is left to lose than there should be."""
    CRITICAL = 2
    """Some clients are not served, or data is in doubt."""


class Code(enum.StrEnum):
    """What is wrong; stable, for programs."""

    SHARD_NO_LEADER = "shard-no-leader"
    SHARD_NO_QUORUM = "shard-no-quorum"
    SHARD_BELOW_REPLICAS = "shard-below-replicas"
    SHARD_FEW_VOTERS = "shard-few-voters"
    NODE_DOWN = "node-down"
    EMPTY_NODE_DOWN = "empty-node-down"
    SUPERVISOR_SILENT = "supervisor-silent"
    PROCESS_FAILED = "process-failed"
    PROCESS_STOPPED = "process-stopped"
    PROCESS_STARTING = "process-starting"
    PROCESS_STOPPING = "process-stopping"
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
    NEWER_PROTOCOL = "newer-protocol"
    TOOL_TOO_OLD = "tool-too-old"
    ALARM = "alarm"
    TABLE_FULL = "table-full"
    TABLE_MOVES = "table-moves"
    TABLE_NEAR_QUOTA = "table-near-quota"
    CERTIFICATE_INVALID = "certificate-invalid"
    CERTIFICATE_ENDS = "certificate-ends"
    NOBODY_REPLICATES = "nobody-replicates"
    LEADER_CLUSTER_UNKNOWN = "leader-cluster-unknown"
    OLD_LEADER_LEADS = "old-leader-leads"
    GAVE_WAY = "gave-way"
    COPY_STALLED = "copy-stalled"
    COPY_BEHIND = "copy-behind"
    TABLE_NOT_COPIED = "table-not-copied"
    DISK_LOW = "disk-low"
    DISK_SLOW = "disk-slow"
    DISK_UNUSABLE = "disk-unusable"
    FOLDER_OPEN = "folder-open"
    PORT_TAKEN = "port-taken"
    PORT_CLOSED = "port-closed"
    NOT_TRIED = "not-tried"
    LIMITS_UNKNOWN = "limits-unknown"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a code stands for."""

    severity: Severity
    meaning: str
    remedies: tuple[str, ...]
    """Lines for a shell, to be tried in this order: a command, and behind a # when it helps, or what else does. Put in
    are {subject} and its parts, {node}, {number} and {table}; {file}, the cluster file; {endpoint}, of some node's
    clients; and what a finding names beside."""


_W, _C = Severity.WARNING, Severity.CRITICAL

RULES: Final[Mapping[Code, Rule]] = {
    Code.SHARD_NO_LEADER: Rule(
        _C,
        "Writes and linearizable reads of its tables wait and then fail as UNAVAILABLE; serializable reads go on. With "
        "a majority of voters up an election takes a second or two.",
        ("boathouse shard list {file}  # which of its replicas answer",),
    ),
    Code.SHARD_NO_QUORUM: Rule(
        _C,
        "Fewer voters serve than it takes to commit, so nobody can be elected. Nothing that was acknowledged is lost: "
        "the shard goes on when a majority is back.",
        (
            "boathouse start {subject} {file}",
            "boathouse up {file} --node {away}  # on its host, if all of the node is down",
            "boathouse recover {survivor} {file} --shard {number} --dry-run  # if the others are lost for good",
        ),
    ),
    Code.SHARD_BELOW_REPLICAS: Rule(
        _W,
        "It serves, with fewer copies than it should have. If more voters go, it stops serving.",
        (
            "boathouse start {subject} {file}",
            "boathouse up {file} --node {away}  # on its host, if all of the node is down",
        ),
    ),
    Code.SHARD_FEW_VOTERS: Rule(
        _W,
        "It has fewer voters than `replicas` in the file asks for, whether or not they are up, so it outlives fewer "
        "losses. A node that has none of its replicas can take one.",
        ("boathouse node add NODE {file}",),
    ),
    Code.NODE_DOWN: Rule(
        _C,
        "Nothing of this node answers. Its shards go on as long as the others are a majority; its clients have to use "
        "another node.",
        ("boathouse up {file} --node {subject}  # on its host",),
    ),
    Code.EMPTY_NODE_DOWN: Rule(
        _W,
        "It holds no replica, so no shard misses it: it has left, or has not come yet. Its clients have to use another "
        "node.",
        (
            "boathouse up {file} --node {subject}  # on its host; or, if it has left, take its line out of the file",
        ),
    ),
    Code.SUPERVISOR_SILENT: Rule(
        _W,
        "The parent of the node's processes does not answer, so nobody restarts them. They go on serving.",
        (
            "boathouse up {file} --node {subject}  # says who holds its folder; end that process, and then again",
        ),
    ),
    Code.PROCESS_FAILED: Rule(
        _C,
        "It crashed too often, or refused to start, and is left alone until somebody has looked.",
        ("boathouse logs {subject} {file}", "boathouse start {subject} {file}"),
    ),
    Code.PROCESS_STOPPED: Rule(
        _W,
        "Somebody stopped it. It stays stopped until it is started.",
        ("boathouse start {subject} {file}",),
    ),
    Code.PROCESS_STARTING: Rule(
        _W,
        "It is not ready yet. A replica first opens its database, and then waits for nobody. One that shows no sign of "
        "work is killed and started again (supervisor.start_timeout_ms).",
        ("boathouse logs {subject} {file}  # if it takes long",),
    ),
    Code.PROCESS_STOPPING: Rule(
        _W,
        "It was asked to stop, and hands over or finishes what it has begun (supervisor.stop_timeout_ms at most).",
        (
            "boathouse start {subject} {file}  # once it has stopped, if it is not started again by who stopped it",
        ),
    ),
    Code.PROCESS_BACKOFF: Rule(
        _W,
        "It crashed and is started again after a wait, which doubles each time.",
        ("boathouse logs {subject} {file}",),
    ),
    Code.PROCESS_CRASHED: Rule(
        _W,
        "It crashed, or hung and was killed, less than a minute ago, and runs again.",
        ("boathouse logs {subject} {file}",),
    ),
    Code.REPLICA_SILENT: Rule(
        _W,
        "Its process should run but does not answer. One that hangs is killed and started again by its supervisor "
        "(supervisor.hang_timeout_ms).",
        ("boathouse logs {subject} {file}", "boathouse restart {subject} {file}"),
    ),
    Code.REPLICA_FAULT: Rule(
        _C,
        "It found its own data damaged, or different from the other replicas', and serves nothing. It is rebuilt from "
        "the leader if there is one.",
        ("boathouse logs {subject} {file}",),
    ),
    Code.REPLICA_NO_SPACE: Rule(
        _C,
        "Its disk is nearly full (store.disk_free_bytes_min): writes are refused as NOSPACE, except deletes and "
        "compactions; reads go on. Writes are taken again by themselves once there is space.",
        (
            "df -h  # on the host of {node}: free space, or move data_dir to a larger disk",
            "boathouse kv del KEY --prefix -e {endpoint}  # of what is not needed; a compaction frees it",
        ),
    ),
    Code.REPLICA_TRAILS: Rule(
        _W,
        "It has not applied what its leader has committed. Until it has caught up it can't replace the leader without "
        "a pause, and its serializable reads are old.",
        (
            "boathouse logs {subject} {file}",
            "boathouse restart {subject} {file}  # if it does not catch up by itself",
        ),
    ),
    Code.REPLICA_QUEUES: Rule(
        _W,
        "More requests arrive than it answers. Beyond limits.pending_requests_max they are refused as "
        "RESOURCE_EXHAUSTED.",
        (
            "boathouse shard move-leader {number} {file}  # to a node that has less to do",
            "boathouse shard rebalance {file} --dry-run  # or its tables to other shards",
        ),
    ),
    Code.REPLICA_SYNC_SLOW: Rule(
        _W,
        "Of a hundred syncs one takes longer than a tick. Each write waits for a majority's syncs, so a slow leader "
        "makes the whole shard slow.",
        (
            "boathouse shard move-leader {number} {file}  # if {node} leads it",
            "iostat -x 1  # on the host of {node}: who else uses that disk",
        ),
    ),
    Code.REPLICA_WAL_LARGE: Rule(
        _W,
        "A reader that stays (an iteration, a snapshot for another replica) keeps the write-ahead log from being used "
        "again. It is cut back once the reader is gone.",
        ("boathouse restart {subject} {file}  # ends its readers, if it does not shrink by itself",),
    ),
    Code.CLOCK_OFF: Rule(
        _W,
        "This machine and that node disagree about the time. Consensus does not depend on it; leases and the times in "
        "logs do.",
        ("chronyc tracking  # on both machines; or: timedatectl timesync-status",),
    ),
    Code.MIXED_BUILDS: Rule(
        _W,
        "Replicas of the shard run different versions. That is fine during an upgrade; what only the newer one can do "
        "begins once all voters run it.",
        ("boathouse restart {subject} {file}  # finishes the upgrade, once all hosts have the new version",),
    ),
    Code.NEWER_PROTOCOL: Rule(
        _C,
        "Others of its shard, or coordinators, run a version whose messages it can't read: it takes no part, and what "
        "they ask of it ends without an answer.",
        ("boathouse restart {node} {file}  # on its host, once the new version is installed there",),
    ),
    Code.TOOL_TOO_OLD: Rule(
        _W,
        "What it says can't be read here: this program is older than that node. How the replica is, is not known.",
        ("boathouse version  # use the program that is installed on {node}",),
    ),
    Code.ALARM: Rule(
        _C,
        "An alarm is raised. NOSPACE: writes are refused until there is space. CORRUPT: data differs between replicas, "
        "and no write is taken.",
        (
            "etcdctl --endpoints={endpoint} alarm list",
            "etcdctl --endpoints={endpoint} alarm disarm  # once its cause is gone; of a table with a port, by that",
        ),
    ),
    Code.TABLE_FULL: Rule(
        _C,
        "It has reached its quota: writes that make it grow are refused as NOSPACE; deletes, compactions, reads and "
        "other tables go on. Writes are taken again by themselves once more than a sixteenth of the quota is free.",
        (
            "boathouse kv del KEY --prefix -t {table} -e {endpoint}  # of what is not needed; a compaction frees it",
            "boathouse restart --all {file}  # once the files of all nodes say a larger tables.{table}.quota",
        ),
    ),
    Code.TABLE_MOVES: Rule(
        Severity.NOTE,
        "It is on its way to another shard, and is served meanwhile; writes wait for a moment while the other takes "
        "over. It stands still while one of the two has no leader.",
        (
            "boathouse table move {table} --to {target} -e {endpoint}  # says how far it is, until it is there",
            "boathouse table move {table} --cancel -e {endpoint}  # lets it stay",
        ),
    ),
    Code.TABLE_NEAR_QUOTA: Rule(
        _W,
        "Once it has reached its quota, writes that make it grow are refused as NOSPACE.",
        (
            "boathouse restart --all {file}  # once the files of all nodes say a larger tables.{table}.quota",
            "boathouse kv del KEY --prefix -t {table} -e {endpoint}  # of what is not needed; a compaction frees it",
        ),
    ),
    Code.CERTIFICATE_INVALID: Rule(
        _C,
        "New connections fail; open ones go on.",
        ("openssl x509 -noout -subject -dates -in {subject}  # on {nodes}; a newer one is read by itself",),
    ),
    Code.CERTIFICATE_ENDS: Rule(
        _W,
        "From then on, new connections fail; open ones go on.",
        ("openssl x509 -noout -subject -dates -in {subject}  # on {nodes}; a newer one is read by itself",),
    ),
    Code.NOBODY_REPLICATES: Rule(
        _C,
        "No node copies the leader cluster's tables, so what is read here gets old. A replicator that works says so "
        "every second; when its node dies, another one takes over within five.",
        ("boathouse status {file}", "boathouse logs {reporter}/replicator {file}"),
    ),
    Code.LEADER_CLUSTER_UNKNOWN: Rule(
        _C,
        "The leader cluster does not say which tables it has, so tables are neither made nor deleted here, and as a "
        "rule none is copied and no write is passed on. It is asked again all the time.",
        (
            "boathouse logs {subject} {file}  # then follows.endpoints, follows.tls and follows.token_file in the file",
        ),
    ),
    Code.OLD_LEADER_LEADS: Rule(
        _C,
        "This cluster was promoted, and the one that led before has not heard of it: writes that reach that one are "
        "taken, and are lost once it copies from here. It is told so as soon as it answers.",
        (
            "boathouse fence --leader {cluster} --epoch {epoch} --yes  # there, if it can't be reached from here",
        ),
    ),
    Code.GAVE_WAY: Rule(
        _W,
        "Another cluster was promoted, or this one was fenced by hand, or followed that one until its file named none: "
        "what is read here gets old, and writes are refused. With that cluster as follows in the file it copies from "
        "there.",
        (
            "boathouse up {file}  # again, once the file says what it follows",
            "boathouse promote {file} --force  # if this one is to lead after all",
        ),
    ),
    Code.COPY_STALLED: Rule(
        _C,
        "The copy is neither level nor comes nearer: reads of it here get older and older, and writes that are passed "
        "on end without an answer, though they are made.",
        ("boathouse logs {subject} {file}",),
    ),
    Code.COPY_BEHIND: Rule(
        _W,
        "The copy comes nearer, but was not level for a while: reads of it here are that old.",
        ("boathouse status {file}  # if it comes no nearer, the link or the disks here are too slow",),
    ),
    Code.TABLE_NOT_COPIED: Rule(
        _W,
        "The table is not the leader cluster's: it is not copied here, can't be changed as there, or led before, and"
        " was never copied there.",
        ("boathouse table list -e {endpoint}", "boathouse logs {subject} {file}"),
    ),
    Code.DISK_LOW: Rule(
        _W,
        "Less than four times what must stay free (store.disk_free_bytes_min) is left; below that writes are refused.",
        ("df -h {subject}  # free space, or move data_dir to a larger disk",),
    ),
    Code.DISK_SLOW: Rule(
        _W,
        "A small write took this long to be durable. Every write of a client waits for one such sync on a majority of "
        "nodes.",
        ("iostat -x 1  # while it is slow: who else uses that disk; a local SSD for data_dir is what helps",),
    ),
    Code.DISK_UNUSABLE: Rule(
        _C,
        "The folder can't be written by this user, so no replica can start there.",
        ("ls -ld {subject}", "id"),
    ),
    Code.FOLDER_OPEN: Rule(
        _W,
        "Other users of this machine can look into the data. A supervisor closes it when it starts.",
        ("chmod -R go= {subject}",),
    ),
    Code.PORT_TAKEN: Rule(
        _C,
        "Another program listens there, so the node can't start.",
        ("ss -ltnp  # who it is; or give the node other ports in the cluster file",),
    ),
    Code.PORT_CLOSED: Rule(
        _W,
        "The node is up, but nobody takes connections there.",
        ("boathouse status {file}  # if all of it runs, a firewall is in between",),
    ),
    Code.NOT_TRIED: Rule(
        Severity.NOTE,
        "From here that can't be looked at, and something may be wrong with it all the same.",
        ("boathouse doctor {file}  # {where}",),
    ),
    Code.LIMITS_UNKNOWN: Rule(
        Severity.NOTE,
        "Queues, write-ahead logs and syncs are held against what counts where the file says nothing.",
        ("boathouse doctor {file}  # which looks at the file",),
    ),
}

ETCD_REMEDIES: Final = (
    "etcdctl endpoint status --cluster",
    "etcdctl endpoint health --cluster  # then the member's own log",
)
"""What is not ours has its own tools."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one subject."""

    code: Code
    subject: str
    """A TARGET of the command line where there is one: n1, n1/shard-2, shard-2; else `table NAME`, a path or an
    address."""
    says: str
    """What was seen, with its figures."""
    remedies: tuple[str, ...]
    """As RULES has them, for this subject."""
    also: tuple[str, ...] = ()
    """What else it is about: the table that a replicator does not copy, the nodes that show a certificate."""

    @property
    def severity(self) -> Severity:
        """How much it matters."""
        return RULES[self.code].severity

    @property
    def meaning(self) -> str:
        """What it is for clients and data."""
        return RULES[self.code].meaning


def finding(
    code: Code, subject: str, says: str, *, file: str, also: tuple[str, ...] = (), **names: object
) -> Finding:
    """A finding with the remedies of its rule. file: the cluster file, as an operator would write it. names: what the
    remedies name beside the subject and its parts."""
    words = {
        "subject": subject,
        "node": subject.partition("/")[0],
        "number": subject.rpartition("shard-")[2],
        "table": subject.removeprefix("table "),
        "file": file,
        **names,
    }
    remedies = tuple(_for_a_shell(remedy, words) for remedy in RULES[code].remedies)
    return Finding(code, subject, says, remedies, also)


def _for_a_shell(remedy: str, words: Mapping[str, object]) -> str:
    """With these words in it, which may hold anything: each stays one word of the command, or in the comment's line."""
    command, sign, comment = remedy.partition("  # ")
    if not words["file"]:
        command = command.replace(" {file}", "")
    quoted = command.format_map({name: shlex.quote(str(word)) for name, word in words.items()})
    return quoted + sign + " ".join(comment.format_map(words).split())
