"""Terms, votes and leases: who leads, and when that ends.

Theory. Time is cut into terms, and a term has at most one leader because a replica gives one vote in it and
a majority is needed. The vote goes only to a log that is at least as complete, so a leader has everything
that was committed before (paper 5.4.1). A replica that sees a later term enters it as a follower; one that
sees an earlier term ignores the message, or answers where silence would lock the sender out.

Rules beyond the paper's figure 2:

- Pre-vote (thesis 9.6): a replica asks whether it could win before it raises its term, so one that was cut
  off does not disturb the group when it returns.
- Check-quorum and the leader's lease (thesis 6.2, 4.2.3): a leader that does not hear from a majority for an
  election timeout steps down; a follower that heard from a leader within one refuses votes, unless the leader
  itself asked for the election (a transfer).
- Nobody campaigns while a committed membership change waits to be applied: the election would be held in a
  group that is already another.

Election timeouts are drawn at random from [election_ticks, 2 * election_ticks), anew in every term and at
every campaign, so that split votes are rare (paper 5.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from shardworker.raft import quorum
from shardworker.raft.leader import Leader
from shardworker.raft.quorum import VoteResult
from shardworker.raft.types import NO_NODE, EntryKind, LogIndex, Message, MessageKind, Role, Term

if TYPE_CHECKING:
    from shardworker.raft.log import LogStorage
    from shardworker.raft.types import HardState, Membership, NodeId, Rng, Settings

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


class Elections(Leader):
    """The role of a replica, and the votes and timers that change it. It stands above Leader because winning
    fills that state and losing drops it."""

    def __init__(
        self,
        settings: Settings,
        log: LogStorage,
        hard_state: HardState,
        membership: Membership,
        applied: LogIndex,
        rng: Rng,
    ) -> None:
        super().__init__(settings, log, hard_state, membership, applied, rng)
        self._election_elapsed = 0
        self._timeout_ticks = 0
        self._votes: dict[NodeId, bool] = {}
        self._reset(self.term)

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
        self._draw_timeout()
        self._votes = {}
        self._forget_leadership()

    def _draw_timeout(self) -> None:
        # Randomised so that split votes are rare (paper 5.2).
        ticks = self.settings.election_ticks
        self._timeout_ticks = self._rng.randrange(ticks, 2 * ticks)

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

    # ---- campaigns -----------------------------------------------------------------------------------------

    def _is_promotable(self) -> bool:
        return self.membership.is_voter(self.node) and self.log.pending_snapshot is None

    def _may_campaign(self) -> bool:
        return self.role is not Role.LEADER and self._is_promotable() and not self._has_unapplied_change()

    def _has_unapplied_change(self) -> bool:
        """A committed change that is not applied yet: campaigning on the old membership could elect two
        leaders."""
        return bool(self._changes_in(LogIndex(self.log.applied + 1), LogIndex(self.log.commit + 1)))

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

    # ---- votes ---------------------------------------------------------------------------------------------

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

    # ---- terms ---------------------------------------------------------------------------------------------

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

    # ---- leases --------------------------------------------------------------------------------------------

    def _follow(self, leader: NodeId) -> None:
        self._election_elapsed = 0
        self.leader = leader

    def _lease_holds(self) -> bool:
        return (
            self.settings.check_quorum
            and self.leader != NO_NODE
            and self._election_elapsed < self.settings.election_ticks
        )

    def _heard_from_quorum(self) -> bool:
        """Check-quorum (thesis 6.2): did a majority answer since the last time this was asked?"""
        active = {
            node: progress.recent_active or node == self.node for node, progress in self._progress.items()
        }
        for _, progress in self._peers:
            progress.recent_active = False
        return quorum.vote_result(self._groups, active) is VoteResult.WON


def _from_leader(kind: MessageKind) -> bool:
    return kind is MessageKind.APPEND or kind is MessageKind.HEARTBEAT or kind is MessageKind.SNAPSHOT
