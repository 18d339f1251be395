"""Membership changes keep every membership well formed and every two successive ones overlapping."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardworker.raft import (
    LEAVE_JOINT,
    InvalidChange,
    Membership,
    MembershipChange,
    NodeId,
    Step,
    StepKind,
    Transition,
    decode_change,
    encode_change,
    next_membership,
)
from shardworker.raft.quorum import groups_of
from tests.property.raft.test_quorum import majorities

NODES = st.integers(1, 6).map(NodeId)
STEPS = st.builds(Step, st.sampled_from(StepKind), NODES, st.binary(max_size=3))
CHANGES = st.builds(MembershipChange, st.lists(STEPS, max_size=4).map(tuple), st.sampled_from(Transition))


def assert_well_formed(membership: Membership) -> None:
    assert membership.voters
    assert not membership.learners & (membership.voters | membership.voters_outgoing)
    assert membership.learners_next <= membership.voters_outgoing
    assert not membership.learners_next & membership.voters
    if not membership.is_joint:
        assert not membership.learners_next
        assert not membership.auto_leave
    told = [node for node, _ in membership.directory]
    assert told == sorted(set(told) & set(membership.nodes()))


def assert_overlap(before: Membership, after: Membership) -> None:
    """Whoever decides before and whoever decides after have a replica in common (thesis 4.1)."""
    olds = [majorities(frozenset(group)) for group in groups_of(before)]
    news = [majorities(frozenset(group)) for group in groups_of(after)]
    assert any(all(one & other for one in old for other in new) for old in olds for new in news), (
        before,
        after,
    )


@given(st.frozensets(NODES, min_size=1, max_size=5), st.lists(CHANGES, max_size=8))
def test_any_sequence_of_changes(voters: frozenset[NodeId], changes: list[MembershipChange]) -> None:
    membership = Membership(voters)
    for change in changes:
        result = next_membership(membership, change)
        if not isinstance(result, InvalidChange):
            assert_well_formed(result)
            assert_overlap(membership, result)
            membership = result


@given(CHANGES)
def test_changes_survive_the_log(change: MembershipChange) -> None:
    assert decode_change(encode_change(change)) == change


@given(st.frozensets(NODES, min_size=1, max_size=5), st.lists(STEPS, min_size=1, max_size=4))
def test_a_joint_change_ends_where_a_simple_one_would(voters: frozenset[NodeId], steps: list[Step]) -> None:
    joint = next_membership(Membership(voters), MembershipChange(tuple(steps), Transition.JOINT))
    if isinstance(joint, InvalidChange):
        return
    assert joint.is_joint
    assert joint.voters_outgoing == voters
    left = next_membership(joint, LEAVE_JOINT)
    assert isinstance(left, Membership)
    auto = next_membership(Membership(voters), MembershipChange(tuple(steps)))
    assert isinstance(auto, Membership)
    if not auto.is_joint:
        assert left == auto
