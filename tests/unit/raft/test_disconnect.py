"""A broken connection is a hint: it shortens the wait for an election and can never depose a live leader."""

from __future__ import annotations

import pytest

from shardworker.raft import NO_NODE, MessageKind, NodeId, Role
from shardworker.raft.core import DISCONNECTED_TICKS_MAX
from tests.unit.raft.lab import give, lead, message, of_kind, replica_with, settle
from tests.unit.raft.replica import Replica, settings_of

LEADER = 2


def follower_of_two(*, pre_vote: bool = True) -> Replica:
    replica = replica_with([1], settings=settings_of(1, pre_vote=pre_vote))
    give(replica, message(MessageKind.HEARTBEAT, LEADER, 1))
    assert replica.raft.leader == LEADER
    return replica


def test_a_follower_that_lost_its_leader_campaigns_soon() -> None:
    replica = follower_of_two()
    replica.raft.report_disconnected(NodeId(LEADER))
    for _ in range(DISCONNECTED_TICKS_MAX):
        replica.raft.tick()
    assert replica.raft.role is Role.PRE_CANDIDATE
    assert of_kind(settle(replica), MessageKind.PRE_VOTE)


def test_it_grants_a_pre_vote_that_the_lease_would_have_refused() -> None:
    request = message(MessageKind.PRE_VOTE, 3, 2, index=1, log_term=1)
    assert not give(follower_of_two(), request)
    replica = follower_of_two()
    replica.raft.report_disconnected(NodeId(LEADER))
    (reply,) = of_kind(give(replica, request), MessageKind.PRE_VOTE_REPLY)
    assert not reply.reject


def test_a_leader_that_is_heard_again_is_believed_again() -> None:
    replica = follower_of_two()
    replica.raft.report_disconnected(NodeId(LEADER))
    assert replica.raft.leader == NO_NODE
    give(replica, message(MessageKind.HEARTBEAT, LEADER, 1))
    for _ in range(DISCONNECTED_TICKS_MAX):
        replica.raft.tick()
    assert (replica.raft.role, replica.raft.leader, replica.raft.term) == (Role.FOLLOWER, LEADER, 1)


@pytest.mark.parametrize("peer", [1, 3])
def test_other_connections_change_nothing(peer: int) -> None:
    replica = follower_of_two()
    replica.raft.report_disconnected(NodeId(peer))
    assert replica.raft.leader == LEADER


def test_without_pre_vote_the_hint_is_not_taken() -> None:
    replica = follower_of_two(pre_vote=False)
    replica.raft.report_disconnected(NodeId(LEADER))
    assert replica.raft.leader == LEADER


def test_a_leader_probes_the_peer_it_lost() -> None:
    replica = replica_with([1])
    raft = lead(replica)
    assert raft.status().progress[NodeId(2)].state == "replicate"
    raft.report_disconnected(NodeId(2))
    assert raft.status().progress[NodeId(2)].state == "probe"
    assert raft.role is Role.LEADER
