"""What is known of a cluster at one moment, as values. Who gathers them (cluster_source, coordinator_source,
etcd_source) and who shows them (commands, the terminal interface) agree on nothing else.

A figure that nobody measures or that was not told is None, never 0. What did not answer this time keeps what it said
last, with the time when it said so: `answered_at`, in Unix seconds like every time here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from config.tuning import LimitsConfig, RaftConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from config.process.names import ProcessName
    from coordinator.replication.report import CopyReport, Report
    from proto.catalog import Lead
    from tools.admin.node_pages import Series

DOWN: Final = "down"
"""Of a process: no supervisor of its node is here, though it should be."""
ELSEWHERE: Final = "elsewhere"
"""Of a process: another machine's business, and its coordinator does not tell of it."""
UNKNOWN: Final = "unknown"
"""Of a process: its supervisor did not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node, or one member of an etcd cluster."""

    name: str
    endpoint: str
    """host:port of its clients."""
    is_up: bool | None
    """Whether anything of it answers; None where nobody could tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process, as its supervisor and the operating system have it."""

    name: ProcessName
    state: str
    """Its State, or DOWN, ELSEWHERE, UNKNOWN."""
    pid: int | None = None
    restarts: int | None = None
    started_at: float | None = None
    last_error: str = ""
    """Why it is not running, or why it last ended by itself."""
    log: str = ""
    """Path of its log file, on its own machine."""
    cpu_percent: float | None = None
    """Of one core, since the last look."""
    rss_bytes: int | None = None
    answered_at: float | None = None
    is_here: bool = True
    """Its supervisor is on this machine: it can be acted on from here, and its log be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One replica of a shard, as it says itself. All but shard and node is unknown before it has once answered."""

    shard: int
    node: str
    is_answering: bool = False
    answered_at: float | None = None
    """When it said what follows."""
    role: str = ""
    """leader, follower, candidate, pre-candidate, learner."""
    leader: str = ""
    """The node that it takes for its leader; "" for none."""
    term: int | None = None
    commit_index: int | None = None
    applied_index: int | None = None
    database_bytes: int | None = None
    """The file and its write-ahead log."""
    wal_bytes: int | None = None
    disk_free_bytes: int | None = None
    queued: int | None = None
    """Requests that wait in it."""
    sync_p99_us: int | None = None
    syncs_of_late: int | None = None
    """Of which that is the 99th percentile."""
    commands_applied: int | None = None
    """Since its process began."""
    reads_served: int | None = None
    """Since its process began."""
    build_level: int | None = None
    clock_skew_ms: int | None = None
    """How far its node's clock is off ours at least; negative: behind. 0 if the two may agree."""
    no_space: bool = False
    fault: str = ""
    """Why it does not serve; "" if it does."""
    newer_protocol: int | None = None
    """In which version of the protocol between nodes somebody spoke to it lately that it can't read."""
    unread_protocol: int | None = None
    """In which version of it this replica has answered, that this program can't read."""
    voters: Sequence[str] = ()
    """Nodes that vote in this shard, as it has applied them."""
    learners: Sequence[str] = ()
    tables: Sequence[Table] = ()
    """Without boathouse's own."""
    arriving: Mapping[int, int] = field(default_factory=dict)
    """Keys that have come of tables that move to its shard, by the table's id."""

    @property
    def is_leader(self) -> bool:
        """Whether it says that it leads."""
        return self.role == "leader"

    @property
    def revision(self) -> int | None:
        """The highest of its tables' revisions; None without a table."""
        return max((table.revision for table in self.tables), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table, as the replica that is furthest has it."""

    name: str
    shard: int
    revision: int
    keys: int | None = None
    compacted_revision: int | None = None
    """None: never compacted, or not told."""
    history: str = ""
    """all, none, or a number of revisions; "" if not told."""
    followers: Mapping[str, int] = field(default_factory=dict)
    """The revision up to which each follower cluster has copied it, as it last said."""
    size_bytes: int | None = None
    """What its quota is held against."""
    quota_bytes: int | None = None
    """None: there is none, or it is not known."""
    is_full: bool = False
    """A write did not fit, and there is not enough space again yet."""
    alarms: Sequence[str] = ()
    """Raised by hand, by the names that etcd's API has."""
    id: int = 0
    """0: not told."""
    move: TableMove | None = None
    """None: it stays where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableMove:
    """A table on its way to another shard, as that shard or its own has it."""

    target: int
    """The shard that it goes to."""
    is_fenced: bool = False
    """Its own shard takes no writes of it any more: they wait until the target serves it."""
    keys: int | None = None
    """That have arrived; None if the target did not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One Raft group, as its replicas together have it."""

    number: int
    leader: str | None
    """The node that leads it: as a replica says of itself, else as the answering replica of the highest term has it;
    None if nobody knows one."""
    term: int | None
    replicas: Sequence[Replica]
    """By node, in the order of the cluster."""
    voters: Sequence[str]
    """As the leader, or whoever is furthest, has them; without an answer, as the cluster file has them."""
    tables: Sequence[Table] = ()
    wanted: int = 0
    """Voters that the cluster file asks for, as far as there are nodes; 0 if nobody says."""

    @property
    def leading(self) -> Replica | None:
        """The leader's replica, if it answers."""
        for replica in self.replicas:
            if replica.node == self.leader and replica.is_answering and replica.is_leader:
                return replica
        return None

    @property
    def serving(self) -> Sequence[Replica]:
        """Voters that answer and serve."""
        return [
            replica
            for replica in self.replicas
            if replica.is_answering and not replica.fault and replica.node in self.voters
        ]

    @property
    def is_below_replicas(self) -> bool:
        """Whether it has fewer voters that serve than it should."""
        return len(self.serving) < max(len(self.voters), self.wanted)

    @property
    def majority(self) -> int:
        """Voters that it takes to commit."""
        return len(self.voters) // 2 + 1

    def trails(self, replica: Replica) -> int | None:
        """Entries that the leader has committed and the replica has not applied; None if either is not known."""
        leading = self.leading
        if leading is None or leading.commit_index is None or replica.applied_index is None:
            return None
        return max(0, leading.commit_index - replica.applied_index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replication:
    """How a follower cluster copies its leader cluster's tables."""

    leader: str
    """The leader cluster, and where it is."""
    report: Report | None
    """What the node that replicates said last; None if none has, or nobody could be asked."""
    answered: bool
    """Whether somebody could be asked."""

    @property
    def copies(self) -> Mapping[str, CopyReport]:
        """By the table's name."""
        return {} if self.report is None else {copy.name: copy for copy in self.report.copies}


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that nodes show or check by, with those that it needs beside it."""

    file: str
    """Path, on the hosts of these nodes."""
    nodes: tuple[str, ...]
    begins_at: float
    ends_at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All of a cluster at one moment."""

    cluster: str
    taken_at: float
    nodes: Sequence[Node] = ()
    processes: Sequence[Process] = ()
    """One per process of the cluster file, node by node; none where only endpoints are known."""
    shards: Sequence[Shard] = ()
    problems: Sequence[str] = ()
    """Why parts of it are unknown, a sentence each."""
    is_etcd: bool = False
    """A plain etcd cluster: one group, one keyspace."""
    alarms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By node: what its API calls an alarm."""
    calls: Mapping[Series, Sequence[int]] = field(default_factory=dict)
    """What coordinators have counted since they began: their calls by range of duration (proto/histogram.py)."""
    replication: Replication | None = None
    """None: it follows no other cluster, or that is not known."""
    gave_way_to: Lead | None = None
    """Which cluster leads instead of this one, whose file names none to follow. None: no other one, or not known."""
    certificates: Sequence[Certificate] = ()
    """Those whose files are here."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    raft: RaftConfig = field(default_factory=RaftConfig)
    """Both as the cluster file has them, as far as diagnosis goes by it."""
    is_measured_by_defaults: bool = False
    """No file was read, and the coordinators' build does not tell what theirs says."""

    @property
    def replicas(self) -> list[Replica]:
        """Of all shards."""
        return [replica for shard in self.shards for replica in shard.replicas]

    @property
    def tables(self) -> list[Table]:
        """Of all shards, by name."""
        tables = (self._with_arrived(table) for shard in self.shards for table in shard.tables)
        return sorted(tables, key=lambda table: table.name)

    def _with_arrived(self, table: Table) -> Table:
        """What its move's target has told of it."""
        if table.move is None:
            return table
        target = self.shard(table.move.target)
        told = () if target is None else target.replicas
        arrived = [replica.arriving[table.id] for replica in told if table.id in replica.arriving]
        return replace(table, move=replace(table.move, keys=max(arrived, default=None)))

    def shard(self, number: int) -> Shard | None:
        """The shard of that number."""
        return next((shard for shard in self.shards if shard.number == number), None)

    def process(self, name: ProcessName) -> Process | None:
        """The process of that name."""
        return next((process for process in self.processes if process.name == name), None)


def make_shard(number: int, replicas: Sequence[Replica], planned: Sequence[str], *, wanted: int = 0) -> Shard:
    """The shard that its replicas make. planned: the nodes that should vote, where no replica says. wanted: how many
    the cluster file asks for."""
    answering = [replica for replica in replicas if replica.is_answering]
    newest = max(answering, key=lambda replica: (replica.term or 0, replica.is_leader), default=None)
    claimant = max(
        (replica for replica in answering if replica.is_leader),
        key=lambda replica: replica.term or 0,
        default=None,
    )
    leader = None
    if claimant is not None and newest is not None and claimant.term == newest.term:
        leader = claimant.node
    elif newest is not None and newest.leader:
        leader = newest.leader
    told = claimant or newest
    tables: dict[str, Table] = {}
    for replica in replicas:
        for table in replica.tables:
            if table.name not in tables or table.revision > tables[table.name].revision:
                tables[table.name] = table
    return Shard(
        number=number,
        leader=leader,
        term=newest.term if newest is not None else None,
        replicas=tuple(replicas),
        voters=tuple(told.voters) if told is not None and told.voters else tuple(planned),
        tables=tuple(tables[name] for name in sorted(tables)),
        wanted=wanted,
    )
