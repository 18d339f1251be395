"""A shard as its replicas together have it."""

from __future__ import annotations

from dataclasses import replace

from tools.admin.snapshot import Replica, Table, make_shard

NODES = ("n1", "n2", "n3")


def replica(node: str, **changes: object) -> Replica:
    made = Replica(shard=1, node=node, is_answering=True, role="follower", leader="n1", term=2, voters=NODES)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_leader_is_whom_the_highest_term_names() -> None:
    old = replica("n1", role="leader", term=2)
    shard = make_shard(1, [old, replica("n2", role="leader", leader="n2", term=3), replica("n3")], NODES)
    assert (shard.leader, shard.term) == ("n2", 3)


def test_a_deposed_leader_does_not_count() -> None:
    old = replica("n1", role="leader", term=2)
    shard = make_shard(1, [old, replica("n2", leader="", role="candidate", term=3)], NODES)
    assert (shard.leader, shard.leading) == (None, None)


def test_a_leader_that_only_others_know_leads_but_does_not_answer() -> None:
    shard = make_shard(1, [replica("n1", is_answering=False), replica("n2"), replica("n3")], NODES)
    assert (shard.leader, shard.leading) == ("n1", None)
    assert shard.trails(shard.replicas[1]) is None


def test_nobody_answers() -> None:
    shard = make_shard(1, [Replica(shard=1, node=node) for node in NODES], NODES)
    assert (shard.leader, shard.term, shard.voters, shard.serving) == (None, None, NODES, [])


def test_only_voters_that_serve_count_for_the_quorum() -> None:
    learner = replica("n4", role="learner")
    faulty = replica("n3", fault="a row is damaged")
    shard = make_shard(1, [replica("n1", role="leader"), replica("n2"), faulty, learner], NODES)
    assert [each.node for each in shard.serving] == ["n1", "n2"]
    assert shard.majority == 2


def test_a_table_is_shown_as_the_furthest_replica_has_it() -> None:
    tables = {node: [Table(name="t", shard=1, revision=number)] for number, node in enumerate(NODES)}
    shard = make_shard(1, [replica(node, tables=tables[node]) for node in NODES], NODES)
    assert [table.revision for table in shard.tables] == [2]
