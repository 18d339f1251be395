from __future__ import annotations

from coordinator.shards.routing import ShardRoutes
from proto.ids import NodeId

N1, N2, N3, N7 = (NodeId(number) for number in (1, 2, 3, 7))


def connected(*, local: NodeId = N1) -> ShardRoutes:
    routes = ShardRoutes(nodes=[N1, N2, N3], local=local)
    for node in (N1, N2, N3):
        routes.handle_connected(node)
    return routes


def test_nobody_is_the_leader_until_somebody_says_so() -> None:
    routes = connected()
    assert routes.leader is None
    assert routes.handle_belief(N2, term=1, leader=2)
    assert routes.leader == 2
    assert not routes.handle_belief(N1, term=1, leader=2)


def test_the_highest_term_wins() -> None:
    routes = connected()
    routes.handle_belief(N1, term=1, leader=1)
    assert routes.handle_belief(N2, term=2, leader=3)
    assert routes.leader == 3
    # A paused old leader still believes in itself.
    assert not routes.handle_belief(N1, term=1, leader=1)
    assert routes.leader == 3


def test_an_old_belief_does_not_come_back() -> None:
    routes = connected()
    routes.handle_belief(N2, term=5, leader=2)
    assert not routes.handle_belief(N2, term=4, leader=1)
    assert routes.leader == 2


def test_a_leader_that_denies_it_is_none() -> None:
    routes = connected()
    routes.handle_belief(N2, term=3, leader=1)
    assert routes.leader == 1
    assert routes.handle_belief(N1, term=3, leader=0)
    assert routes.leader is None
    # It leads once more, in a later term.
    routes.handle_belief(N3, term=4, leader=1)
    assert routes.leader == 1


def test_a_leader_out_of_reach_is_waited_for() -> None:
    routes = connected()
    routes.handle_belief(N1, term=1, leader=2)
    routes.handle_belief(N2, term=1, leader=2)
    assert routes.handle_disconnected(N2)
    assert routes.leader is None
    assert routes.leader_believed == 2
    assert routes.handle_connected(N2)
    assert routes.leader == 2


def test_the_replica_here_is_the_first_to_know_that_nobody_leads() -> None:
    routes = connected(local=N1)
    assert not routes.is_led
    for node in (N1, N2, N3):
        routes.handle_belief(node, term=1, leader=2)
    assert routes.is_led
    # Both others are cut off; what they last said is still believed of them.
    routes.handle_belief(N1, term=1, leader=0)
    assert routes.leader_believed == 2
    assert not routes.is_led
    # A node whose own replica is down hears it from the others.
    routes.handle_disconnected(N1)
    assert routes.is_led


def test_what_a_lost_replica_believed_is_forgotten() -> None:
    routes = connected()
    routes.handle_belief(N2, term=9, leader=2)
    routes.handle_disconnected(N2)
    assert routes.leader_believed is None
    routes.handle_connected(N2)
    # Restarted with an empty memory it may say less than before.
    routes.handle_belief(N2, term=1, leader=3)
    assert routes.leader == 3


def test_stale_reads_stay_at_home_while_the_replica_is_up() -> None:
    routes = connected(local=N3)
    routes.handle_belief(N1, term=1, leader=1)
    assert routes.nearest() == 3
    assert routes.nearest(avoid=N3) == 1
    routes.handle_disconnected(N3)
    assert routes.nearest() == 1
    routes.handle_disconnected(N1)
    assert routes.nearest() == 2
    routes.handle_disconnected(N2)
    assert routes.nearest() is None


def test_a_node_without_a_replica_reads_at_the_leader() -> None:
    routes = connected(local=N7)
    assert routes.nearest() == 1
    routes.handle_belief(N2, term=1, leader=2)
    assert routes.nearest() == 2


def test_the_term_shown_never_goes_down() -> None:
    routes = connected()
    assert [routes.term_shown(term) for term in (2, 5, 3, 6)] == [2, 5, 5, 6]
