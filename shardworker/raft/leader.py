"""What a leader does in its term: append, replicate, commit, prove that it still leads, hand over.

Theory. Only the leader appends. It keeps what it believes of every peer (progress.py) and sends each what it
lacks. An entry of its own term that a majority holds is committed, and with it all before it; entries of
earlier terms are not committed by counting (paper 5.4.2, figure 8), so a term begins with an entry of its
own. The leader counts itself only once the entry is durable here, but others need not wait for that: its
appends leave before its own sync (thesis 10.2.1).

Nothing is sent where it becomes due. Proposals, replies and new reads set a mark, and `_flush`, once a turn,
turns the marks into messages: many proposals share an append, many reads a round (read_only.py, thesis 6.4).

Membership changes are entries, one at a time (thesis 4.1, membership.py). A leader whose own vote a change
takes accepts no proposals behind it (DESIGN.md says why).

Not handled here: how leadership is won and lost (election.py). With it all of this state is forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.raft import quorum
from shardworker.raft.log import Compacted, entry_bytes
from shardworker.raft.membership import LEAVE_JOINT, InvalidChange, encode_change, next_membership
from shardworker.raft.progress import PeerState, Progress
from shardworker.raft.quorum import VoteResult
from shardworker.raft.read_only import ReadQueue
from shardworker.raft.state import ReplicaState
from shardworker.raft.types import (
    NO_NODE,
    NO_REPLY,
    Accepted,
    Entry,
    EntryKind,
    LogIndex,
    Message,
    MessageKind,
    ReadState,
    Reason,
    Rejected,
    Role,
)

if TYPE_CHECKING:
    from shardworker.raft.log import LogStorage
    from shardworker.raft.membership import MembershipChange
    from shardworker.raft.types import HardState, Membership, NodeId, Rng, Settings


class Leader(ReplicaState):
    """The state of one leadership; empty and unused while this replica does not lead."""

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
        self._progress: dict[NodeId, Progress] = {}
        self._match: dict[NodeId, LogIndex] = {}
        self._peers: tuple[tuple[NodeId, Progress], ...] = ()
        self._heartbeat_elapsed = 0
        self._term_start = LogIndex(0)
        self._replication_due = False
        self._announcing = False
        self._pending_change_index = LogIndex(0)
        self._uncommitted_bytes = 0
        self._transferee = NO_NODE
        self._is_leaving = False
        self._reads = ReadQueue()
        self._reads_ready: list[ReadState] = []

    def _forget_leadership(self) -> None:
        """The term is over, or begins: nothing is known of any peer, nobody waits."""
        self._progress = {}
        self._match = {}
        self._peers = ()
        self._heartbeat_elapsed = 0
        self._transferee = NO_NODE
        self._is_leaving = False
        self._uncommitted_bytes = 0
        self._replication_due = False
        self._announcing = False
        self._reads.clear()

    # ---- the log -------------------------------------------------------------------------------------------

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

    # ---- commit --------------------------------------------------------------------------------------------

    def _acknowledge_own(self, index: LogIndex) -> None:
        """This leader's log is durable up to index: it now counts in its own quorum (thesis 10.2.1)."""
        if self.node in self._match and index > self._match[self.node]:
            self._match[self.node] = index
            self._maybe_commit()

    def _maybe_commit(self) -> None:
        index = quorum.committed_index(self._groups, self._match)
        if index > self.log.commit and self._may_commit(index):
            self.log.commit_to(index)
            self._replication_due = True

    def _may_commit(self, index: LogIndex) -> bool:
        """Only an entry of the leader's own term is committed by counting replicas (paper 5.4.2, figure
        8)."""
        return index >= self._term_start

    # ---- replies -------------------------------------------------------------------------------------------

    def _handle_append_reply(self, message: Message, progress: Progress) -> None:
        progress.heard()
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
            self._start_over(message.sender, progress)
            return
        hint = message.reject_hint
        if message.log_term > 0:
            # The follower's entry there has hint's term; ours with a later term cannot be in its log.
            hint, _ = self.log.find_conflict_by_term(hint, message.log_term)
        if progress.maybe_back_off(rejected=message.index, hint=hint):
            if progress.state is PeerState.REPLICATE:
                progress.become_probe()
            self._replication_due = True

    def _start_over(self, peer: NodeId, progress: Progress) -> None:
        """Every log agrees at 0: the peer says that it knows no membership and needs a snapshot.

        It may have acknowledged entries before it was rebuilt from nothing: what it has now is what counts."""
        if progress.state is PeerState.SNAPSHOT:
            return
        surprising = progress.state is PeerState.REPLICATE
        progress.forget()
        self._match[peer] = LogIndex(0)
        if surprising:
            progress.probe_sent = True  # perhaps an old answer: the next heartbeat's reply tells
        else:
            self._maybe_send_snapshot(peer, progress)

    def _handle_heartbeat_reply(self, message: Message, progress: Progress) -> None:
        progress.heard()
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

    # ---- sending -------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Turn what is due into messages, once a turn: many proposals travel in one append."""
        if self.role is not Role.LEADER:
            return
        if self._reads:
            self._confirm_reads()
        if self._replication_due:
            self._replication_due = False
            for peer, progress in self._peers:
                while self._maybe_send_append(peer, progress):
                    pass
            self._announcing = False

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

    def announce_commit(self) -> None:
        """Tell followers how far they may apply, now. For a caller without eager_commit, when it sees that no
        append is about to carry the news."""
        if self.role is Role.LEADER:
            self._announcing = True
            self._replication_due = True

    @property
    def owes_commit(self) -> bool:
        """Whether some follower could apply more if it were told."""
        return self.role is Role.LEADER and any(
            progress.state is PeerState.REPLICATE and self._is_news(progress) for _, progress in self._peers
        )

    def _owes_commit(self, progress: Progress) -> bool:
        return (self.settings.eager_commit or self._announcing) and self._is_news(progress)

    def _is_news(self, progress: Progress) -> bool:
        return min(self.log.commit, progress.match) > progress.sent_commit

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

    # ---- reads ---------------------------------------------------------------------------------------------

    def _confirm_reads(self) -> None:
        if not self._may_read():
            return
        if not self._reads_need_round():
            # A round whose last peer was removed meanwhile would wait for ever.
            self._reads_ready += self._reads.finish_round()
            self._reads_ready += self._reads.take_waiting(self.log.commit)
        elif self._reads.waiting and not self._reads.round:
            context = self._reads.start_round(self.node, self.log.commit)
            for peer, progress in self._peers:
                if self.membership.is_voter(peer):
                    self._send_heartbeat(peer, progress, context)

    def _may_read(self) -> bool:
        """Step 1 of thesis 6.4: the leader knows what is committed only after it committed in its own
        term."""
        return self.log.commit >= self._term_start

    def _reads_need_round(self) -> bool:
        """Only a lone voter is a majority by itself: nobody can have deposed it."""
        return self._groups != ((self.node,),)

    # ---- transfer ------------------------------------------------------------------------------------------

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

    def _change_in_flight(self) -> bool:
        return self._pending_change_index > self.log.applied

    def _append_change(self, change: MembershipChange, outcome: Membership) -> Accepted:
        accepted = self._append_own(EntryKind.MEMBERSHIP, encode_change(change))
        self._pending_change_index = accepted.index
        self._is_leaving = not outcome.is_voter(self.node)
        return accepted

    def _tail_removes_self(self) -> bool:
        """Whether a change inherited in the uncommitted tail will take this leader's vote."""
        outcome = self.membership
        for change in self._changes_in(LogIndex(self.log.applied + 1), LogIndex(self.log.last_index + 1)):
            result = next_membership(outcome, change)
            outcome = outcome if isinstance(result, InvalidChange) else result
        return not outcome.is_voter(self.node)

    def _maybe_leave_joint(self) -> None:
        """Propose to leave a joint membership that was entered with auto_leave, also one an earlier leader
        entered."""
        if self.role is not Role.LEADER or not self.membership.auto_leave or self._change_in_flight():
            return
        outcome = next_membership(self.membership, LEAVE_JOINT)
        if not isinstance(outcome, InvalidChange):
            self._append_change(LEAVE_JOINT, outcome)
