"""The Raft state machine, without I/O.

Theory. A group of replicas agrees on one log. In each *term* at most one leader is elected by a majority; it
alone appends, and an entry that a majority holds durably in the leader's own term is *committed*: it is in
the log of every later leader. "Paper" is Ongaro and Ousterhout, "In Search of an Understandable Consensus
Algorithm" (extended version); "thesis" is Ongaro's "Consensus: Bridging Theory and Practice".

How it is driven. `tick`, `step`, `propose`, `read_index` and friends change memory only. What must happen in
the world is collected in one `Ready`; the caller carries it out in the order written on that class and calls
`advance`. Until then nothing in it counts as durable: a leader counts its own entries, a voter lets go of its
vote, a follower acknowledges an append only with a turn that was saved.

Rules beyond the paper's figure 2:

- Pre-vote (thesis 9.6): a replica asks whether it could win before it raises its term, so one that was cut
  off does not disturb the group when it returns.
- Check-quorum and the leader's lease (thesis 6.2, 4.2.3): a leader that does not hear from a majority for an
  election timeout steps down; a follower that heard from a leader within one refuses votes, unless the leader
  itself asked for the election (a transfer).
- Reads (thesis 6.4): read_only.py. Replication flow control: progress.py. Membership: membership.py.
- 10.2.1: a leader's appends may leave before its own sync (`Ready.early_messages`).
- A lone voter's entries are committed by its own sync. So its Ready already hands them out to be applied in
  that same transaction; the commit index itself moves only in `advance`.

Not handled here: moving a snapshot's contents (the caller streams them and steps the SNAPSHOT message when
they have arrived), forwarding proposals or reads to the leader, byzantine peers.

Rejected: leader leases without a heartbeat round for reads. They trust clocks of several machines to run
alike; a round costs a fraction of a millisecond and is shared by all reads of a turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from shardworker.raft import quorum
from shardworker.raft.log import Compacted, LogView, entry_bytes
from shardworker.raft.membership import (
    LEAVE_JOINT,
    InvalidChange,
    MembershipChange,
    decode_change,
    encode_change,
    next_membership,
)
from shardworker.raft.progress import PeerState, Progress
from shardworker.raft.quorum import VoteResult
from shardworker.raft.read_only import ReadQueue
from shardworker.raft.types import (
    NO_NODE,
    Accepted,
    Entry,
    EntryKind,
    HardState,
    LogIndex,
    Membership,
    Message,
    MessageKind,
    NodeId,
    PeerStatus,
    ReadState,
    Ready,
    Reason,
    Rejected,
    Role,
    Settings,
    SnapshotMeta,
    Status,
    Term,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardworker.raft.log import LogStorage
    from shardworker.raft.types import Rng

NEVER_TICKS: Final = 1 << 31
"""What ticks_until_action answers when no number of ticks would do anything."""

DISCONNECTED_TICKS_MAX: Final = 3
"""Followers that lose their leader's connection at the same moment campaign at different ticks up to this."""

REQUEUED_MESSAGES_MAX: Final = 1024
"""Messages kept over turns that could not be made durable; older ones are dropped, as a network may drop
them. Appends are bounded by the leader's window, so only a disk that stays full for minutes gets here."""

NO_REPLY: Final = 1
"""`context` of an APPEND that is to be answered only if it does not fit."""

TRANSITIONS: Final[dict[Role, dict[Role, str]]] = {
    Role.FOLLOWER: {
        Role.FOLLOWER: "a higher term, or a leader appears",
        Role.PRE_CANDIDATE: "election timeout",
        Role.CANDIDATE: "election timeout without pre-vote, or TIMEOUT_NOW",
    },
    Role.PRE_CANDIDATE: {
        Role.FOLLOWER: "a majority would refuse, a higher term, or a leader appears",
        Role.PRE_CANDIDATE: "election timeout again",
        Role.CANDIDATE: "a majority would vote for it",
    },
    Role.CANDIDATE: {
        Role.FOLLOWER: "a majority refused, a higher term, or a leader appears",
        Role.PRE_CANDIDATE: "election timeout again",
        Role.CANDIDATE: "election timeout again, without pre-vote",
        Role.LEADER: "a majority voted for it",
    },
    Role.LEADER: {
        Role.FOLLOWER: "a higher term, a lost quorum, or removed from the voters",
    },
}
"""Legal role changes and what causes them (paper, figure 4, with pre-vote)."""

_EARLY: Final = frozenset(
    {
        MessageKind.APPEND,
        MessageKind.HEARTBEAT,
        MessageKind.HEARTBEAT_REPLY,
        MessageKind.SNAPSHOT,
        MessageKind.TIMEOUT_NOW,
        MessageKind.PRE_VOTE,
        MessageKind.PRE_VOTE_REPLY,
    }
)
"""Kinds that promise nothing about this turn's writes. They still wait while the term itself is not
durable."""


class Raft:
    """One replica's consensus. Public attributes are for reading only.

    When leadership is lost, reads that were accepted but not answered are forgotten: the caller sees `role`
    or `term` change after the turn and fails them."""

    def __init__(
        self,
        settings: Settings,
        log: LogStorage,
        hard_state: HardState,
        membership: Membership,
        applied: LogIndex,
        rng: Rng,
    ) -> None:
        """Resume from what was durable; `membership` is as of `applied`. A new replica has no members: it
        waits to be told by a snapshot or by the entries it is sent."""
        self.settings = settings
        self.node = settings.node
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = Role.FOLLOWER
        self.leader = NO_NODE
        # What is applied is committed, even if the last advance of the saved commit index was lost.
        self.log = LogView(log, commit=max(hard_state.commit, applied), applied=applied)

        self._rng = rng
        self._durable = hard_state
        self._outstanding: Ready | None = None
        self._messages: list[Message] = []
        self._early: list[Message] = []
        self._reads_ready: list[ReadState] = []

        self._election_elapsed = 0
        self._heartbeat_elapsed = 0
        self._timeout_ticks = 0
        self._votes: dict[NodeId, bool] = {}

        # Leader only.
        self._progress: dict[NodeId, Progress] = {}
        self._match: dict[NodeId, LogIndex] = {}
        self._peers: tuple[tuple[NodeId, Progress], ...] = ()
        self._term_start = LogIndex(0)
        self._replication_due = False
        self._pending_change_index = LogIndex(0)
        self._uncommitted_bytes = 0
        self._transferee = NO_NODE
        self._is_leaving = False
        self._reads = ReadQueue()

        self.membership = membership
        self._staged_membership: Membership | None = None
        self._staged_changes = 0
        self._groups = self._quorum_groups(membership)
        self._reset(self.term)

    # ---- input: time ---------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick of time has passed."""
        self._election_elapsed += 1
        if self.role is Role.LEADER:
            self._tick_leader()
        elif self._election_elapsed >= self._timeout_ticks and self._is_promotable():
            self._election_elapsed = 0
            self.campaign()

    def _tick_leader(self) -> None:
        self._heartbeat_elapsed += 1
        if self._election_elapsed >= self.settings.election_ticks:
            self._election_elapsed = 0
            if self.settings.check_quorum and not self._heard_from_quorum():
                self._become_follower(self.term, NO_NODE)
                return
            # The target did not take over within an election timeout: serve again (thesis 3.10).
            self._transferee = NO_NODE
        if self._heartbeat_elapsed >= self.settings.heartbeat_ticks:
            self._heartbeat_elapsed = 0
            for peer, progress in self._peers:
                progress.retry_due = True
                # Repeats the round of reads under way: its first heartbeats may have been lost.
                self._send_heartbeat(peer, progress, self._reads.round)

    def ticks_until_action(self) -> int:
        """How many ticks from now the first one comes that does something; at least 1, NEVER_TICKS if none
        will.

        An idle caller may sleep that long, then call `tick` as often as time has passed."""
        if self.role is Role.LEADER:
            until_heartbeat = self.settings.heartbeat_ticks - self._heartbeat_elapsed
            return max(1, min(until_heartbeat, self.settings.election_ticks - self._election_elapsed))
        if not self._is_promotable():
            return NEVER_TICKS
        return max(1, self._timeout_ticks - self._election_elapsed)

    # ---- input: commands -----------------------------------------------------------------------------------

    def propose(self, data: bytes) -> Accepted | Rejected:
        """Append a batch for the state machine. Accepted is not committed: watch Ready.committed for its
        index, and compare the term there."""
        rejected = self._refuses_proposals()
        if rejected is not None:
            return rejected
        if not self._fits_uncommitted(data):
            return Rejected(Reason.UNCOMMITTED_FULL, self.node)
        return self._append_own(EntryKind.COMMANDS, data)

    def propose_membership(self, change: MembershipChange) -> Accepted | Rejected:
        """Append a membership change, checked against the current one. One at a time (thesis 4.1)."""
        rejected = self._refuses_proposals()
        if rejected is not None:
            return rejected
        if self._change_in_flight():
            return Rejected(Reason.CHANGE_IN_FLIGHT, self.node)
        result = next_membership(self.membership, change)
        if isinstance(result, InvalidChange):
            return Rejected(Reason.INVALID_CHANGE, self.node, result.why)
        return self._append_change(change, result)

    def apply_membership(self, entry: Entry) -> Membership:
        """Called for each MEMBERSHIP entry of Ready.committed, in order; returns what to store with it.

        It takes effect in `advance`, and not at all if the turn was not durable."""
        assert self._outstanding is not None
        assert entry.kind is EntryKind.MEMBERSHIP
        current = self._staged_membership or self.membership
        result = next_membership(current, decode_change(entry.data))
        # The leader checks before it proposes, so an invalid change never gets here; were it to, every
        # replica would skip it alike.
        self._staged_membership = current if isinstance(result, InvalidChange) else result
        self._staged_changes += 1
        return self._staged_membership

    def read_index(self, context: int) -> Accepted | Rejected:
        """Ask for a linearizable read; Ready.reads answers with the context (thesis 6.4).

        Before the leader has committed an entry of its term the read waits: an older commit index may still
        hide entries that were acknowledged (step 1 there)."""
        if self.role is not Role.LEADER:
            return Rejected(Reason.NOT_LEADER, self.leader)
        if len(self._reads) >= self.settings.pending_reads_max:
            return Rejected(Reason.READS_FULL, self.node)
        self._reads.waiting.append(context)
        return Accepted(self.log.commit, self.term)

    def transfer_leadership(self, to: NodeId | None = None) -> Accepted | Rejected:
        """Hand over to a voter, or to the one that is furthest along (thesis 3.10). Proposals are refused
        until it took over or an election timeout has passed."""
        if self.role is not Role.LEADER:
            return Rejected(Reason.NOT_LEADER, self.leader)
        target = self._best_transferee() if to is None else to
        if not self._is_voter(target):
            return Rejected(Reason.UNKNOWN_TARGET, self.node)
        if target != self.node:
            self._election_elapsed = 0
            self._transferee = target
            self._maybe_finish_transfer(target)
            # A target that lags may have missed appends: ask it now rather than at the next heartbeat.
            self._progress[target].wants_empty = self._progress[target].match < self.log.last_index
            self._replication_due = True
        return Accepted(self.log.last_index, self.term)

    def campaign(self) -> None:
        """Start an election now. A lone voter leads when this returns."""
        if self._may_campaign():
            self._campaign(pre_vote=self.settings.pre_vote, forced=False)

    def report_unreachable(self, peer: NodeId) -> None:
        """The last messages to this peer were certainly not all delivered."""
        progress = self._progress.get(peer)
        if self.role is Role.LEADER and progress is not None and progress.state is PeerState.REPLICATE:
            progress.become_probe()
            # Not at once: the next heartbeat's reply shows that the peer is back.
            progress.probe_sent = True

    def report_disconnected(self, peer: NodeId) -> None:
        """The connection to this peer broke: most likely its process died.

        If it led, its lease is forgotten and an election follows within DISCONNECTED_TICKS_MAX ticks instead
        of a whole timeout. Only a hint: if the leader lives, the others still hear it and refuse the
        pre-vote, and its next message is believed again. Without pre-vote it would cost a term, so then it is
        not taken."""
        if self.role is Role.LEADER:
            self.report_unreachable(peer)
        elif self.role is Role.FOLLOWER and peer == self.leader and self.settings.pre_vote:
            self.leader = NO_NODE
            soon = self._timeout_ticks - self._rng.randrange(1, DISCONNECTED_TICKS_MAX + 1)
            self._election_elapsed = max(self._election_elapsed, soon)

    def report_snapshot(self, peer: NodeId, ok: bool) -> None:
        """The transfer of a snapshot to this peer has ended. If it failed, it is tried again after a
        heartbeat."""
        progress = self._progress.get(peer)
        if self.role is not Role.LEADER or progress is None or progress.state is not PeerState.SNAPSHOT:
            return
        if not ok:
            progress.pending_snapshot = LogIndex(0)
        progress.become_probe()
        # Delivered: its APPEND_REPLY follows. Failed: leave the peer in peace until the next heartbeat.
        progress.probe_sent = True

    # ---- output --------------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether `ready` would hold anything. After an advance(durable=False) it does at once: pause before
        retrying."""
        self._flush()
        log = self.log
        return bool(
            self._early
            or self._messages
            or log.unstable
            or log.commit > log.applied
            or self._reads_ready
            or log.pending_snapshot is not None
            or self._hard_state() != self._durable
        )

    def ready(self) -> Ready:
        """Everything that is due. Messages may be stepped before it is advanced, but no second Ready
        taken."""
        assert self._outstanding is None, "advance the previous Ready first"
        self._flush()
        log = self.log
        commit = self._commit_with_this_turn()
        hard_state = self._hard_state(commit)
        snapshot = log.pending_snapshot
        entries = tuple(log.unstable)
        committed = log.committed_after_applied(commit, self.settings.apply_bytes_max)
        ready = Ready(
            # An installed snapshot brings a whole database: the hard state has to be written into it again.
            hard_state=hard_state if hard_state != self._durable or snapshot is not None else None,
            entries=entries,
            snapshot=snapshot,
            early_messages=tuple(self._early),
            messages=tuple(self._messages),
            committed=tuple(committed),
            reads=tuple(self._reads_ready),
            must_sync=self._must_sync(hard_state, entries, snapshot),
        )
        self._early = []
        self._messages = []
        self._reads_ready = []
        self._outstanding = ready
        return ready

    def advance(self, ready: Ready, durable: bool = True) -> None:
        """The Ready was carried out. durable=False: nothing of it could be saved, so only `early_messages`
        and `reads` are done with; the rest comes again."""
        assert ready is self._outstanding, "advance takes the Ready that was taken last"
        self._outstanding = None
        staged, self._staged_membership = self._staged_membership, None
        changes, self._staged_changes = self._staged_changes, 0
        if not durable:
            self._messages = [*ready.messages, *self._messages][-REQUEUED_MESSAGES_MAX:]
            return
        if ready.hard_state is not None:
            self._durable = ready.hard_state
        if ready.snapshot is not None:
            self.log.snapshot_installed(ready.snapshot)
        if ready.entries:
            self.log.stable_to(ready.entries[-1])
            if self.role is Role.LEADER:
                self._acknowledge_own(self.log.stable_index)
        if ready.committed:
            self._applied(ready.committed, changes)
            if staged is not None:
                self._switch_membership(staged)
            self._maybe_leave_joint()

    def status(self) -> Status:
        leads = self.role is Role.LEADER
        return Status(
            node=self.node,
            term=self.term,
            vote=self.vote,
            role=self.role,
            is_learner=self.node in self.membership.learners,
            leader=self.leader,
            commit=self.log.commit,
            applied=self.log.applied,
            last_index=self.log.last_index,
            membership=self.membership,
            transferee=self._transferee,
            progress={node: self._peer_status(node) for node in self._progress} if leads else {},
        )

    def _peer_status(self, node: NodeId) -> PeerStatus:
        progress = self._progress[node]
        if node == self.node:
            return PeerStatus(self._match[node], LogIndex(self.log.last_index + 1), "replicate", 0, True)
        return PeerStatus(
            progress.match,
            progress.next,
            progress.state.value,
            len(progress.inflights),
            progress.recent_active,
        )

    # ---- what is durable -----------------------------------------------------------------------------------

    def _hard_state(self, commit: LogIndex | None = None) -> HardState:
        return HardState(self.term, self.vote, self.log.commit if commit is None else commit)

    def _must_sync(
        self, hard_state: HardState, entries: Sequence[Entry], snapshot: SnapshotMeta | None
    ) -> bool:
        """Figure 2: term, vote and log must be on stable storage before any answer; the commit index need
        not."""
        durable = self._durable
        changed = hard_state.term != durable.term or hard_state.vote != durable.vote
        return changed or bool(entries) or snapshot is not None

    def _commit_with_this_turn(self) -> LogIndex:
        """The commit index once this turn is saved: ahead of the present one only for a lone voter."""
        if (
            self.role is Role.LEADER
            and self._groups == ((self.node,),)
            and self._may_commit(self.log.last_index)
        ):
            return self.log.last_index
        return self.log.commit

    def _acknowledge_own(self, index: LogIndex) -> None:
        """This leader's log is durable up to index: it now counts in its own quorum (thesis 10.2.1)."""
        if self.node in self._match and index > self._match[self.node]:
            self._match[self.node] = index
            self._maybe_commit()

    def _applied(self, committed: tuple[Entry, ...], changes: int) -> None:
        assert changes == sum(1 for entry in committed if entry.kind is EntryKind.MEMBERSHIP), (
            "apply_membership was not called for each membership entry"
        )
        self.log.applied = max(self.log.applied, committed[-1].index)
        if self._uncommitted_bytes:
            applied_bytes = sum([entry_bytes(entry) for entry in committed])
            # Entries of earlier leaders were never counted here.
            self._uncommitted_bytes = max(0, self._uncommitted_bytes - applied_bytes)

    # ---- roles ---------------------------------------------------------------------------------------------

    def _become(self, role: Role) -> None:
        assert role in TRANSITIONS[self.role], (self.role, role)
        self.role = role

    def _become_follower(self, term: Term, leader: NodeId) -> None:
        self._become(Role.FOLLOWER)
        self._reset(term)
        self.leader = leader

    def _become_pre_candidate(self) -> None:
        # Neither term nor vote change: that is the point (thesis 9.6).
        self._become(Role.PRE_CANDIDATE)
        self._votes = {}
        self.leader = NO_NODE
        self._election_elapsed = 0
        self._draw_timeout()

    def _become_candidate(self) -> None:
        self._become(Role.CANDIDATE)
        self._reset(Term(self.term + 1))
        self.vote = self.node

    def _become_leader(self) -> None:
        self._become(Role.LEADER)
        self._reset(self.term)
        self.leader = self.node
        self._track(self.membership, recent_active=False)
        # A change that an earlier leader appended may be anywhere in the tail: allow none until all of it is
        # applied.
        self._pending_change_index = self.log.last_index
        self._is_leaving = self._tail_removes_self()
        # Entries of earlier terms are committed only through one of this term (paper 5.4.2, 8).
        self._term_start = LogIndex(self.log.last_index + 1)
        self._append_own(EntryKind.COMMANDS, b"")
        # The term's own entry must not use up what was promised to proposals.
        self._uncommitted_bytes = 0

    def _reset(self, term: Term) -> None:
        if self.term != term:
            self.term = term
            self.vote = NO_NODE
        self.leader = NO_NODE
        self._election_elapsed = 0
        self._heartbeat_elapsed = 0
        self._draw_timeout()
        self._votes = {}
        self._progress = {}
        self._match = {}
        self._peers = ()
        self._transferee = NO_NODE
        self._is_leaving = False
        self._uncommitted_bytes = 0
        self._replication_due = False
        self._reads.clear()

    def _draw_timeout(self) -> None:
        # Randomised so that split votes are rare (paper 5.2).
        ticks = self.settings.election_ticks
        self._timeout_ticks = self._rng.randrange(ticks, 2 * ticks)

    # ---- elections -----------------------------------------------------------------------------------------

    def _is_voter(self, node: NodeId) -> bool:
        return _votes_in(self.membership, node)

    def _is_promotable(self) -> bool:
        return self._is_voter(self.node) and self.log.pending_snapshot is None

    def _may_campaign(self) -> bool:
        return self.role is not Role.LEADER and self._is_promotable() and not self._has_unapplied_change()

    def _has_unapplied_change(self) -> bool:
        """A committed change that is not applied yet: campaigning on the old membership could elect two
        leaders."""
        return bool(self._changes_in(LogIndex(self.log.applied + 1), LogIndex(self.log.commit + 1)))

    def _changes_in(self, lo: LogIndex, hi: LogIndex) -> list[MembershipChange]:
        changes: list[MembershipChange] = []
        while lo < hi:
            entries = self.log.entries(lo, hi, self.settings.append_bytes_max)
            changes += [decode_change(entry.data) for entry in entries if entry.kind is EntryKind.MEMBERSHIP]
            lo = LogIndex(entries[-1].index + 1)
        return changes

    def _campaign(self, *, pre_vote: bool, forced: bool) -> None:
        if pre_vote:
            self._become_pre_candidate()
            kind, term = MessageKind.PRE_VOTE, Term(self.term + 1)
        else:
            self._become_candidate()
            kind, term = MessageKind.VOTE, self.term
        if self._record_vote(self.node, granted=True) is VoteResult.WON:
            self._won()
            return
        for peer in sorted(self.membership.voters | self.membership.voters_outgoing):
            if peer != self.node:
                self._send(
                    Message(
                        kind,
                        peer,
                        self.node,
                        term,
                        log_term=self.log.last_term,
                        index=self.log.last_index,
                        forced=forced,
                    )
                )

    def _record_vote(self, voter: NodeId, *, granted: bool) -> VoteResult:
        self._votes.setdefault(voter, granted)
        return quorum.vote_result(self._groups, self._votes)

    def _won(self) -> None:
        if self.role is Role.PRE_CANDIDATE:
            self._campaign(pre_vote=False, forced=False)
        else:
            self._become_leader()

    def _handle_vote(self, message: Message) -> None:
        """RequestVote, receiver's side (paper, figure 2), and its pre-vote twin.

        A learner answers too: it may be a voter already without having heard of it."""
        pre_vote = message.kind is MessageKind.PRE_VOTE
        free = (
            self.vote == message.sender
            or (self.vote == NO_NODE and self.leader == NO_NODE)
            or (pre_vote and message.term > self.term)
        )
        granted = free and self.log.is_up_to_date(message.index, message.log_term)
        if granted and not pre_vote:
            self._election_elapsed = 0
            self.vote = message.sender
        reply = MessageKind.PRE_VOTE_REPLY if pre_vote else MessageKind.VOTE_REPLY
        # A granted pre-vote answers for the term it was asked about; a refusal tells this replica's own.
        term = message.term if granted else self.term
        self._send(Message(reply, message.sender, self.node, term, reject=not granted))

    def _handle_vote_reply(self, message: Message) -> None:
        match self._record_vote(message.sender, granted=not message.reject):
            case VoteResult.WON:
                self._won()
            case VoteResult.LOST:
                # A refused pre-vote carries the refuser's term, not a later one: stay in this term.
                self._become_follower(self.term, NO_NODE)
            case VoteResult.PENDING:
                pass
            case never:
                assert_never(never)

    def _heard_from_quorum(self) -> bool:
        """Check-quorum (thesis 6.2): did a majority answer since the last time this was asked?"""
        active = {
            node: progress.recent_active or node == self.node for node, progress in self._progress.items()
        }
        for _, progress in self._peers:
            progress.recent_active = False
        return quorum.vote_result(self._groups, active) is VoteResult.WON

    # ---- input: messages -----------------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        """Take in a message from a peer."""
        if message.term != self.term and not self._settle_term(message):
            return
        kind = message.kind
        if kind is MessageKind.VOTE or kind is MessageKind.PRE_VOTE:
            self._handle_vote(message)
        elif self.role is Role.LEADER:
            self._step_leader(message)
        elif self.role is Role.FOLLOWER:
            self._step_follower(message)
        else:
            self._step_candidate(message)

    def _settle_term(self, message: Message) -> bool:
        """Bring the terms together (paper 5.1). False: the message is of no more use."""
        if message.term < self.term:
            self._answer_stale(message)
            return False
        kind = message.kind
        if kind is MessageKind.VOTE or kind is MessageKind.PRE_VOTE:
            if self._lease_holds() and not message.forced:
                # The leader is fine: a replica that was cut off or removed must not depose it (thesis 4.2.3).
                return False
            if kind is MessageKind.PRE_VOTE:
                return True
        elif kind is MessageKind.PRE_VOTE_REPLY and not message.reject:
            # Granted for a term this replica has not entered yet; it does so if a majority grants.
            return True
        self._become_follower(message.term, message.sender if _from_leader(kind) else NO_NODE)
        return True

    def _lease_holds(self) -> bool:
        return (
            self.settings.check_quorum
            and self.leader != NO_NODE
            and self._election_elapsed < self.settings.election_ticks
        )

    def _answer_stale(self, message: Message) -> None:
        """Let a sender behind our term catch up, where silence could lock it out.

        A replica that raised its term while cut off ignores the old leader, and its own requests are ignored
        under the lease: this answer is what makes the old leader step down and lets one side win."""
        kind = message.kind
        if kind is MessageKind.APPEND or kind is MessageKind.HEARTBEAT:
            if self.settings.check_quorum or self.settings.pre_vote:
                self._send(Message(MessageKind.APPEND_REPLY, message.sender, self.node, self.term))
        elif kind is MessageKind.PRE_VOTE:
            self._send(Message(MessageKind.PRE_VOTE_REPLY, message.sender, self.node, self.term, reject=True))

    def _step_leader(self, message: Message) -> None:
        progress = self._progress.get(message.sender)
        if progress is None:
            return
        match message.kind:
            case MessageKind.APPEND_REPLY:
                self._handle_append_reply(message, progress)
            case MessageKind.HEARTBEAT_REPLY:
                self._handle_heartbeat_reply(message, progress)
            case MessageKind.APPEND | MessageKind.HEARTBEAT | MessageKind.SNAPSHOT:
                raise AssertionError(f"two leaders in term {self.term}: {self.node} and {message.sender}")
            case _:
                pass  # a late vote, or a TIMEOUT_NOW of an earlier transfer

    def _step_follower(self, message: Message) -> None:
        match message.kind:
            case MessageKind.APPEND:
                self._follow(message.sender)
                self._handle_append(message)
            case MessageKind.HEARTBEAT:
                self._follow(message.sender)
                self._handle_heartbeat(message)
            case MessageKind.SNAPSHOT:
                self._follow(message.sender)
                self._handle_snapshot(message)
            case MessageKind.TIMEOUT_NOW:
                # Straight to a real election: the leader asked for it, pre-vote would only be refused (thesis
                # 3.10).
                if self._may_campaign():
                    self._campaign(pre_vote=False, forced=True)
            case _:
                pass  # an answer to something this replica no longer is

    def _step_candidate(self, message: Message) -> None:
        match message.kind:
            case MessageKind.APPEND | MessageKind.HEARTBEAT | MessageKind.SNAPSHOT:
                # Someone else won this term (paper 5.2).
                self._become_follower(message.term, message.sender)
                self._step_follower(message)
            case MessageKind.PRE_VOTE_REPLY if self.role is Role.PRE_CANDIDATE:
                self._handle_vote_reply(message)
            case MessageKind.VOTE_REPLY if self.role is Role.CANDIDATE:
                self._handle_vote_reply(message)
            case _:
                pass

    # ---- follower ------------------------------------------------------------------------------------------

    def _follow(self, leader: NodeId) -> None:
        self._election_elapsed = 0
        self.leader = leader

    def _handle_append(self, message: Message) -> None:
        """AppendEntries, receiver's side (paper 5.3, figure 2)."""
        log = self.log
        if not self._groups:
            # The log does not hold the membership it began with: without a snapshot this replica would apply
            # changes to nothing and end up in a group of its own.
            self._send_reject(message.sender, index=LogIndex(0), hint=LogIndex(0), hint_term=Term(0))
            return
        if message.index < log.commit:
            # Old or repeated: everything committed is known to agree.
            self._reply_append(message.sender, log.commit)
            return
        if not log.matches(message.index, message.log_term):
            self._reject_append(message)
            return
        entries = message.entries
        assert not entries or entries[0].index == message.index + 1, "entries do not follow their predecessor"
        conflict = log.first_conflict(entries)
        if conflict < len(entries):
            log.append(entries[conflict:] if conflict else entries)
        last_new = LogIndex(message.index + len(entries))
        # Not past last_new: what follows it here may still be an old leader's.
        log.commit_to(min(message.commit, last_new))
        if message.context != NO_REPLY:
            self._reply_append(message.sender, last_new)

    def _reply_append(self, to: NodeId, index: LogIndex) -> None:
        self._send(Message(MessageKind.APPEND_REPLY, to, self.node, self.term, index=index))

    def _reject_append(self, message: Message) -> None:
        """Tell the leader where to look next instead of one entry earlier (paper 5.3, last paragraphs)."""
        last_fit = min(message.index, self.log.last_index)
        hint, hint_term = self.log.find_conflict_by_term(last_fit, message.log_term)
        self._send_reject(message.sender, index=message.index, hint=hint, hint_term=hint_term)

    def _send_reject(self, to: NodeId, *, index: LogIndex, hint: LogIndex, hint_term: Term) -> None:
        self._send(
            Message(
                MessageKind.APPEND_REPLY,
                to,
                self.node,
                self.term,
                log_term=hint_term,
                index=index,
                reject=True,
                reject_hint=hint,
            )
        )

    def _handle_heartbeat(self, message: Message) -> None:
        # A replica rebuilt from nothing has less than its leader believes: it commits only what it has.
        self.log.commit_to(min(message.commit, self.log.last_index))
        self._send(
            Message(
                MessageKind.HEARTBEAT_REPLY, message.sender, self.node, self.term, context=message.context
            )
        )

    def _handle_snapshot(self, message: Message) -> None:
        """InstallSnapshot, receiver's side (paper 7). The contents are already here, not yet installed.

        If the next Ready carries no snapshot it was not needed: the caller throws the contents away."""
        meta = message.snapshot
        assert meta is not None, "a SNAPSHOT without its meta data"
        log = self.log
        if meta.index > log.commit and log.matches(meta.index, meta.term):
            # The log has all of it already, it only did not know that it is committed (paper 7).
            log.commit_to(meta.index)
        elif meta.index > log.commit and self.node in meta.membership.nodes():
            log.restore(meta)
            self._restore_membership(meta)
        self._reply_append(message.sender, log.commit)

    def _restore_membership(self, meta: SnapshotMeta) -> None:
        """The changes up to the snapshot are no longer in the log: their outcome comes with it."""
        self._set_membership(meta.membership)

    # ---- leader: replication -------------------------------------------------------------------------------

    def _refuses_proposals(self) -> Rejected | None:
        if self.role is not Role.LEADER:
            return Rejected(Reason.NOT_LEADER, self.leader)
        if self._transferee != NO_NODE or self._is_leaving:
            return Rejected(Reason.TRANSFERRING, self._transferee)
        return None

    def _fits_uncommitted(self, data: bytes) -> bool:
        """A bound on memory while no quorum answers. Never refuses the only one: it could not ever be
        proposed."""
        return not self._uncommitted_bytes or (
            self._uncommitted_bytes + len(data) <= self.settings.uncommitted_bytes_max
        )

    def _append_own(self, kind: EntryKind, data: bytes) -> Accepted:
        index = LogIndex(self.log.last_index + 1)
        entry = Entry(self.term, index, kind, data)
        self.log.append((entry,))
        self._uncommitted_bytes += entry_bytes(entry)
        self._replication_due = True
        return Accepted(index, self.term)

    def _handle_append_reply(self, message: Message, progress: Progress) -> None:
        progress.recent_active = True
        if message.reject:
            self._handle_append_rejected(message, progress)
            return
        peer, index = message.sender, message.index
        advanced = progress.maybe_update(index)
        if advanced:
            self._match[peer] = index
        if progress.state is PeerState.REPLICATE:
            if not advanced:
                return
            progress.inflights.free_to(index)
        elif progress.state is PeerState.PROBE:
            if index != progress.match:
                return
            progress.become_replicate()
        elif progress.match + 1 >= self.log.first_index():
            # The peer can be served from the log again, by this snapshot or by another way.
            progress.become_replicate()
        self._replication_due = True
        if advanced:
            self._maybe_commit()
            self._maybe_finish_transfer(peer)

    def _handle_append_rejected(self, message: Message, progress: Progress) -> None:
        if message.index == 0:
            # Every log agrees at 0: the peer says that it knows no membership and needs a snapshot.
            if progress.state is PeerState.PROBE:
                self._maybe_send_snapshot(message.sender, progress)
            return
        hint = message.reject_hint
        if message.log_term > 0:
            # The follower's entry there has hint's term; ours with a later term cannot be in its log.
            hint, _ = self.log.find_conflict_by_term(hint, message.log_term)
        if progress.maybe_back_off(rejected=message.index, hint=hint):
            if progress.state is PeerState.REPLICATE:
                progress.become_probe()
            self._replication_due = True

    def _handle_heartbeat_reply(self, message: Message, progress: Progress) -> None:
        progress.recent_active = True
        if progress.retry_due:
            progress.retry_due = False
            if progress.state is PeerState.PROBE or progress.match < self.log.last_index:
                progress.probe_sent = False
                progress.wants_empty = True
                self._replication_due = True
        if message.context:
            acks = self._reads.acknowledge(message.sender, message.context)
            if acks and quorum.vote_result(self._groups, acks) is VoteResult.WON:
                self._reads_ready += self._reads.finish_round()

    def _maybe_commit(self) -> None:
        index = quorum.committed_index(self._groups, self._match)
        if index > self.log.commit and self._may_commit(index):
            self.log.commit_to(index)
            self._replication_due = True

    def _may_commit(self, index: LogIndex) -> bool:
        """Only an entry of the leader's own term is committed by counting replicas (paper 5.4.2, figure
        8)."""
        return index >= self._term_start

    def _flush(self) -> None:
        """Turn what is due into messages, once a turn: many proposals travel in one append."""
        if self.role is not Role.LEADER:
            return
        if self._reads.waiting:
            self._confirm_reads()
        if self._replication_due:
            self._replication_due = False
            for peer, progress in self._peers:
                while self._maybe_send_append(peer, progress):
                    pass

    def _maybe_send_append(self, to: NodeId, progress: Progress) -> bool:
        """Send the next append, or a snapshot, if the peer's state allows. True if more may follow at
        once."""
        if progress.state is PeerState.SNAPSHOT or progress.probe_sent:
            return False
        log = self.log
        replicating = progress.state is PeerState.REPLICATE
        has_entries = progress.next <= log.last_index and not (replicating and progress.inflights.full)
        if not has_entries and replicating and not progress.wants_empty and not self._owes_commit(progress):
            return False
        previous = LogIndex(progress.next - 1)
        entries: tuple[Entry, ...] = ()
        try:
            previous_term = log.term(previous)
            if has_entries:
                hi = LogIndex(log.last_index + 1)
                entries = tuple(log.entries(progress.next, hi, self.settings.append_bytes_max))
        except Compacted:
            self._maybe_send_snapshot(to, progress)
            return False
        # A mere notice of the commit index teaches the leader nothing new: it wants no answer.
        notice = replicating and not entries and not progress.wants_empty
        self._send(
            Message(
                MessageKind.APPEND,
                to,
                self.node,
                self.term,
                log_term=previous_term,
                index=previous,
                entries=entries,
                commit=log.commit,
                context=NO_REPLY if notice else 0,
            )
        )
        progress.wants_empty = False
        progress.sent_commit = min(log.commit, LogIndex(previous + len(entries)))
        if not replicating:
            progress.probe_sent = True
        elif entries:
            last = entries[-1].index
            progress.next = LogIndex(last + 1)
            progress.inflights.add(last, sum([entry_bytes(entry) for entry in entries]))
            return True
        return False

    def _owes_commit(self, progress: Progress) -> bool:
        return self.settings.eager_commit and min(self.log.commit, progress.match) > progress.sent_commit

    def _maybe_send_snapshot(self, to: NodeId, progress: Progress) -> None:
        """Paper 7. Not to a peer that is silent (it would be made for nothing): its next answer asks
        again."""
        meta = self.log.snapshot()
        if not progress.recent_active or meta.index == 0:
            progress.probe_sent = True
            return
        assert meta.index + 1 >= self.log.first_index(), "the snapshot leaves a gap to the log"
        progress.become_snapshot(meta.index)
        self._send(Message(MessageKind.SNAPSHOT, to, self.node, self.term, snapshot=meta))

    def _send_heartbeat(self, to: NodeId, progress: Progress, context: int) -> None:
        # Not past match: the follower would take entries of an old leader for committed.
        commit = min(self.log.commit, progress.match)
        progress.sent_commit = max(progress.sent_commit, commit)
        self._send(Message(MessageKind.HEARTBEAT, to, self.node, self.term, commit=commit, context=context))

    # ---- leader: reads -------------------------------------------------------------------------------------

    def _confirm_reads(self) -> None:
        if not self._may_read():
            return
        if not self._reads_need_round():
            self._reads_ready += self._reads.take_waiting(self.log.commit)
        elif not self._reads.round:
            context = self._reads.start_round(self.node, self.log.commit)
            for peer, progress in self._peers:
                if self._is_voter(peer):
                    self._send_heartbeat(peer, progress, context)

    def _may_read(self) -> bool:
        """Step 1 of thesis 6.4: the leader knows what is committed only after it committed in its own
        term."""
        return self.log.commit >= self._term_start

    def _reads_need_round(self) -> bool:
        """Only a lone voter is a majority by itself: nobody can have deposed it."""
        return self._groups != ((self.node,),)

    # ---- leader: transfer ----------------------------------------------------------------------------------

    def _best_transferee(self) -> NodeId:
        """The live voter that has most of the log; the lowest number among equals."""
        candidates = [
            (-progress.match, peer)
            for peer, progress in self._peers
            if peer in self.membership.voters and progress.recent_active
        ]
        return min(candidates)[1] if candidates else NO_NODE

    def _maybe_finish_transfer(self, peer: NodeId) -> None:
        """The target has the whole log: let it campaign (thesis 3.10). Its vote requests break the lease."""
        if peer == self._transferee and self._progress[peer].match == self.log.last_index:
            self._send(Message(MessageKind.TIMEOUT_NOW, peer, self.node, self.term))

    # ---- membership ----------------------------------------------------------------------------------------

    def _quorum_groups(self, membership: Membership) -> quorum.Groups:
        return quorum.groups_of(membership)

    def _change_in_flight(self) -> bool:
        return self._pending_change_index > self.log.applied

    def _append_change(self, change: MembershipChange, outcome: Membership) -> Accepted:
        accepted = self._append_own(EntryKind.MEMBERSHIP, encode_change(change))
        self._pending_change_index = accepted.index
        self._is_leaving = not _votes_in(outcome, self.node)
        return accepted

    def _tail_removes_self(self) -> bool:
        """Whether a change inherited in the uncommitted tail will take this leader's vote."""
        outcome = self.membership
        for change in self._changes_in(LogIndex(self.log.applied + 1), LogIndex(self.log.last_index + 1)):
            result = next_membership(outcome, change)
            outcome = outcome if isinstance(result, InvalidChange) else result
        return not _votes_in(outcome, self.node)

    def _set_membership(self, membership: Membership) -> None:
        self.membership = membership
        self._groups = self._quorum_groups(membership)

    def _switch_membership(self, membership: Membership) -> None:
        """An applied change takes effect."""
        self._set_membership(membership)
        if self.role is not Role.LEADER:
            return
        self._track(membership, recent_active=True)
        # A smaller quorum may have been reached already; a new peer is probed at once.
        self._maybe_commit()
        self._replication_due = True
        if not self._is_voter(self._transferee):
            self._transferee = NO_NODE
        if not self._is_voter(self.node):
            self._leave_office()

    def _leave_office(self) -> None:
        """This leader is no voter any more (thesis 4.2.2).

        The others may not know yet that the change is committed and still need its vote. They can get it,
        because it took no proposals after that change (`_is_leaving`): no log is less complete than its own
        that has the change. Its last act tells them the commit index and asks the best one to take over."""
        for peer, progress in self._peers:
            progress.wants_empty = True
            self._maybe_send_append(peer, progress)
        self._transferee = self._best_transferee()
        if self._transferee != NO_NODE:
            self._maybe_finish_transfer(self._transferee)
        self._become_follower(self.term, NO_NODE)

    def _track(self, membership: Membership, *, recent_active: bool) -> None:
        """Keep one Progress per member, in ascending order; known ones are carried over."""
        known = self._progress
        next_index = LogIndex(self.log.last_index + 1)
        self._progress = {
            node: known.get(node)
            or Progress(self.settings, match=LogIndex(0), next_index=next_index, recent_active=recent_active)
            for node in membership.nodes()
        }
        self._match = {node: self._match.get(node, LogIndex(0)) for node in self._progress}
        if self.node in self._match:
            self._match[self.node] = self.log.stable_index
        self._peers = tuple(
            (node, progress) for node, progress in self._progress.items() if node != self.node
        )

    def _maybe_leave_joint(self) -> None:
        """Propose to leave a joint membership that was entered with auto_leave, also one an earlier leader
        entered."""
        if self.role is not Role.LEADER or not self.membership.auto_leave or self._change_in_flight():
            return
        outcome = next_membership(self.membership, LEAVE_JOINT)
        if not isinstance(outcome, InvalidChange):
            self._append_change(LEAVE_JOINT, outcome)

    # ---- sending -------------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        """Early, if it relies on nothing that is not durable yet: not on the kind's content, nor on the
        term."""
        durable = self._durable
        if message.kind in _EARLY and durable.term == self.term and durable.vote == self.vote:
            self._early.append(message)
        else:
            self._messages.append(message)


def _votes_in(membership: Membership, node: NodeId) -> bool:
    return node in membership.voters or node in membership.voters_outgoing


def _from_leader(kind: MessageKind) -> bool:
    return kind is MessageKind.APPEND or kind is MessageKind.HEARTBEAT or kind is MessageKind.SNAPSHOT
