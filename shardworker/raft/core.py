"""The Raft state machine, without I/O: what its caller drives.

Theory. A group of replicas agrees on one log. In each *term* at most one leader is elected by a majority; it
alone appends, and an entry that a majority holds durably in the leader's own term is *committed*: it is in
the log of every later leader. "Paper" is Ongaro and Ousterhout, "In Search of an Understandable Consensus
Algorithm" (extended version); "thesis" is Ongaro's "Consensus: Bridging Theory and Practice".

How it is driven. `tick`, `step`, `propose`, `read_index` and friends change memory only. What must happen in
the world is collected in one `Ready`; the caller carries it out in the order written on that class and calls
`advance`. Until then nothing in it counts as durable: a leader counts its own entries, a voter lets go of its
vote, a follower acknowledges an append only with a turn that was saved.

A lone voter's entries are committed by its own sync. So its Ready already hands them out to be applied in
that same transaction; the commit index itself moves only in `advance`.

Where the rules are, each with its theory: election.py has terms, votes and leases, leader.py and follower.py
the two sides of the log, state.py what every role shares. This file takes input to them and output from them.

Not handled here: moving a snapshot's contents (the caller streams them and steps the SNAPSHOT message when
they have arrived), forwarding proposals or reads to the leader, byzantine peers.

Rejected: leader leases without a heartbeat round for reads. They trust clocks of several machines to run
alike; a round costs a fraction of a millisecond and is shared by all reads of a turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shardworker.raft import gateway
from shardworker.raft.election import Elections
from shardworker.raft.follower import Follower
from shardworker.raft.log import entry_bytes
from shardworker.raft.membership import InvalidChange, decode_change, next_membership
from shardworker.raft.progress import PeerState
from shardworker.raft.types import (
    NO_NODE,
    SILENT_TICKS_MAX,
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
    Ready,
    Reason,
    Rejected,
    Role,
    Settings,
    SnapshotMeta,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardworker.raft.log import LogStorage
    from shardworker.raft.membership import MembershipChange
    from shardworker.raft.types import Rng, Term

NEVER_TICKS: Final = 1 << 31
"""What ticks_until_action answers when no number of ticks would do anything."""

DISCONNECTED_TICKS_MAX: Final = 3
"""Followers that lose their leader's connection at the same moment campaign at different ticks up to this."""

REQUEUED_MESSAGES_MAX: Final = 1024
"""Messages kept over turns that could not be made durable; older ones are dropped, as a network may drop
them. Appends are bounded by the leader's window, so only a disk that stays full for minutes gets here."""


class Raft(Elections, Follower):
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
        super().__init__(settings, log, hard_state, membership, applied, rng)
        self._outstanding: Ready | None = None
        self._staged_membership: Membership | None = None
        self._staged_changes = 0

    def begin(self, membership: Membership, hard_state: HardState) -> None:
        """Become one of the first members of a new group, once the caller has made that durable. hard_state: the term
        and vote that it is bound to from the beginning."""
        assert not self._groups, "this replica has a group"
        assert self.log.last_index == 0, "a log belongs to a group that exists"
        assert self.term <= hard_state.term, "the term never goes back"
        self.term, self.vote = hard_state.term, hard_state.vote
        self._durable = hard_state
        self._set_membership(membership)

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
        for _, progress in self._peers:
            progress.silent_ticks += 1
        if self.owes_commit:
            self.announce_commit()
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
            if self.owes_commit:
                return 1
            until_heartbeat = self.settings.heartbeat_ticks - self._heartbeat_elapsed
            return max(1, min(until_heartbeat, self.settings.election_ticks - self._election_elapsed))
        if not self._is_promotable():
            return NEVER_TICKS
        return max(1, self._timeout_ticks - self._election_elapsed)

    # ---- input: messages -----------------------------------------------------------------------------------

    def step(self, message: Message) -> str:
        """Take in a message from a peer. Returns why no correct peer can have sent it, and then nothing has changed;
        else nothing."""
        wrong = gateway.flaw(message, self.node) or self._contradiction(message)
        if wrong:
            return wrong
        if message.term == self.term or self._settle_term(message):
            self._step(message)
        return ""

    def learn_commit(self, index: LogIndex, term: Term) -> bool:
        """Somebody saw the effect of this entry, so it is committed: with it all that comes before it in a log that
        has it (log matching, paper 5.3). Returns whether this log does, and False if it may still come."""
        if index <= self.log.commit:
            return True
        # Without a membership nothing can be applied: that comes with a snapshot (follower.py).
        if not self._groups or not self.log.matches(index, term):
            return False
        self.log.commit_to(index)
        return True

    def _contradiction(self, message: Message) -> str:
        """What a message says that this replica knows to be impossible."""
        if message.term != self.term or self.role is not Role.LEADER:
            return ""
        if message.kind in gateway.FROM_LEADER:
            return f"node {message.sender} leads as well in term {self.term}"
        if message.kind is MessageKind.APPEND_REPLY and message.index > self.log.last_index:
            return f"an answer to an append at {message.index}, which was never sent"
        return ""

    def _step(self, message: Message) -> None:
        kind = message.kind
        if kind is MessageKind.VOTE or kind is MessageKind.PRE_VOTE:
            self._handle_vote(message)
        elif self.role is Role.LEADER:
            self._step_leader(message)
        elif self.role is Role.FOLLOWER:
            self._step_follower(message)
        else:
            self._step_candidate(message)

    def _step_leader(self, message: Message) -> None:
        progress = self._progress.get(message.sender)
        if progress is None:
            return
        match message.kind:
            case MessageKind.APPEND_REPLY:
                self._handle_append_reply(message, progress)
            case MessageKind.HEARTBEAT_REPLY:
                self._handle_heartbeat_reply(message, progress)
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
        until it took over or an election timeout has passed. Asked again meanwhile, the same transfer goes
        on."""
        if self.role is not Role.LEADER:
            return Rejected(Reason.NOT_LEADER, self.leader)
        target = (self._transferee or self._best_transferee()) if to is None else to
        if not self.membership.is_voter(target):
            return Rejected(Reason.UNKNOWN_TARGET, self.node)
        # Asking once more must not begin the timeout anew: it also ends the wait for a target that is gone, and
        # the leadership of a leader that nobody hears.
        if target not in (self.node, self._transferee):
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

    def advance(self, ready: Ready, durable: bool = True, applied: int | None = None) -> None:
        """The Ready was carried out. durable=False: nothing of it could be saved, so only `early_messages`
        and `reads` are done with; the rest comes again. applied: how many of `committed` were applied, if not
        all of them; the others come again."""
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
        if committed := ready.committed[:applied]:
            self._applied(committed, changes)
            if staged is not None:
                self._switch_membership(staged)
            self._maybe_leave_joint()

    def _applied(self, committed: tuple[Entry, ...], changes: int) -> None:
        assert changes == sum(1 for entry in committed if entry.kind is EntryKind.MEMBERSHIP), (
            "apply_membership was not called for each membership entry"
        )
        self.log.applied = max(self.log.applied, committed[-1].index)
        if self._uncommitted_bytes:
            applied_bytes = sum([entry_bytes(entry) for entry in committed])
            # Entries of earlier leaders were never counted here.
            self._uncommitted_bytes = max(0, self._uncommitted_bytes - applied_bytes)

    def _switch_membership(self, membership: Membership) -> None:
        """An applied change takes effect."""
        self._set_membership(membership)
        if self.role is not Role.LEADER:
            return
        self._track(membership, recent_active=True)
        # A smaller quorum may have been reached already; a new peer is probed at once.
        self._maybe_commit()
        self._replication_due = True
        if not self.membership.is_voter(self._transferee):
            self._transferee = NO_NODE
        if not self.membership.is_voter(self.node):
            self._leave_office()

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

    # ---- status --------------------------------------------------------------------------------------------

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
            return PeerStatus(self._match[node], LogIndex(self.log.last_index + 1), "replicate", 0, True, 0)
        return PeerStatus(
            progress.match,
            progress.next,
            progress.state.value,
            len(progress.inflights),
            progress.recent_active,
            min(progress.silent_ticks, SILENT_TICKS_MAX),
        )
