"""Known consensus bugs, each as a subclass of the production core. The suite has to find every one of them.

None needs a switch in the core: a mutant overrides one of its small methods.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shardworker.raft import Accepted, Entry, HardState, LogIndex, Message, Raft, Rejected, SnapshotMeta

if TYPE_CHECKING:
    from collections.abc import Sequence


class VoteNotPersisted(Raft):
    """The vote is kept in memory only: after a crash a replica votes twice in a term."""

    def _hard_state(self, commit: LogIndex | None = None) -> HardState:
        return replace(super()._hard_state(commit), vote=self._durable.vote)


class CommitsOldTerm(Raft):
    """Any entry on a majority counts as committed (paper, figure 8)."""

    def _may_commit(self, index: LogIndex) -> bool:
        return True


class AppendsToAnything(Raft):
    """A follower looks for an entry before the new ones, but not of which term it is (paper 5.3)."""

    def _handle_append(self, message: Message) -> None:
        if self.log.commit <= message.index <= self.log.last_index:
            message = replace(message, log_term=self.log.term(message.index))
        super()._handle_append(message)


class ReadsWithoutRound(Raft):
    """Whoever believes to lead answers reads: a deposed leader serves the past. With check_quorum=False this
    is a lease read without a lease."""

    def _reads_need_round(self) -> bool:
        return False


class ReadsBeforeCommittingInTerm(Raft):
    """A new leader answers reads before it knows what is committed."""

    def _may_read(self) -> bool:
        return True


class SnapshotWithoutMembership(Raft):
    """A snapshot brings the data but not who belongs to the group."""

    def _restore_membership(self, meta: SnapshotMeta) -> None:
        pass


class LearnersCounted(Raft):
    """What learners have counts towards a commit."""

    def _maybe_commit(self) -> None:
        membership = self.membership
        voters = membership.voters | membership.learners
        self._groups = self._quorum_groups(replace(membership, voters=voters, learners=frozenset()))
        super()._maybe_commit()
        self._groups = self._quorum_groups(membership)


class TwoChangesInFlight(Raft):
    """A membership change may be proposed before the previous one is applied."""

    def _change_in_flight(self) -> bool:
        return False


class AcknowledgesBeforeSync(Raft):
    """Turns are not synced: a lone replica's acknowledged write is lost with the power."""

    def _must_sync(
        self, hard_state: HardState, entries: Sequence[Entry], snapshot: SnapshotMeta | None
    ) -> bool:
        return False


class CountsItselfBeforeSync(Raft):
    """A leader counts its own log before its own sync (what thesis 10.2.1 forbids)."""

    def propose(self, data: bytes) -> Accepted | Rejected:
        answer = super().propose(data)
        if isinstance(answer, Accepted):
            self._acknowledge_own(answer.index)
        return answer
