"""Who may lead a shard, and how leaders are spread over nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.process.names import ProcessName
from proto.internal import frames_pb2 as frames
from tools.admin.shards import REACH_ENTRIES, ShardView, leaders_by_node, plan_balance, view

if TYPE_CHECKING:
    from collections.abc import Sequence

NODES = ["n1", "n2", "n3", "n4", "n5"]


def _shard(shard: int, holders: Sequence[str], leader: str | None) -> ShardView:
    """A shard on these nodes, all alike."""
    names = [ProcessName.replica(node, shard) for node in holders]
    answers = {
        name: frames.ReplicaStatus(
            shard=shard,
            node=NODES.index(name.node) + 1,
            term=3,
            leader=NODES.index(leader) + 1 if leader else 0,
            commit_index=5_000,
            applied_index=5_000,
            last_index=5_000,
            voters=[NODES.index(node) + 1 for node in holders],
        )
        for name in names
    }
    return view(shard, names, answers)


def _without(shard: ShardView, *nodes: str) -> ShardView:
    return view(
        shard.shard,
        shard.replicas,
        {name: status for name, status in shard.answers.items() if name.node not in nodes},
    )


def _successors(shard: ShardView, **leads: int) -> list[str]:
    return [name.node for name in shard.successors(leads)]


def test_the_emptiest_node_leads_next_and_the_one_furthest_along_among_equals() -> None:
    shard = _shard(1, NODES[:3], "n1")
    assert _successors(shard, n1=3, n2=1, n3=0) == ["n3", "n2"]
    ahead = view(1, shard.replicas, dict(shard.answers))
    ahead.answers[shard.replicas[2]].last_index = 5_010
    assert _successors(ahead) == ["n3", "n2"]


@pytest.mark.parametrize("what", ["behind", "fault", "no_space", "learner", "silent", "leaderless"])
def test_who_cannot_lead(what: str) -> None:
    shard = _shard(1, NODES[:3], "n1")
    status = shard.answers[shard.replicas[1]]
    match what:
        case "behind":
            status.applied_index -= REACH_ENTRIES + 1
        case "fault":
            status.fault = "its data differs"
        case "no_space":
            status.no_space = True
        case "learner":
            shard.answers[shard.replicas[0]].voters[:] = [1, 3]
        case "silent":
            shard = _without(shard, "n2")
        case "leaderless":
            status.leader = 0
    assert _successors(shard) == ["n3"]


def test_a_learner_is_no_part_of_the_quorum() -> None:
    shard = _shard(1, NODES[:4], "n1")
    for status in shard.answers.values():
        status.voters[:] = [1, 2, 3]
    assert not shard.needs(shard.replicas[1])
    lacking = _without(shard, "n3")
    assert lacking.needs(shard.replicas[1])
    assert lacking.away == (shard.replicas[2],)
    assert not lacking.needs(shard.replicas[3])


def test_a_replica_that_trails_far_is_no_part_of_the_quorum() -> None:
    shard = _shard(1, NODES[:3], "n1")
    shard.answers[shard.replicas[2]].applied_index = 10
    assert shard.needs(shard.replicas[1])
    assert shard.away == (shard.replicas[2],)


def test_two_voters_need_each_other_and_one_alone_is_nobodys_loss() -> None:
    pair = _shard(1, NODES[:2], "n1")
    assert all(pair.needs(name) for name in pair.replicas)
    assert pair.away == ()
    lone = _shard(1, NODES[:1], "n1")
    assert not lone.needs(lone.replicas[0])


def test_leaders_are_spread_with_the_fewest_moves() -> None:
    views = [_shard(shard, NODES[:3], "n1") for shard in range(1, 4)]
    assert [(move.shard, move.target) for move in plan_balance(views, NODES[:3])] == [(1, "n2"), (2, "n3")]


def test_leadership_goes_over_others_where_it_must() -> None:
    views = [
        _shard(1, ["n1", "n2"], "n1"),
        _shard(2, ["n1", "n2"], "n1"),
        _shard(3, ["n2", "n3"], "n2"),
    ]
    assert [(move.shard, move.source, move.target) for move in plan_balance(views, NODES[:3])] == [
        (3, "n2", "n3"),
        (1, "n1", "n2"),
    ]


def test_a_node_that_does_not_answer_is_given_nothing() -> None:
    views = [_without(_shard(shard, NODES[:3], "n1"), "n3") for shard in range(1, 5)]
    assert {move.target for move in plan_balance(views, NODES[:3])} == {"n2"}


@given(st.data())
def test_no_single_move_would_spread_the_leaders_better(data: st.DataObject) -> None:
    views = []
    for shard in range(1, data.draw(st.integers(1, 8)) + 1):
        holders = data.draw(st.lists(st.sampled_from(NODES), min_size=1, max_size=3, unique=True))
        views.append(_shard(shard, holders, data.draw(st.sampled_from(holders))))
    leads = leaders_by_node(views)
    places = {each.shard: {name.node for name in each.replicas} for each in views}
    at = {each.shard: each.leader.node for each in views if each.leader is not None}
    for move in plan_balance(views, NODES):
        assert at[move.shard] == move.source
        assert move.target in places[move.shard]
        assert leads[move.target] < max(leads.values()), "no node leads more meanwhile than the fullest did"
        leads[move.source] -= 1
        leads[move.target] += 1
        at[move.shard] = move.target
    for shard, node in at.items():
        assert all(leads[node] - leads[other] < 2 for other in places[shard])
