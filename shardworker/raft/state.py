"""What one replica knows, whatever its role, and how a message leaves it.

Theory. Figure 2 of the paper lists a replica's state: term and vote, the log with its commit index, and who
belongs to the group. Here it is together with the one question every role asks of it: what of this has
reached the disk? A message may leave before the turn is saved (`Ready.early_messages`) only if nobody could
be misled should a crash take the turn with it. That needs two things: the kind makes no promise about this
turn's writes, and the term and vote it speaks for are durable already. Everything else waits behind the sync.

Layers. follower.py and leader.py build on this state and do not know each other; election.py decides which of
the two acts; core.py is what the caller drives. A layer calls downwards only, and the whole is one object,
`core.Raft`: what a role does is a method call away, and a test replaces any rule by overriding its method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shardworker.raft import quorum
from shardworker.raft.log import LogView
from shardworker.raft.membership import decode_change
from shardworker.raft.types import NO_NODE, EntryKind, LogIndex, Membership, MessageKind, Role

if TYPE_CHECKING:
    from shardworker.raft.log import LogStorage
    from shardworker.raft.membership import MembershipChange
    from shardworker.raft.types import HardState, Message, Rng, Settings

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


class ReplicaState:
    """Public attributes are for reading only."""

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
        self.membership = membership
        self._groups = self._quorum_groups(membership)

        self._rng = rng
        self._durable = hard_state
        self._messages: list[Message] = []
        self._early: list[Message] = []

    # ---- membership ----------------------------------------------------------------------------------------

    def _quorum_groups(self, membership: Membership) -> quorum.Groups:
        return quorum.groups_of(membership)

    def _set_membership(self, membership: Membership) -> None:
        self.membership = membership
        self._groups = self._quorum_groups(membership)

    def _changes_in(self, lo: LogIndex, hi: LogIndex) -> list[MembershipChange]:
        changes: list[MembershipChange] = []
        while lo < hi:
            entries = self.log.entries(lo, hi, self.settings.append_bytes_max)
            changes += [decode_change(entry.data) for entry in entries if entry.kind is EntryKind.MEMBERSHIP]
            lo = LogIndex(entries[-1].index + 1)
        return changes

    # ---- sending -------------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        """Early, if it relies on nothing that is not durable yet: not on the kind's content, nor on the
        term."""
        durable = self._durable
        if message.kind in _EARLY and durable.term == self.term and durable.vote == self.vote:
            self._early.append(message)
        else:
            self._messages.append(message)
