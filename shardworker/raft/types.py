# ruff: noqa: A005 - only ever imported by its full name, so it shadows no standard module
"""The values that go in and out of the Raft core, in the paper's words.

Everything here is frozen: a value may be kept, compared, put in a transcript or sent without anyone changing
it underneath. Nothing here is a wire format; the transport converts at the rim."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NewType, Protocol

Term = NewType("Term", int)
LogIndex = NewType("LogIndex", int)
NodeId = NewType("NodeId", int)

NO_NODE = NodeId(0)
"""No vote given, no leader known. Real nodes are numbered from 1."""


class Rng(Protocol):
    """Where randomised election timeouts come from; `random.Random` satisfies it."""

    def randrange(self, start: int, stop: int) -> int: ...


class EntryKind(IntEnum):
    """What an entry's data means. Stored with the entry and sent to peers: never renumbered."""

    COMMANDS = 0
    """A batch for the state machine; empty data is the entry that opens a new leader's term."""
    MEMBERSHIP = 1
    """An encoded MembershipChange."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One slot of the replicated log."""

    term: Term
    index: LogIndex
    kind: EntryKind
    data: bytes


ENTRY_OVERHEAD_BYTES = 16
"""Counted for each entry beside its data (index, term, framing), so that a million empty entries are not
free."""


@dataclass(frozen=True, slots=True)
class HardState:
    """What a replica must remember over a crash (paper, figure 2, "persistent state").

    `commit` is kept to apply sooner after a restart; losing its last advance is harmless."""

    term: Term
    vote: NodeId
    commit: LogIndex


@dataclass(frozen=True, slots=True)
class Membership:
    """Who belongs to the group. In a joint membership (`voters_outgoing` not empty) every decision needs a
    majority of both halves (paper, section 6)."""

    voters: frozenset[NodeId]
    voters_outgoing: frozenset[NodeId] = frozenset()
    learners: frozenset[NodeId] = frozenset()
    """Receive the log, never counted in a quorum; disjoint from both voter sets."""
    learners_next: frozenset[NodeId] = frozenset()
    """Voters of the outgoing half that become learners when the joint membership is left."""
    auto_leave: bool = False
    """The leader itself proposes to leave the joint membership once it is applied."""
    directory: tuple[tuple[NodeId, bytes], ...] = ()
    """What the group was told of where members are, ascending; opaque to the core. Of a member that is not in it
    the group was told nothing."""
    generation: int = 0
    """Rises each time that somebody gives up a lost majority and goes on without it: replicas of an earlier
    generation are of a group that is no more."""
    departed: tuple[tuple[NodeId, bytes], ...] = ()
    """Who was a member and has left, ascending, with what the group was told of it last: no number is given to
    another node."""

    @property
    def is_joint(self) -> bool:
        return bool(self.voters_outgoing)

    def is_voter(self, node: NodeId) -> bool:
        """Whether its vote counts, in either half of a joint membership."""
        return node in self.voters or node in self.voters_outgoing

    def nodes(self) -> tuple[NodeId, ...]:
        """Every member once, ascending: the order in which the core talks to them."""
        return tuple(sorted(self.voters | self.voters_outgoing | self.learners))


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """What a snapshot stands for: all entries up to `index`, and the membership as of it."""

    index: LogIndex
    term: Term
    membership: Membership


class MessageKind(IntEnum):
    """What a message says. Sent to peers: never renumbered."""

    PRE_VOTE = 1
    PRE_VOTE_REPLY = 2
    VOTE = 3
    VOTE_REPLY = 4
    APPEND = 5
    APPEND_REPLY = 6
    HEARTBEAT = 7
    HEARTBEAT_REPLY = 8
    SNAPSHOT = 9
    TIMEOUT_NOW = 10


NO_REPLY = 1
"""`context` of an APPEND that is to be answered only if it does not fit."""


@dataclass(frozen=True, slots=True)
class Message:
    """One Raft message. Which fields mean something depends on `kind`:

    - (PRE_)VOTE: `index`, `log_term` of the candidate's last entry; `forced` in a leadership transfer.
      A PRE_VOTE carries the term the candidate *would* campaign in.
    - (PRE_)VOTE_REPLY: `reject`.
    - APPEND: `entries` follow the entry at (`index`, `log_term`); `commit`; with `context` NO_REPLY it only
      tells the commit index and wants an answer only if it does not fit.
    - APPEND_REPLY: the log agrees up to `index`; or with `reject`, the append at `index` did not fit and the
      follower's log may agree at `reject_hint`, whose term there is `log_term`. Refused at 0: it needs a
      snapshot.
    - HEARTBEAT: `commit`, never past what this peer has; `context` numbers a round of reads; its reply echoes
      it.
    - SNAPSHOT: `snapshot` replaces the log up to its index. The state itself travels beside the core.
    - TIMEOUT_NOW: campaign at once (thesis 3.10).
    """

    kind: MessageKind
    to: NodeId
    sender: NodeId
    term: Term
    log_term: Term = Term(0)
    index: LogIndex = LogIndex(0)
    entries: tuple[Entry, ...] = ()
    commit: LogIndex = LogIndex(0)
    reject: bool = False
    reject_hint: LogIndex = LogIndex(0)
    context: int = 0
    snapshot: SnapshotMeta | None = None
    forced: bool = False


@dataclass(frozen=True, slots=True)
class ReadState:
    """The read known to the caller as `context` is linearizable on a state applied up to `index` or later."""

    context: int
    index: LogIndex


@dataclass(frozen=True, slots=True)
class Ready:
    """What the caller owes the core, in this order:

    1. send `early_messages`, at any time from now on;
    2. if there is a `snapshot`, install it (it replaces the whole log and state);
    3. in one transaction: save `hard_state`, append `entries` (dropping stored ones from the first index on),
       apply `committed`, calling `apply_membership` for each entry of kind MEMBERSHIP; sync it if
       `must_sync`;
    4. send `messages`; a peer may count on everything saved in step 3;
    5. serve `reads` whose index is applied;
    6. call `advance`.
    """

    hard_state: HardState | None
    """None: as it was."""
    entries: tuple[Entry, ...]
    snapshot: SnapshotMeta | None
    early_messages: tuple[Message, ...]
    """Rely on nothing of this turn being durable: a leader's appends and heartbeats (thesis 10.2.1) and what
    only repeats durable state."""
    messages: tuple[Message, ...]
    committed: tuple[Entry, ...]
    """Applied index < index <= commit. May overlap with `entries`: then they are appended and applied
    together. The caller may apply only the first of them, and say so to `advance`."""
    reads: tuple[ReadState, ...]
    must_sync: bool
    """False: a power cut may lose this turn without breaking a promise."""


class Role(Enum):
    """What a replica currently is to its group. A learner is a follower that never campaigns."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


SILENT_TICKS_MAX = 1 << 30
"""Of a peer that has not answered this leader yet."""


class Reason(Enum):
    """Why the core refused; the command was certainly not proposed."""

    NOT_LEADER = "not the leader"
    TRANSFERRING = "leadership is being handed over"
    UNCOMMITTED_FULL = "too many bytes wait to be committed"
    READS_FULL = "too many reads wait for a quorum"
    CHANGE_IN_FLIGHT = "another membership change is under way"
    INVALID_CHANGE = "this change cannot be made to the current membership"
    UNKNOWN_TARGET = "the target is no voter of this group"


@dataclass(frozen=True, slots=True)
class Accepted:
    """Taken in: at `index` of the log in `term` (a proposal), or the commit index asked at (a read)."""

    index: LogIndex
    term: Term


@dataclass(frozen=True, slots=True)
class Rejected:
    """Refused and forgotten."""

    reason: Reason
    leader: NodeId = NO_NODE
    """Who may take it instead, as far as known."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and timing of one replica. Times are in ticks: the core knows no clock."""

    node: NodeId
    election_ticks: int
    """A follower campaigns after [election_ticks, 2 * election_ticks) without a leader; > heartbeat_ticks."""
    heartbeat_ticks: int
    append_bytes_max: int = 1 << 20
    """Entries in one APPEND, at least one entry whatever its size."""
    inflight_appends_max: int = 64
    """APPENDs on their way to one peer before the leader waits for replies."""
    inflight_bytes_max: int = 16 << 20
    uncommitted_bytes_max: int = 64 << 20
    """Proposals beyond this are refused until some are applied; one is always taken when none is waiting."""
    pre_vote: bool = True
    check_quorum: bool = True
    apply_bytes_max: int = 16 << 20
    """Entries in one Ready.committed, at least one."""
    pending_reads_max: int = 100_000
    eager_commit: bool = True
    """Tell followers of a new commit index even when there is nothing else to send. False: with the next
    append, the next tick, or when the caller says announce_commit: that saves each of them a turn per batch."""

    def __post_init__(self) -> None:
        assert self.node > 0, "nodes are numbered from 1"
        assert 0 < self.heartbeat_ticks < self.election_ticks
        assert self.append_bytes_max > 0
        assert self.inflight_appends_max > 0
        assert self.inflight_bytes_max > 0


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """How far the leader has brought one peer."""

    match: LogIndex
    next: LogIndex
    state: str
    """probe, replicate or snapshot."""
    inflight: int
    recent_active: bool
    silent_ticks: int
    """Since it last answered; SILENT_TICKS_MAX if it never has."""


@dataclass(frozen=True, slots=True)
class Status:
    """A snapshot of a replica for people and metrics."""

    node: NodeId
    term: Term
    vote: NodeId
    role: Role
    is_learner: bool
    leader: NodeId
    commit: LogIndex
    applied: LogIndex
    last_index: LogIndex
    membership: Membership
    transferee: NodeId
    progress: dict[NodeId, PeerStatus]
    """Only on the leader, itself included."""
