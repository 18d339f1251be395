"""Plans of which nodes hold what, and the walk through one, interrupted wherever it may be."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.loading import parse
from proto import errors
from proto.internal import frames_pb2 as frames
from tools.admin import membership
from tools.admin.member_plan import (
    NoPlan,
    Placement,
    Step,
    StepKind,
    plan_add,
    plan_remove,
    plan_replace,
)
from tools.admin.membership import ChangeStuck, MemberChange, QuorumAtRisk, StoredPlan
from tools.admin.probe import NotChanged
from tools.node import run_steps
from tools.output import Output

if TYPE_CHECKING:
    from pathlib import Path

    from config import ClusterConfig

NODES = ["n1", "n2", "n3", "n4", "n5"]


def after(placement: Placement, steps: list[Step]) -> Placement:
    """What becomes of it; no shard ever has more or fewer voters than before, but for those that only join or leave."""
    found = dict(placement)
    learning: set[tuple[int, str]] = set()
    for step in steps:
        match step.kind:
            case StepKind.LEARN:
                assert step.node not in found[step.shard]
                learning.add((step.shard, step.node))
            case StepKind.VOTE:
                assert (step.shard, step.node) in learning
                found[step.shard] = (found[step.shard] | {step.node}) - {step.instead_of or ""}
            case StepKind.LEAVE:
                found[step.shard] -= {step.node}
        assert found[step.shard]
    return found


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    nodes = draw(st.sampled_from([NODES[:3], NODES[:4]]))
    shards = draw(st.integers(1, 6))
    return {
        shard: frozenset(draw(st.permutations(nodes))[: draw(st.sampled_from([1, 2, 3]))])
        for shard in range(1, shards + 1)
    }


@given(placements())
def test_a_node_that_is_added_holds_something_and_nobody_holds_two_more_than_it(placement: Placement) -> None:
    steps = plan_add(placement, "n5", replicas=3)
    found = after(placement, steps)
    counts = {name: sum(name in nodes for nodes in found.values()) for name in NODES}
    assert counts["n5"] >= 1
    for shard, nodes in found.items():
        assert len(nodes) >= min(3, len(placement[shard]))
    assert plan_add(found, "n5", replicas=3) == []


@given(placements(), st.data())
def test_who_learns_already_gets_its_vote_or_leaves_whoever_plans(
    placement: Placement, data: st.DataObject
) -> None:
    """A plan that was begun on another machine is not to be found on this one."""
    learns = data.draw(st.sets(st.sampled_from(sorted(placement))))
    found = after(placement, plan_add(placement, "n5", replicas=3, learns=learns))
    assert all("n5" in found[shard] for shard in learns)
    for shard, nodes in found.items():
        assert len(nodes) <= 3, shard
    left = plan_remove(placement, "n5", NODES[:3], replicas=3, learns=learns)
    assert left == [Step(shard, StepKind.LEAVE, "n5") for shard in sorted(learns)]


@given(placements(), st.sampled_from(NODES[:3]))
def test_a_node_that_is_removed_holds_nothing_and_others_take_over_what_they_can(
    placement: Placement, node: str
) -> None:
    used = sorted({name for nodes in placement.values() for name in nodes} - {node})
    try:
        found = after(placement, plan_remove(placement, node, used, replicas=3))
    except NoPlan:
        assert any(nodes == {node} for nodes in placement.values())
        return
    assert not any(node in nodes for nodes in found.values())
    for shard, nodes in placement.items():
        if node in nodes and set(used) - nodes:
            assert len(found[shard]) == len(nodes)


@given(placements())
def test_a_node_that_is_replaced_leaves_all_it_holds_to_the_other(placement: Placement) -> None:
    found = after(placement, plan_replace(placement, "n1", "n5"))
    for shard, nodes in placement.items():
        assert found[shard] == frozenset("n5" if name == "n1" else name for name in nodes)


def test_a_node_takes_no_place_where_it_votes_already() -> None:
    placement = {1: frozenset({"n1", "n3"}), 2: frozenset({"n1", "n2", "n3"})}
    for new in ("n1", "n2"):
        with pytest.raises(
            NoPlan, match=rf"{new} votes in shard 2 already.*node remove n2.*up FILE --node n2"
        ):
            plan_replace(placement, "n2", new)
    assert plan_replace(placement, "n2", "n4") == [
        Step(2, StepKind.LEARN, "n4"),
        Step(2, StepKind.VOTE, "n4", "n2"),
    ]


# ---- the walk ----------------------------------------------------------------------------------------------------

FILE = """
shards: 2
replicas: 3
nodes:
  n1: {}
  n2: {client_port: 2479, http_port: 8179, peer_port: 7201}
  n3: {client_port: 2579, http_port: 8279, peer_port: 7301}
  n4: {client_port: 2679, http_port: 8379, peer_port: 7401, joins: true}
"""


class Interrupted(Exception):
    """The program is killed."""


@dataclass
class FakeWorld:
    """Two shards, whose leaders do what they are asked. It is killed once it has been asked so often."""

    members: dict[int, frames.Membership] = field(
        default_factory=lambda: {shard: frames.Membership(voters=[1, 2, 3]) for shard in (1, 2)}
    )
    silent: frozenset[int] = frozenset()
    refuses: list[errors.BoathouseError] = field(default_factory=list)
    calls_left: int = 1 << 30
    lag: int = 0
    snapshot_looks: int = 0
    """For so many looks a learner has nothing, and gets a snapshot."""
    changes: int = 0

    def leader_of(self, shard: int) -> frames.ReplicaStatus | None:
        self._count()
        status = frames.ReplicaStatus(
            shard=shard, node=1, leader=1, commit_index=50_000, membership=self.members[shard]
        )
        self.lag = max(0, self.lag - 1_000)
        for node in (*self.members[shard].voters, *self.members[shard].learners):
            if node != 1:
                match, state = 50_000, "replicate"
                if node in self.members[shard].learners:
                    match = 50_000 - self.lag
                    if self.snapshot_looks > 0:
                        self.snapshot_looks -= 1
                        match, state = 0, "snapshot"
                active = node not in self.silent
                status.progress.add(node=node, match_index=match, active=active, state=state)
        return status

    def change(self, shard: int, leader: int, change: frames.ChangeMembership) -> None:
        self._count()
        if self.refuses:
            raise NotChanged("refused", self.refuses.pop(0))
        voters, learners = set(self.members[shard].voters), set(self.members[shard].learners)
        for step in change.steps:
            if step.kind == frames.MembershipStep.ADD_LEARNER:
                assert list(step.record.peer_urls) == ["http://127.0.0.1:7401"]
                learners.add(step.node)
            elif step.kind == frames.MembershipStep.ADD_VOTER:
                assert self.lag <= 1_000
                voters.add(step.node)
                learners.discard(step.node)
            else:
                voters.discard(step.node)
                learners.discard(step.node)
        self.members[shard] = frames.Membership(voters=sorted(voters), learners=sorted(learners))
        self.changes += 1

    def _count(self) -> None:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise Interrupted


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> None:
        self.now_s += seconds


def walk(
    world: FakeWorld, cluster: ClusterConfig | None = None, said: list[str] | None = None
) -> MemberChange:
    clock = Clock()
    return MemberChange(
        cluster or parse(FILE, "f"),
        world,
        (said if said is not None else []).append,
        clock=clock,
        pause=clock.pause,
    )


REPLACED = plan_replace({1: frozenset({"n1", "n2", "n3"}), 2: frozenset({"n1", "n2", "n3"})}, "n3", "n4")


def test_the_steps_are_taken_and_progress_is_told() -> None:
    world, said, done = FakeWorld(lag=12_000), list[str](), list[Step]()
    change = walk(world, said=said)
    assert change.placement() == {1: frozenset({"n1", "n2", "n3"}), 2: frozenset({"n1", "n2", "n3"})}
    change.check(REPLACED)
    change.run(REPLACED, done.append)
    assert done == REPLACED
    assert [list(one.voters) for one in world.members.values()] == [[1, 2, 4], [1, 2, 4]]
    assert any("n4 has" in line for line in said)


@pytest.mark.parametrize("calls", range(12))
def test_whoever_is_killed_goes_on_where_he_was(calls: int) -> None:
    world = FakeWorld(calls_left=calls)
    with pytest.raises(Interrupted):
        walk(world).run(REPLACED, lambda _step: None)
    world.calls_left = 1 << 30
    walk(world).run(REPLACED, lambda _step: None)
    assert [list(one.voters) for one in world.members.values()] == [[1, 2, 4], [1, 2, 4]]
    assert world.changes == 4


def test_what_passes_is_waited_for_and_what_does_not_ends_the_walk() -> None:
    world = FakeWorld(refuses=[errors.ChangeUnderWay(), errors.LeaderLost(), errors.NotLeader()])
    walk(world).run(REPLACED, lambda _step: None)
    world = FakeWorld(refuses=[errors.PeerUrlExists("taken")])
    with pytest.raises(ChangeStuck, match="0 of 4 steps are done, 4 are left"):
        walk(world).run(REPLACED, lambda _step: None)
    with pytest.raises(QuorumAtRisk):
        walk(FakeWorld(refuses=[errors.NotEnoughStarted("n2")])).run(REPLACED, lambda _step: None)


def test_a_learner_that_never_answers_is_given_up_with_advice() -> None:
    world = FakeWorld(silent=frozenset({4}))
    with pytest.raises(ChangeStuck, match=r"up FILE --node n4"):
        walk(world).run(REPLACED, lambda _step: None)


def test_a_snapshot_may_take_its_time_but_not_for_ever() -> None:
    world = FakeWorld(snapshot_looks=int(2 * membership.SILENCE_S / membership.POLL_S))
    walk(world).run(REPLACED, lambda _step: None)
    assert world.changes == 4
    with pytest.raises(ChangeStuck, match="no headway"):
        walk(FakeWorld(snapshot_looks=1_000_000)).run(REPLACED, lambda _step: None)


def test_nothing_begins_that_would_cost_a_quorum() -> None:
    leaving = [Step(1, StepKind.LEAVE, "n2")]
    walk(FakeWorld()).check(leaving)
    walk(FakeWorld(silent=frozenset({2}))).check(leaving)
    with pytest.raises(QuorumAtRisk, match="without n2 while n3 is away"):
        walk(FakeWorld(silent=frozenset({3}))).check(leaving)


def test_learners_are_no_part_of_the_placement() -> None:
    world = FakeWorld()
    world.members[2] = frames.Membership(voters=[1, 2, 3], learners=[4])
    change = walk(world)
    assert change.placement()[2] == {"n1", "n2", "n3"}
    assert change.learns("n4") == {2}


def test_a_plan_on_disk_is_read_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    cluster = parse(FILE + f"data_dir: {tmp_path / 'no' / 'node' / 'here'}\n", "f")
    assert membership.read_plan(cluster) is None
    plan = StoredPlan("replace n3 n4", tuple(REPLACED))
    membership.write_plan(cluster, plan)
    assert membership.read_plan(cluster) == plan
    membership.end_plan(cluster)
    assert membership.read_plan(cluster) is None
    for text in ("{", "[]", '{"command": "x", "steps": [{}]}'):
        membership.plan_file(cluster).write_text(text)
        with pytest.raises(ChangeStuck, match="node-change"):
            membership.read_plan(cluster)


def test_a_plan_that_has_ended_does_not_come_back_with_the_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = parse(FILE + f"data_dir: {tmp_path}\n", "f")
    membership.write_plan(cluster, StoredPlan("add n4", ()))
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(membership.plan_file(cluster).exists()))
    membership.end_plan(cluster)
    assert synced == [False]


def test_a_plan_whose_first_step_is_refused_stands_in_nobodys_way(tmp_path: Path) -> None:
    cluster = parse(FILE + f"data_dir: {tmp_path}\n", "f")
    for refusal in (errors.PeerUrlExists("taken"), errors.NotEnoughStarted("n2")):
        with pytest.raises(ChangeStuck):
            carry_out(cluster, walk(FakeWorld(refuses=[refusal]), cluster))
        assert membership.read_plan(cluster) is None
    with pytest.raises(ChangeStuck, match="0 of 4 steps are done"):
        # Nobody knows what becomes of what it was asked for.
        carry_out(cluster, walk(FakeWorld(refuses=[errors.LeaderLost()] * 1_000), cluster))
    assert membership.read_plan(cluster) is not None


def carry_out(cluster: ClusterConfig, change: MemberChange) -> None:
    run_steps(cluster, "replace n3 n4", change, REPLACED, Output.JSON)
