"""Frames lose nothing: every Raft message comes back as it went in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proto.internal import frames_pb2 as frames
from shardworker import raft_frames
from shardworker.raft import (
    Entry,
    EntryKind,
    LogIndex,
    Membership,
    Message,
    MessageKind,
    NodeId,
    SnapshotMeta,
    Term,
)

terms = st.integers(0, 2**62).map(Term)
indexes = st.integers(0, 2**62).map(LogIndex)
nodes = st.integers(1, 2**31 - 1).map(NodeId)
node_sets = st.frozensets(nodes, max_size=5)
memberships = st.builds(Membership, node_sets, node_sets, node_sets, node_sets, st.booleans())
entries = st.builds(Entry, terms, indexes, st.sampled_from(EntryKind), st.binary(max_size=40))
messages = st.builds(
    Message,
    kind=st.sampled_from(MessageKind),
    to=nodes,
    sender=nodes,
    term=terms,
    log_term=terms,
    index=indexes,
    entries=st.lists(entries, max_size=4).map(tuple),
    commit=indexes,
    reject=st.booleans(),
    reject_hint=indexes,
    context=st.integers(0, 2**63),
    snapshot=st.none() | st.builds(SnapshotMeta, indexes, terms, memberships),
    forced=st.booleans(),
)


@given(messages)
def test_a_message_survives_the_wire(message: Message) -> None:
    data = raft_frames.encode_message(message).SerializeToString()
    assert raft_frames.decode_message(frames.RaftMessage.FromString(data)) == message


@given(memberships)
def test_equal_memberships_have_equal_frames(membership: Membership) -> None:
    again = Membership(
        voters=frozenset(sorted(membership.voters, reverse=True)),
        voters_outgoing=frozenset(sorted(membership.voters_outgoing, reverse=True)),
        learners=frozenset(sorted(membership.learners, reverse=True)),
        learners_next=frozenset(sorted(membership.learners_next, reverse=True)),
        auto_leave=membership.auto_leave,
    )
    assert raft_frames.encode_membership(membership) == raft_frames.encode_membership(again)
