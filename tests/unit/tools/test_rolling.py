"""A rolling restart against a shard made of plain values: never more than one replica down or behind."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from config.process.names import ProcessName
from config.process.report import ProcessReport, State
from proto.internal import frames_pb2 as frames
from tools.admin.rolling import QuorumNeeded, RestartStuck, RollingRestart

if TYPE_CHECKING:
    from collections.abc import Sequence

NODES = {"n1": 1, "n2": 2, "n3": 3}


class Shards:
    """Replicas on three nodes. A restarted one answers after `silent` questions and catches up after `behind`
    more. A leader hands over when it is asked to, unless `deaf` has the target."""

    def __init__(self, leaders: dict[int, str], *, silent: int = 2, behind: int = 2) -> None:
        self.leaders = leaders
        self.restarted: list[str] = []
        self.state_after = State.RUNNING
        self.reason = "no luck"
        self.restart_s = 0.0
        self.failing = ""
        self.forced = False
        self.down: set[str] = set()
        self.deaf: set[str] = set()
        self.moves: list[tuple[int, str]] = []
        self.now_s = 0.0
        self._silent = silent
        self._behind = behind
        self._questions: dict[ProcessName, int] = {}

    def restart(self, name: ProcessName) -> ProcessReport:
        assert not self._recovering(), f"{name} went down while {self._recovering()} had not recovered"
        self.restarted.append(str(name))
        self.down.discard(str(name))
        assert self.forced or len(self.down) != 1, (
            f"{name} took the majority with it while {self.down} was down"
        )
        if name.shard is not None:
            self._questions[name] = 0
            if self.leaders[name.shard] == name.node:
                assert self.down, f"{name} went down while it led"
                self.leaders[name.shard] = next(node for node in NODES if node != name.node)
        self.now_s += self.restart_s
        state = State.FAILED if str(name) == self.failing else self.state_after
        return ProcessReport(name, state, pid=1, restarts=1, reason=self.reason)

    def transfer(self, leader: ProcessName, target: ProcessName) -> str:
        assert leader.shard is not None
        assert self.leaders[leader.shard] == leader.node
        self.moves.append((leader.shard, target.node))
        if str(target) not in self.deaf:
            self.leaders[leader.shard] = target.node
        return ""

    def ask(self, names: Sequence[ProcessName]) -> dict[ProcessName, frames.ReplicaStatus]:
        return {name: status for name in names if (status := self._status(name)) is not None}

    def pause(self, seconds: float) -> None:
        self.now_s += seconds

    def _status(self, name: ProcessName) -> frames.ReplicaStatus | None:
        assert name.shard is not None
        if str(name) in self.down:
            return None
        asked = self._questions.get(name)
        if asked is not None:
            self._questions[name] = asked + 1
            if asked < self._silent:
                return None
        caught_up = asked is None or asked >= self._silent + self._behind
        return frames.ReplicaStatus(
            shard=name.shard,
            node=NODES[name.node],
            leader=NODES[self.leaders[name.shard]],
            commit_index=100,
            applied_index=100 if caught_up else 60,
        )

    def _recovering(self) -> list[str]:
        return [str(name) for name, asked in self._questions.items() if asked <= self._silent + self._behind]


def _names(*texts: str) -> list[ProcessName]:
    found = []
    for text in texts:
        node, _, local = text.partition("/")
        found.append(
            ProcessName.coordinator(node)
            if local == "coordinator"
            else ProcessName.replica(node, int(local.removeprefix("shard-")))
        )
    return found


def _rolling(shards: Shards, timeout_s: float = 10.0, *, force: bool = False) -> RollingRestart:
    return RollingRestart(
        operator=shards,
        shards={shard: [ProcessName.replica(node, shard) for node in NODES] for shard in shards.leaders},
        catch_up_timeout_s=timeout_s,
        move_timeout_s=1.0,
        force=force,
        clock=lambda: shards.now_s,
        pause=shards.pause,
    )


def _walk(
    shards: Shards, names: list[ProcessName], timeout_s: float = 10.0, *, force: bool = False
) -> list[str]:
    done: list[str] = []
    _rolling(shards, timeout_s, force=force).run(names, lambda report: done.append(str(report.name)))
    return done


def test_each_replica_is_back_before_the_next_goes_and_the_leader_goes_last() -> None:
    shards = Shards({1: "n1"})
    done = _walk(shards, _names("n1/shard-1", "n2/shard-1", "n3/shard-1"))
    assert done == shards.restarted == ["n2/shard-1", "n3/shard-1", "n1/shard-1"]


def test_a_replica_that_is_down_comes_back_before_another_goes() -> None:
    shards = Shards({1: "n1"})
    shards.down.add("n3/shard-1")
    done = _walk(shards, _names("n1/shard-1", "n2/shard-1", "n3/shard-1"))
    assert done == ["n3/shard-1", "n2/shard-1", "n1/shard-1"]


def test_what_a_shard_cannot_do_without_stays_up() -> None:
    shards = Shards({1: "n1"})
    shards.down.add("n3/shard-1")
    with pytest.raises(QuorumNeeded) as caught:
        _walk(shards, _names("n1/shard-1", "n2/shard-1"))
    assert str(caught.value) == (
        "n2/shard-1 is not restarted: shard 1 would lose its quorum without it while n3/shard-1 is away or behind; "
        "left as they are: n1/shard-1"
    )
    assert shards.restarted == []


def test_a_shard_that_serves_nothing_loses_nothing_by_a_restart() -> None:
    shards = Shards({1: "n1"})
    shards.down = {"n2/shard-1", "n3/shard-1"}
    with pytest.raises(RestartStuck, match="n1/shard-1 runs but had not caught up"):
        _walk(shards, _names("n1/shard-1"))
    assert shards.restarted == ["n1/shard-1"]


def test_a_node_goes_shard_by_shard_and_its_coordinator_last() -> None:
    shards = Shards({1: "n1", 2: "n3"})
    done = _walk(shards, _names("n1/coordinator", "n1/shard-2", "n1/shard-1"))
    assert done == ["n1/shard-1", "n1/shard-2", "n1/coordinator"]


def test_a_process_that_does_not_run_ends_the_walk() -> None:
    shards = Shards({1: "n1"})
    shards.state_after = State.FAILED
    with pytest.raises(RestartStuck) as caught:
        _walk(shards, _names("n1/shard-1", "n2/shard-1", "n3/shard-1"))
    assert str(caught.value) == (
        "n2/shard-1 is failed (no luck): `boathouse logs n2/shard-1 FILE` shows what it does; "
        "left as they are: n3/shard-1, n1/shard-1"
    )
    assert shards.restarted == ["n2/shard-1"]


def test_a_process_that_takes_too_long_to_start_ends_the_walk() -> None:
    shards = Shards({1: "n1"})
    shards.state_after, shards.restart_s, shards.reason = State.STARTING, 30.2, ""
    with pytest.raises(RestartStuck) as caught:
        _walk(shards, _names("n2/shard-1"))
    assert str(caught.value) == (
        "n2/shard-1 is starting, and was not ready after 30 s: `boathouse logs n2/shard-1 FILE` shows what it does"
    )


@pytest.mark.parametrize("what", ["silent", "behind"])
def test_a_replica_that_does_not_recover_ends_the_walk(what: str) -> None:
    shards = Shards({1: "n1"}, silent=9**9 if what == "silent" else 0, behind=9**9)
    with pytest.raises(RestartStuck, match=r"n2/shard-1 runs .* within 3 s: `boathouse logs .*; left"):
        _walk(shards, _names("n1/shard-1", "n2/shard-1"), timeout_s=3.0)
    assert shards.restarted == ["n2/shard-1"]


def test_the_last_one_stuck_leaves_nothing_to_mention() -> None:
    shards = Shards({1: "n1"}, silent=9**9)
    with pytest.raises(RestartStuck) as caught:
        _walk(shards, _names("n1/shard-1"), timeout_s=1.0)
    assert str(caught.value).endswith("within 1 s: `boathouse logs n1/shard-1 FILE` shows what it does")


def test_a_leader_hands_over_to_the_node_that_leads_least() -> None:
    shards = Shards({1: "n1", 2: "n2", 3: "n2"})
    assert _walk(shards, _names("n1/shard-1")) == ["n1/shard-1"]
    assert shards.moves == [(1, "n3")]


def test_who_does_not_take_over_is_passed_over() -> None:
    shards = Shards({1: "n1"})
    shards.deaf.add("n2/shard-1")
    assert _walk(shards, _names("n1/shard-1")) == ["n1/shard-1"]
    assert shards.moves == [(1, "n2"), (1, "n3")]


def test_a_leader_whom_nobody_replaces_stays_up() -> None:
    shards = Shards({1: "n1"})
    shards.deaf = {"n2/shard-1", "n3/shard-1"}
    with pytest.raises(
        RestartStuck, match=r"n1/shard-1 is not restarted: n3/shard-1 did not take over shard 1"
    ):
        _walk(shards, _names("n1/shard-1"))
    assert shards.restarted == []


def test_force_takes_what_a_shard_cannot_do_without() -> None:
    shards = Shards({1: "n1"})
    shards.down.add("n3/shard-1")
    shards.forced = True
    assert _walk(shards, _names("n2/shard-1"), force=True) == ["n2/shard-1"]


def test_a_walk_that_ends_early_says_what_is_done() -> None:
    shards = Shards({1: "n1", 2: "n1"})
    shards.failing = "n3/shard-1"
    with pytest.raises(RestartStuck, match=r"no luck\): .*; done: n2/shard-1; left as they are: n1/shard-1$"):
        _walk(shards, _names("n1/shard-1", "n2/shard-1", "n3/shard-1"))


def test_the_plan_is_what_the_walk_does() -> None:
    shards = Shards({1: "n1", 2: "n1"})
    names = _names("n1/coordinator", *(f"{node}/shard-{shard}" for shard in (1, 2) for node in NODES))
    steps = _rolling(shards).plan(names)
    assert not shards.restarted
    assert not shards.moves
    assert [str(step) for step in steps] == [
        "n2/shard-1",
        "n3/shard-1",
        "n1/shard-1: its leadership goes to n2 first",
        "n2/shard-2",
        "n3/shard-2",
        "n1/shard-2: its leadership goes to n3 first",
        "n1/coordinator",
    ]
    assert _walk(shards, names) == [str(step.name) for step in steps]
    assert shards.moves == [(1, "n2"), (2, "n3")]


def test_the_plan_says_what_would_be_refused() -> None:
    shards = Shards({1: "n1"})
    shards.down.add("n3/shard-1")
    (step,) = _rolling(shards).plan(_names("n2/shard-1"))
    assert step.to_json()["quorum_lost_with"] == ["n3/shard-1"]
    refused = (
        "n2/shard-1: refused: shard 1 would lose its quorum without it while n3/shard-1 is away or behind"
    )
    assert str(step) == refused


def test_the_plan_counts_on_what_it_starts_before() -> None:
    shards = Shards({1: "n1"})
    shards.down.add("n3/shard-1")
    steps = _rolling(shards).plan(_names("n1/shard-1", "n2/shard-1", "n3/shard-1"))
    assert [(str(step.name), step.is_up, step.quorum_risk) for step in steps] == [
        ("n3/shard-1", False, None),
        ("n2/shard-1", True, None),
        ("n1/shard-1", True, None),
    ]


def test_one_of_two_voters_is_restarted_only_by_force() -> None:
    shards = Shards({1: "n1"})
    nodes = ("n1", "n2")
    rolling = replace(_rolling(shards), shards={1: [ProcessName.replica(node, 1) for node in nodes]})
    why = "shard 1 would lose its quorum without it: it is one of 2 voters"
    plan = rolling.plan(_names("n1/shard-1", "n2/shard-1"))
    assert [step.to_json()["loses_quorum"] for step in plan] == [True, True]
    assert str(plan[0]) == f"n2/shard-1: refused: {why}"
    with pytest.raises(QuorumNeeded, match=f"n2/shard-1 is not restarted: {why}"):
        rolling.run(_names("n1/shard-1", "n2/shard-1"), lambda report: None)
    assert shards.restarted == []
    shards.forced = True
    replace(rolling, force=True).run(_names("n1/shard-1", "n2/shard-1"), lambda report: None)
    assert shards.restarted == ["n2/shard-1", "n1/shard-1"]
