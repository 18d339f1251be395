"""Whether a shard has lost its majority: by the word of its replicas, whatever the cluster file names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proto.internal import frames_pb2 as frames
from tools.admin.recovery import Group, Needless, NotRecovered, survivor_of

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = {1: "n1", 2: "n2", 3: "n3", 4: "n4", 5: "node-5"}
REPLICA: dict[str, Any] = {"node": 1, "shard": 1, "last_index": 9, "commit_index": 8}


def group(
    voters: Iterable[int],
    *,
    up: Iterable[int] = (),
    outgoing: Iterable[int] = (),
    learners: Iterable[int] = (),
    out_of_reach: Iterable[int] = (),
) -> Group:
    membership = frames.Membership(voters=voters, voters_outgoing=outgoing, learners=learners)
    return Group(membership, NAMES, frozenset(up), frozenset(out_of_reach))


def survivor(seen: Group, *lost: str) -> tuple[str, ...]:
    return survivor_of(seen, "n1", REPLICA, lost).lost_voters


def test_a_majority_that_answers_nothing_is_given_up() -> None:
    assert survivor(group([1, 2, 3])) == ("n2", "n3")
    assert survivor(group([1, 2, 3, 4, 5], up=[2])) == ("n2", "n3", "n4", "node-5")


def test_a_majority_with_a_member_that_took_anothers_place_is_not_lost() -> None:
    with pytest.raises(Needless, match="n4 answer, and with n1 that is a majority of its 3 voters"):
        survivor(group([1, 2, 4], up=[4]))


def test_both_halves_of_a_joint_membership_count() -> None:
    with pytest.raises(Needless, match="n2 answer"):
        survivor(group([1, 2, 4], outgoing=[1, 2, 3], up=[2]))
    assert survivor(group([1, 2, 4], outgoing=[1, 2, 3], up=[4])) == ("n2", "n3", "n4")


def test_learners_are_no_majority_and_may_go_on() -> None:
    assert survivor(group([2, 3], learners=[1, 4], up=[2, 4])) == ("n2", "n3")


def test_who_left_the_shard_does_not_go_on() -> None:
    with pytest.raises(Needless, match="n1 does not belong to shard 1: its voters are n2, n3, n4"):
        survivor(group([2, 3, 4], up=[2]))
    with pytest.raises(Needless, match="nobody"):
        survivor(group([]))
    with pytest.raises(Needless, match="n1 is all of shard 1 already"):
        survivor(group([1]))


def test_who_cannot_be_asked_is_not_taken_for_lost() -> None:
    seen = group([1, 4, 5], out_of_reach=[2, 4, 5])
    with pytest.raises(NotRecovered, match=r"n4, node-5 can't be asked.*--lost n4 --lost node-5"):
        survivor(seen)
    with pytest.raises(NotRecovered, match="1: node-5 can't be asked"):
        survivor(seen, "n4")
    assert survivor(seen, "n4", "node-5") == ("n4", "node-5")
    with pytest.raises(Needless):
        survivor(group([1, 4, 5], up=[4], out_of_reach=[5]))
