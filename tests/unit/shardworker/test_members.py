"""Who may become a member and who may go, as an operator asks a leader; and what the outbox is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.raft import Accepted, Membership, MembershipChange, MessageKind, NodeId, StepKind
from shardworker.raft import Step as CoreStep
from shardworker.replica.members import REACH_ENTRIES
from tests.unit.raft.lab import message
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Step = frames.MembershipStep


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[Bench]:
    """It leads nodes 2 and 3, who have answered, and knows of a node 4 by its cluster file."""
    bench = Bench(tmp_path / "leader", members(1, 2, 3), nodes=_nodes(4))
    bench.lead()
    yield bench
    bench.store.close()


def _nodes(count: int) -> dict[str, dict[str, str]]:
    return {f"n{node}": {"host": f"127.0.0.{node}"} for node in range(1, count + 1)}


def at(port: int) -> frames.NodeRecord:
    return frames.NodeRecord(member_id=port, peer_urls=[f"http://127.0.0.9:{port}"])


def ask(bench: Bench, *steps: frames.MembershipStep, peers: tuple[int, ...] = (2, 3)) -> frames.Membership:
    """Ask for it, have these peers acknowledge, and read the answer. Raises what it was refused with."""
    body = frames.ChangeMembership(steps=steps).SerializeToString()
    call = bench.ask(frames.CHANGE_MEMBERSHIP, body)
    for _ in range(2):  # once more for the end of a joint membership
        for peer in peers:
            if bench.core.role.value == "leader" and call not in bench.replies:
                bench.acknowledge(peer)
    return frames.Membership.FromString(bench.answer(call).body)


def add_learner(bench: Bench, node: int, *, catches_up: bool = True) -> None:
    ask(bench, Step(kind=Step.ADD_LEARNER, node=node, record=at(9000 + 10 * node)))
    if catches_up:
        bench.hear(message(MessageKind.APPEND_REPLY, node, bench.core.term, index=bench.core.log.last_index))


def silence(bench: Bench, *others: int) -> None:
    """Time passes in which only these answer."""
    for _ in range(2 * bench.cluster.raft.election_ticks + 1):
        bench.tick()
        for node in others:
            bench.hear(message(MessageKind.HEARTBEAT_REPLY, node, bench.core.term))


def test_a_learner_is_added_promoted_and_removed(leader: Bench) -> None:
    add_learner(leader, 4)
    assert leader.core.membership.learners == {4}
    assert list(ask(leader, Step(kind=Step.ADD_VOTER, node=4)).voters) == [1, 2, 3, 4]
    assert list(ask(leader, Step(kind=Step.REMOVE, node=4), peers=(2, 3, 4)).voters) == [1, 2, 3]
    departed = ((NodeId(4), at(9040).SerializeToString()),)
    assert leader.core.membership == Membership(frozenset(map(NodeId, (1, 2, 3))), departed=departed)


def test_a_number_is_never_given_to_another_node(leader: Bench) -> None:
    add_learner(leader, 4)
    ask(leader, Step(kind=Step.REMOVE, node=4))
    with pytest.raises(errors.MemberExists, match="number 4 was another node's"):
        ask(leader, Step(kind=Step.ADD_LEARNER, node=4, record=at(9050)))
    add_learner(leader, 4)  # itself may come back
    assert leader.core.membership.departed == ()
    ask(leader, Step(kind=Step.REMOVE, node=4), Step(kind=Step.REMOVE, node=3))
    with pytest.raises(errors.MemberExists, match="number 3 was another node's"):
        ask(leader, Step(kind=Step.ADD_LEARNER, node=3, record=at(9050)))
    founder = frames.NodeRecord(member_id=leader.cluster.member_id(3), peer_urls=["http://127.0.0.9:9050"])
    ask(leader, Step(kind=Step.ADD_LEARNER, node=3, record=founder))


def test_the_answer_comes_when_it_is_applied(leader: Bench) -> None:
    body = frames.ChangeMembership(steps=[Step(kind=Step.ADD_LEARNER, node=4)]).SerializeToString()
    call = leader.ask(frames.CHANGE_MEMBERSHIP, body)
    assert call not in leader.replies
    leader.acknowledge(2)
    assert leader.answer(call)


def test_one_takes_the_place_of_another_in_one_step(leader: Bench) -> None:
    add_learner(leader, 4)
    answer = ask(leader, Step(kind=Step.ADD_VOTER, node=4), Step(kind=Step.REMOVE, node=3), peers=(2, 3, 4))
    assert list(answer.voters) == [1, 2, 4]
    assert not answer.voters_outgoing
    assert [entry.node for entry in answer.directory] == [4]


def test_what_is_so_already_is_done(leader: Bench) -> None:
    add_learner(leader, 4)
    before = leader.core.log.last_index
    ask(leader, Step(kind=Step.ADD_LEARNER, node=4, record=at(9040)))
    ask(leader, Step(kind=Step.REMOVE, node=77))
    ask(leader, Step(kind=Step.ADD_VOTER, node=2))
    assert leader.core.log.last_index == before


def test_somebody_else_by_the_same_number_is_refused(leader: Bench) -> None:
    add_learner(leader, 4)
    with pytest.raises(errors.MemberExists):
        ask(leader, Step(kind=Step.ADD_LEARNER, node=4, record=at(5555)))


@pytest.mark.parametrize("port", [9040, 7101])
def test_two_members_at_one_address_are_refused(leader: Bench, port: int) -> None:
    add_learner(leader, 4)
    taken = at(port)
    taken.peer_urls[:] = [f"http://127.0.0.{9 if port == 9040 else 2}:{port}"]
    with pytest.raises(errors.PeerUrlExists):
        ask(leader, Step(kind=Step.UPDATE, node=3, record=taken))


@pytest.mark.parametrize("url", ["http://my~host:7101", "http://127.0.0.9:65536", "http://127.0.0.9"])
def test_an_address_that_no_replica_could_connect_to_is_refused(leader: Bench, url: str) -> None:
    """Once such a one is in the log, every replica that starts would meet it."""
    for step in (Step(kind=Step.ADD_LEARNER, node=4), Step(kind=Step.UPDATE, node=3)):
        step.record.CopyFrom(frames.NodeRecord(member_id=9, peer_urls=[url]))
        with pytest.raises(errors.BadMemberUrls):
            ask(leader, step)
    assert leader.core.status().membership.nodes() == (1, 2, 3)


def test_a_bad_address_of_an_older_log_stops_nobody(leader: Bench) -> None:
    record = frames.NodeRecord(member_id=9, peer_urls=["http://my~host:7101"]).SerializeToString()
    change = MembershipChange((CoreStep(StepKind.ADD_LEARNER, NodeId(4), record),))
    assert isinstance(leader.core.propose_membership(change), Accepted)
    leader.acknowledge(2)
    assert NodeId(4) in leader.core.status().membership.learners
    assert leader.endpoints == {2: "tcp://127.0.0.2:7102", 3: "tcp://127.0.0.3:7102"}
    assert list(ask(leader, Step(kind=Step.REMOVE, node=4)).learners) == []


def test_a_second_learner_waits_for_the_first(leader: Bench) -> None:
    add_learner(leader, 4)
    with pytest.raises(errors.TooManyLearners):
        add_learner(leader, 5)


def test_a_second_change_waits_for_the_first(leader: Bench) -> None:
    body = frames.ChangeMembership(steps=[Step(kind=Step.ADD_LEARNER, node=4)]).SerializeToString()
    leader.ask(frames.CHANGE_MEMBERSHIP, body)
    with pytest.raises(errors.ChangeUnderWay):
        leader.answer(leader.ask(frames.CHANGE_MEMBERSHIP, body))


def test_a_learner_that_lacks_much_or_is_silent_stays_one(leader: Bench) -> None:
    add_learner(leader, 4, catches_up=False)
    with pytest.raises(errors.LearnerNotReady):
        ask(leader, Step(kind=Step.ADD_VOTER, node=4))
    leader.hear(message(MessageKind.APPEND_REPLY, 4, leader.core.term, index=leader.core.log.last_index))
    for _ in range(REACH_ENTRIES + 1):
        leader.core.propose(b"")
    for peer in (2, 3):
        leader.acknowledge(peer)
    with pytest.raises(errors.LearnerNotReady, match="lacks 1001 entries"):
        ask(leader, Step(kind=Step.ADD_VOTER, node=4))


def test_a_learner_that_has_nothing_yet_stays_one_however_short_the_log_is(leader: Bench) -> None:
    add_learner(leader, 4, catches_up=False)
    term = leader.core.term
    leader.hear(message(MessageKind.APPEND_REPLY, 4, term, reject=True))
    with pytest.raises(errors.LearnerNotReady):
        ask(leader, Step(kind=Step.ADD_VOTER, node=4))
    leader.hear(message(MessageKind.APPEND_REPLY, 4, term, index=leader.core.log.last_index))
    ask(leader, Step(kind=Step.ADD_VOTER, node=4))


def test_a_change_can_be_checked_without_being_made(leader: Bench) -> None:
    def check(step: frames.MembershipStep) -> None:
        body = frames.ChangeMembership(steps=[step], only_check=True).SerializeToString()
        leader.answer(leader.ask(frames.CHANGE_MEMBERSHIP, body))

    add_learner(leader, 4, catches_up=False)
    last, promotion = leader.core.log.last_index, Step(kind=Step.ADD_VOTER, node=4)
    with pytest.raises(errors.LearnerNotReady):
        check(promotion)
    leader.hear(message(MessageKind.APPEND_REPLY, 4, leader.core.term, index=last))
    check(promotion)
    check(Step(kind=Step.REMOVE, node=2))
    assert leader.core.log.last_index == last
    assert leader.core.membership.learners == {4}


def test_no_step_that_loses_the_quorum(leader: Bench) -> None:
    silence(leader, 2)
    with pytest.raises(errors.NotEnoughStarted, match="node 3 of 2 voters"):
        ask(leader, Step(kind=Step.REMOVE, node=2))
    assert list(ask(leader, Step(kind=Step.REMOVE, node=3), peers=(2,)).voters) == [1, 2]


def test_a_voter_that_never_was_a_learner_is_refused(leader: Bench) -> None:
    with pytest.raises(errors.MembershipError, match="add it as one first"):
        ask(leader, Step(kind=Step.ADD_VOTER, node=4, record=at(9040)))


def test_a_learner_that_is_to_vote_does_once_it_is_within_reach(leader: Bench) -> None:
    record = at(9040)
    record.promote = True
    ask(leader, Step(kind=Step.ADD_LEARNER, node=4, record=record))
    silence(leader, 2, 3)
    assert leader.core.membership.learners == {4}
    leader.hear(message(MessageKind.APPEND_REPLY, 4, leader.core.term, index=leader.core.log.last_index))
    leader.tick()
    for peer in (2, 3):
        leader.acknowledge(peer)
    assert leader.core.membership.voters == {1, 2, 3, 4}


def test_the_last_voter_stays(alone: Bench) -> None:
    with pytest.raises(errors.NotEnoughStarted):
        ask(alone, Step(kind=Step.REMOVE, node=1), peers=())


def test_a_leader_that_removes_itself_says_so_before_it_goes(leader: Bench) -> None:
    answer = ask(leader, Step(kind=Step.REMOVE, node=1))
    assert list(answer.voters) == [2, 3]
    assert leader.core.role.value == "follower"


def test_who_loses_leadership_does_not_know_what_became_of_it(leader: Bench) -> None:
    body = frames.ChangeMembership(steps=[Step(kind=Step.ADD_LEARNER, node=4)]).SerializeToString()
    call = leader.ask(frames.CHANGE_MEMBERSHIP, body)
    leader.hear(message(MessageKind.HEARTBEAT, 2, leader.core.term + 1))
    with pytest.raises(errors.LeaderLost):
        leader.answer(call)


def test_a_follower_sends_elsewhere_and_nonsense_is_refused(leader: Bench) -> None:
    for body in (b"", b"\xff", frames.ChangeMembership(steps=[Step(node=4)]).SerializeToString()):
        with pytest.raises(errors.MalformedRequest):
            leader.answer(leader.ask(frames.CHANGE_MEMBERSHIP, body))
    with pytest.raises(errors.MemberNotFound):
        ask(leader, Step(kind=Step.UPDATE, node=9, record=at(9090)))
    leader.hear(message(MessageKind.HEARTBEAT, 2, leader.core.term + 1))
    with pytest.raises(errors.NotLeader):
        ask(leader, Step(kind=Step.ADD_LEARNER, node=4))


def test_the_outbox_is_told_where_members_are(leader: Bench) -> None:
    assert leader.endpoints == {2: "tcp://127.0.0.2:7102", 3: "tcp://127.0.0.3:7102"}
    add_learner(leader, 4)
    assert leader.endpoints[NodeId(4)] == "tcp://127.0.0.9:9041"
    ask(leader, Step(kind=Step.UPDATE, node=3, record=at(6000)))
    assert leader.endpoints[NodeId(3)] == "tcp://127.0.0.9:6001"


def test_status_and_coordinators_hear_of_it(leader: Bench) -> None:
    envelope = frames.Envelope(hello=frames.Hello(node=1))
    leader.replica.handle(b"client", envelope)
    add_learner(leader, 4, catches_up=False)
    told = leader.states[-1]
    assert list(told.membership.learners) == [4]
    assert told.applied_index == leader.core.log.applied
    (four,) = [peer for peer in leader.replica.status().progress if peer.node == 4]
    assert (four.match_index, four.active) == (0, False)
