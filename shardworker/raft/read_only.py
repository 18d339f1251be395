"""Reads that wait for proof of leadership (thesis 6.4, ReadIndex).

A leader may have been deposed without knowing it. Before a linearizable read it therefore notes its commit
index, exchanges one heartbeat with a majority, and only then lets the read run on a state applied up to that
index.

One round of heartbeats serves every read that came before it started. While a round is under way new reads
wait for the next one: joining it would let a read be confirmed by a reply that was sent before the read was
asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.raft.types import LogIndex, NodeId, ReadState

if TYPE_CHECKING:
    from collections.abc import Mapping


class ReadQueue:
    __slots__ = ("_acks", "_contexts", "_index", "_rounds", "waiting")

    def __init__(self) -> None:
        self.waiting: list[int] = []
        """Contexts of reads asked since the current round started."""
        self._contexts: list[int] = []
        self._index = LogIndex(0)
        self._rounds = 0
        self._acks: dict[NodeId, bool] = {}

    def __len__(self) -> int:
        return len(self.waiting) + len(self._contexts)

    @property
    def round(self) -> int:
        """Number of the round under way, 0 if none. Numbers are used once in the life of the core."""
        return self._rounds if self._contexts else 0

    def start_round(self, node: NodeId, commit: LogIndex) -> int:
        """Everything that waits shares a new round; the leader agrees with itself."""
        assert not self._contexts
        assert self.waiting
        self._contexts, self.waiting = self.waiting, []
        self._index = commit
        self._acks = {node: True}
        self._rounds += 1
        return self._rounds

    def acknowledge(self, node: NodeId, context: int) -> Mapping[NodeId, bool]:
        """A peer answered this round's heartbeat: who did so far. Empty if it is another round's."""
        if not self._contexts or context != self._rounds:
            return {}
        self._acks[node] = True
        return self._acks

    def finish_round(self) -> list[ReadState]:
        """The reads of the round, now safe, in the order they were asked."""
        contexts, self._contexts = self._contexts, []
        return [ReadState(context, self._index) for context in contexts]

    def take_waiting(self, commit: LogIndex) -> list[ReadState]:
        """The waiting reads without a round."""
        contexts, self.waiting = self.waiting, []
        return [ReadState(context, commit) for context in contexts]

    def clear(self) -> None:
        self.waiting = []
        self._contexts = []
