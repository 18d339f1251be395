"""The words of a confirmation: what an operation does to a quorum."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from config.process.names import ProcessName
from tests.unit.tui.clusters import degraded, healthy, leaderless
from tools.admin.quorum import Verb, effect
from tools.admin.snapshot import make_shard

if TYPE_CHECKING:
    from tools.admin.snapshot import Snapshot

N1, N2 = ProcessName.replica("n1", 1), ProcessName.replica("n2", 1)


@pytest.mark.parametrize(
    ("snapshot", "verb", "name", "text", "is_harmful"),
    [
        (
            healthy(), Verb.RESTART, N2,
            "shard 1 keeps 2 of 3 voters, and can lose none until it is back", False,
        ),
        (
            healthy(), Verb.STOP, N1,
            "shard 1 keeps 2 of 3 voters, and can lose none until it is started again; its leadership moves first",
            False,
        ),
        (degraded(), Verb.STOP, N2, "shard 1 loses its quorum: 1 of 3 voters serve until it is started again", True),
        (
            leaderless(), Verb.RESTART, ProcessName.replica("n1", 2),
            "shard 2 has no quorum and stays without one: 0 of 3 voters serve until it is back", True,
        ),
        (
            leaderless(), Verb.START, ProcessName.replica("n2", 2),
            "shard 2 gets 2 of 3 voters and has a quorum again", False,
        ),
        (healthy(), Verb.MOVE_LEADER, N1, "n1 hands shard 1 over to the voter that is furthest", False),
        (
            degraded(), Verb.MOVE_LEADER, N2,
            "n1 hands shard 1 over to n2, once it has the 10000 entries that it lacks", False,
        ),
        (leaderless(), Verb.MOVE_LEADER, ProcessName.replica("n1", 2), "shard 2 has no leader to move", True),
        (
            healthy(), Verb.STOP, ProcessName.coordinator("n1"),
            "no quorum changes; clients of n1 have to go to one of 2 other nodes", False,
        ),
        (
            healthy(), Verb.RESTART, ProcessName.coordinator("n1"),
            "its successor takes clients before it goes; no quorum changes", False,
        ),
    ],
)  # fmt: skip
def test_effect(snapshot: Snapshot, verb: Verb, name: ProcessName, text: str, *, is_harmful: bool) -> None:
    found = effect(snapshot, verb, name)
    assert (found.text, found.is_harmful) == (text, is_harmful)


def test_a_learner_has_no_quorum_to_take() -> None:
    shard = healthy().shards[0]
    two = [replace(replica, voters=("n1", "n3")) for replica in shard.replicas]
    snapshot = replace(healthy(), shards=[make_shard(1, two, ("n1", "n3"))])
    assert effect(snapshot, Verb.STOP, N2).text == "n2 has no vote in shard 1: its quorum stays as it is"


def test_the_last_coordinator_is_missed() -> None:
    alone = replace(
        healthy(),
        processes=[each for each in healthy().processes if each.name == ProcessName.coordinator("n1")],
    )
    assert effect(alone, Verb.STOP, ProcessName.coordinator("n1")).is_harmful
