"""The log as a follower takes it over from its leader (paper 5.3, figure 2, receiver's side).

Theory. Every append names the entry it follows, by index and term. If that one is in the log too, the logs
agree up to it (the paper's log matching property) and the new entries go behind it, replacing whatever
conflicts; if not, the answer says where they may agree, so that the leader finds the place in few round
trips. What is committed never conflicts, so an append below the commit index is answered without a look at
it. An acknowledgement is a promise: it waits until the entries are durable.

The commit index comes with appends and heartbeats, and is believed only as far as the log is known to be the
leader's. A snapshot replaces a log that is too far behind, and the membership with it (paper 7).

Not handled here: whom to believe. A message gets here only after election.py settled its term."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.raft.state import ReplicaState
from shardworker.raft.types import NO_REPLY, LogIndex, Message, MessageKind, Term

if TYPE_CHECKING:
    from shardworker.raft.types import NodeId, SnapshotMeta


class Follower(ReplicaState):
    """What a replica does with its leader's log. It keeps no state of its own."""

    # ---- entries -------------------------------------------------------------------------------------------

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

    # ---- commit index --------------------------------------------------------------------------------------

    def _handle_heartbeat(self, message: Message) -> None:
        # A replica rebuilt from nothing has less than its leader believes: it commits only what it has.
        self.log.commit_to(min(message.commit, self.log.last_index))
        self._send(
            Message(
                MessageKind.HEARTBEAT_REPLY, message.sender, self.node, self.term, context=message.context
            )
        )

    # ---- snapshot ------------------------------------------------------------------------------------------

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
