"""What is committed, by way of those who have seen its effect.

A leader answers a write once it has applied it, and its followers hear of that with the next append, or a moment
later (shardworker/loop.py); if the leader stops just then, not before the next one is elected, which without a quorum
may take as long as it likes. But whoever was answered knows it at once. So answers say as far as what their replica has
applied, and a coordinator brings that along when it asks a replica that may not know it: who writes through a node
reads there what he has written, as from a member of etcd, and needs nobody else for it.

The word of a coordinator is believed because it repeats a replica's of the same generation (generations.py). It names
one entry by index and term, so it says nothing to a log that has another one there, or none yet: the newest such word
is kept until the log has come so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.internal import frames_pb2 as frames
from shardworker.raft import LogIndex, Term
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from shardworker.replica.part import ReplicaContext


class CommitNews(Part):
    """Of one replica."""

    def __init__(self, context: ReplicaContext) -> None:
        self._core = context.core
        self._store = context.store
        self._told: frames.CommitPoint | None = None
        """What the log did not have when it was told."""

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        if not envelope.HasField("committed"):
            return
        told = envelope.committed
        if told.generation != self._core.membership.generation or self._learn(told):
            return
        if self._told is None or told.index > self._told.index:
            self._told = told

    def learn(self) -> None:
        """Look whether the log has by now what was told."""
        if self._told is not None and self._learn(self._told):
            self._told = None

    def _learn(self, told: frames.CommitPoint) -> bool:
        return self._core.learn_commit(LogIndex(told.index), Term(told.term))

    def installed(self) -> None:
        # It may be another generation now, and what is committed comes with the next question.
        self._told = None

    def point(self) -> frames.CommitPoint | None:
        """As far as this replica has applied; None where there is no other who might not know it."""
        if len(self._core.membership.nodes()) == 1:
            return None
        applied = self._store.applied
        return frames.CommitPoint(
            index=applied.index, term=applied.term, generation=self._core.membership.generation
        )
