"""Do the replicas hold the same? Checksums of their tables at fixed indexes of the log, and who is right about them.

Replicas apply the same entries in the same order, so after the same entry their checksums are equal; if not, a disk, a
memory chip or a bug has changed one of them. Each replica notes its checksum after every so many entries and tells the
leader, which compares. Pure: no clock, no wire, no database.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardworker.raft import LogIndex, NodeId

INDEXES_KEPT: Final = 64
"""How many indexes back a replica can still be compared: it may lag, or be away for a moment."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """More than half of the voters have the same checksum."""

    index: LogIndex
    checksum: int
    majority: frozenset[NodeId]
    odd: frozenset[NodeId]
    """Who has another one, learners included."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Voters differ, and no checksum has a majority: yet, if some have not spoken."""

    index: LogIndex


def compare(
    index: LogIndex, said: Mapping[NodeId, int], voters: frozenset[NodeId]
) -> Agreement | Doubt | None:
    """What follows from what was said so far; None while it is too little."""
    counts = Counter(checksum for node, checksum in said.items() if node in voters)
    if not counts:
        return None
    checksum, count = counts.most_common(1)[0]
    if 2 * count > len(voters):
        majority = frozenset(node for node, theirs in said.items() if theirs == checksum)
        return Agreement(index, checksum, majority, frozenset(said) - majority)
    return Doubt(index) if len(counts) > 1 else None


class Digests:
    """One replica's own checksums, and, for when it leads, those of the others."""

    def __init__(self, node: NodeId, *, every: int) -> None:
        """every: after so many entries."""
        self._node = node
        self._every = every
        self._said: dict[LogIndex, dict[NodeId, int]] = {}
        self._news: set[LogIndex] = set()
        self._unsent: dict[LogIndex, int] = {}

    def is_due(self, index: LogIndex) -> bool:
        """Whether the state after this entry is to be noted."""
        return index % self._every == 0

    def note(self, index: LogIndex, checksum: int) -> None:
        """This replica's own, after applying the entry at index."""
        self._unsent[index] = checksum
        self.hear(self._node, index, checksum)

    def hear(self, node: NodeId, index: LogIndex, checksum: int) -> None:
        """A replica's checksum at index."""
        self._said.setdefault(index, {})[node] = checksum
        self._news.add(index)
        if len(self._said) > INDEXES_KEPT:
            oldest = min(self._said)
            del self._said[oldest]
            self._news.discard(oldest)
            self._unsent.pop(oldest, None)

    def own(self, index: LogIndex) -> int | None:
        """What this replica had at index, if it knows."""
        return self._said.get(index, {}).get(self._node)

    def take_unsent(self) -> dict[LogIndex, int]:
        """Own checksums that the leader has not been told."""
        unsent, self._unsent = self._unsent, {}
        return unsent

    def send_all_again(self) -> None:
        """There is another leader, who has heard nothing yet."""
        self._unsent = {
            index: said[self._node] for index, said in sorted(self._said.items()) if self._node in said
        }

    def forget_own(self) -> None:
        """This replica's state was replaced: what it had before says nothing about what it has."""
        self._unsent.clear()
        for said in self._said.values():
            said.pop(self._node, None)

    def findings(self, voters: frozenset[NodeId]) -> list[Agreement | Doubt]:
        """What the news since the last call lead to, oldest index first."""
        if not self._news:
            return []
        news, self._news = sorted(self._news), set()
        found = (compare(index, self._said[index], voters) for index in news)
        return [finding for finding in found if finding is not None]
