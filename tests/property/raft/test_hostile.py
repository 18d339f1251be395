"""No message of a peer ends a replica, whatever is in it; and what no correct peer sends changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardworker.raft import (
    Entry,
    EntryKind,
    LogIndex,
    Membership,
    MembershipChange,
    Message,
    MessageKind,
    NodeId,
    Role,
    SnapshotMeta,
    Step,
    StepKind,
    Term,
    encode_change,
)
from tests.unit.raft.lab import entries_of, replica_with, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.raft.replica import Replica

ME = NodeId(1)
BEYOND = 1 << 63
CHANGE = encode_change(MembershipChange((Step(StepKind.ADD_LEARNER, NodeId(4)),)))

small = st.one_of(st.integers(0, 8), st.sampled_from([BEYOND - 1, BEYOND, (1 << 64) - 1]))
entries = st.builds(
    Entry,
    term=st.builds(Term, small),
    index=st.builds(LogIndex, small),
    kind=st.sampled_from(EntryKind),
    data=st.sampled_from([b"", b"data", CHANGE, CHANGE[:-1]]),
)
memberships = st.builds(Membership, voters=st.frozensets(st.builds(NodeId, st.integers(1, 4)), max_size=4))
messages = st.builds(
    Message,
    kind=st.sampled_from(MessageKind),
    to=st.just(ME),
    sender=st.builds(NodeId, st.integers(0, 4)),
    term=st.builds(Term, small),
    log_term=st.builds(Term, small),
    index=st.builds(LogIndex, small),
    entries=st.one_of(
        st.just(()),
        st.lists(entries, max_size=4).map(tuple),
        st.builds(
            lambda terms, first: entries_of(terms, first=first),
            st.lists(st.integers(0, 6)),
            st.integers(0, 8),
        ),
    ),
    commit=st.builds(LogIndex, small),
    reject=st.booleans(),
    reject_hint=st.builds(LogIndex, small),
    context=st.integers(0, 5),
    snapshot=st.one_of(
        st.none(),
        st.builds(
            SnapshotMeta,
            index=st.builds(LogIndex, small),
            term=st.builds(Term, small),
            membership=memberships,
        ),
    ),
    forced=st.booleans(),
)


def follower() -> Replica:
    return replica_with([1, 1, 2, 3], commit=2)


def candidate() -> Replica:
    replica = replica_with([1, 1, 2, 3], commit=2)
    replica.raft.campaign()
    return replica


def leader() -> Replica:
    replica = candidate()
    for kind in (MessageKind.PRE_VOTE_REPLY, MessageKind.VOTE_REPLY):
        settle(replica)
        term = Term(replica.raft.term + (kind is MessageKind.PRE_VOTE_REPLY))
        for peer in (2, 3):
            replica.raft.step(Message(kind, ME, NodeId(peer), term))
    assert replica.raft.role is Role.LEADER
    settle(replica)
    return replica


@pytest.mark.parametrize("make", [follower, candidate, leader])
@given(hostile=st.lists(messages, max_size=4))
def test_whatever_a_peer_says_the_replica_goes_on(
    make: Callable[[], Replica], hostile: list[Message]
) -> None:
    replica = make()
    raft = replica.raft
    for message in hostile:
        before = (raft.term, raft.vote, raft.role, raft.leader, raft.log.last_index, raft.log.commit)
        committed = raft.log.commit
        refused = raft.step(message)
        if refused:
            after = (raft.term, raft.vote, raft.role, raft.leader, raft.log.last_index, raft.log.commit)
            assert after == before
        assert committed <= raft.log.commit <= raft.log.last_index
        if raft.log.pending_snapshot is None:
            settle(replica)
        else:
            return  # its contents would come beside the core


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"entries": entries_of([3, 3], first=6)}, "an entry at 6 follows one at 4"),
        (
            {"entries": (*entries_of([3], first=5), *entries_of([3], first=7))},
            "an entry at 7 follows one at 5",
        ),
        ({"entries": entries_of([3, 2], first=5)}, "an entry of term 2 follows one of term 3"),
        ({"entries": entries_of([9], first=5)}, "an entry of term 9"),
        ({"entries": (Entry(Term(3), LogIndex(5), EntryKind.MEMBERSHIP, b"?"),)}, "entry 5 cannot be read"),
        ({"log_term": Term(9)}, "a log of term 9 in a message of term 3"),
        ({"index": LogIndex(0)}, "no entry can be at index 0 with term 3"),
        ({"sender": ME}, "node 1 is no peer"),
        ({"commit": LogIndex(BEYOND)}, "out of range"),
    ],
)
def test_a_slice_of_the_log_is_checked_whole(change: dict[str, object], reason: str) -> None:
    replica = follower()
    sound = Message(MessageKind.APPEND, ME, NodeId(2), Term(3), log_term=Term(3), index=LogIndex(4))
    assert reason in replica.raft.step(replace(sound, **change))  # type: ignore[arg-type]
    assert replica.raft.leader == 0
    assert replica.raft.step(sound) == ""
    assert replica.raft.leader == 2


def test_a_leader_hears_no_second_one_and_no_promise_for_what_it_never_sent() -> None:
    raft = leader().raft
    beyond = LogIndex(raft.log.last_index + 1)
    heartbeat = Message(MessageKind.HEARTBEAT, ME, NodeId(2), raft.term)
    assert "leads as well" in raft.step(heartbeat)
    for reject in (False, True):
        reply = Message(MessageKind.APPEND_REPLY, ME, NodeId(2), raft.term, index=beyond, reject=reject)
        assert "was never sent" in raft.step(reply)
