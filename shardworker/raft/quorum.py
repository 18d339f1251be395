"""Majorities: what is committed, and who won. Two groups at once while the membership is joint.

A group is a sorted tuple of voters. A decision needs a majority of every group; no group at all (a replica
that knows no membership yet) decides nothing."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from shardworker.raft.types import LogIndex, NodeId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardworker.raft.types import Membership

Groups = tuple[tuple[NodeId, ...], ...]


class VoteResult(Enum):
    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def groups_of(membership: Membership) -> Groups:
    """The voter sets whose majorities decide. Learners are in none of them (thesis 4.2.1)."""
    groups = (tuple(sorted(membership.voters)), tuple(sorted(membership.voters_outgoing)))
    return tuple(group for group in groups if group)


def committed_index(groups: Groups, match: Mapping[NodeId, LogIndex]) -> LogIndex:
    """The highest index that a majority of every group has."""
    if len(groups) == 1:
        return _majority_index(groups[0], match)
    return min((_majority_index(group, match) for group in groups), default=LogIndex(0))


def _majority_index(group: tuple[NodeId, ...], match: Mapping[NodeId, LogIndex]) -> LogIndex:
    indexes = sorted([match.get(node, LogIndex(0)) for node in group])
    # Ascending: the entry at (n - 1) // 2 has a majority of members at or above it.
    return indexes[(len(indexes) - 1) // 2]


def vote_result(groups: Groups, votes: Mapping[NodeId, bool]) -> VoteResult:
    """WON with a yes from a majority of every group, LOST once some group can no longer give one."""
    results = [_majority_vote(group, votes) for group in groups]
    if not results or VoteResult.LOST in results:
        return VoteResult.LOST
    return VoteResult.PENDING if VoteResult.PENDING in results else VoteResult.WON


def _majority_vote(group: tuple[NodeId, ...], votes: Mapping[NodeId, bool]) -> VoteResult:
    needed = len(group) // 2 + 1
    yes = sum(1 for node in group if votes.get(node) is True)
    if yes >= needed:
        return VoteResult.WON
    unknown = sum(1 for node in group if node not in votes)
    return VoteResult.PENDING if yes + unknown >= needed else VoteResult.LOST
