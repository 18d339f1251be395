"""The fast majorities against deliberately dumb ones."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from shardworker.raft import LogIndex, Membership, NodeId
from shardworker.raft.quorum import VoteResult, committed_index, groups_of, vote_result

NODES = st.integers(1, 9).map(NodeId)
VOTERS = st.frozensets(NODES, min_size=1, max_size=7)
OUTGOING = st.frozensets(NODES, max_size=7)


def majorities(voters: frozenset[NodeId]) -> list[frozenset[NodeId]]:
    """Every set of more than half of the voters, by trying all."""
    ordered = sorted(voters)
    return [
        frozenset(chosen)
        for size in range(len(ordered) + 1)
        for chosen in combinations(ordered, size)
        if 2 * size > len(ordered)
    ]


def some_majority_within(voters: frozenset[NodeId], nodes: frozenset[NodeId]) -> bool:
    return any(majority <= nodes for majority in majorities(voters))


def dumb_committed(halves: list[frozenset[NodeId]], match: dict[NodeId, LogIndex]) -> LogIndex:
    """The highest index such that in each half some majority has it, tried one by one."""
    best = LogIndex(0)
    for index in range(max(match.values(), default=LogIndex(0)) + 1):
        having = frozenset(node for node, at in match.items() if at >= index)
        if all(some_majority_within(half, having) for half in halves):
            best = LogIndex(index)
    return best


def dumb_vote(halves: list[frozenset[NodeId]], votes: dict[NodeId, bool]) -> VoteResult:
    granted = frozenset(node for node, vote in votes.items() if vote)
    not_refused = frozenset(node for half in halves for node in half if votes.get(node, True))
    if all(some_majority_within(half, granted) for half in halves):
        return VoteResult.WON
    if all(some_majority_within(half, granted | not_refused) for half in halves):
        return VoteResult.PENDING
    return VoteResult.LOST


@given(VOTERS, OUTGOING, st.frozensets(NODES), st.dictionaries(NODES, st.integers(0, 12).map(LogIndex)))
def test_committed_index(
    voters: frozenset[NodeId],
    outgoing: frozenset[NodeId],
    learners: frozenset[NodeId],
    match: dict[NodeId, LogIndex],
) -> None:
    membership = Membership(voters, outgoing, learners - voters - outgoing)
    halves = [half for half in (voters, outgoing) if half]
    assert committed_index(groups_of(membership), match) == dumb_committed(halves, match)


@given(VOTERS, OUTGOING, st.dictionaries(NODES, st.booleans()))
def test_vote_result(
    voters: frozenset[NodeId], outgoing: frozenset[NodeId], votes: dict[NodeId, bool]
) -> None:
    halves = [half for half in (voters, outgoing) if half]
    assert vote_result(groups_of(Membership(voters, outgoing)), votes) is dumb_vote(halves, votes)


def test_nobody_decides_nothing() -> None:
    nobody = groups_of(Membership(frozenset()))
    assert committed_index(nobody, {NodeId(1): LogIndex(5)}) == 0
    assert vote_result(nobody, {NodeId(1): True}) is VoteResult.LOST
