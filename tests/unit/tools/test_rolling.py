"""A rolling restart against a shard made of plain values: never more than one replica down or behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from config.process.names import ProcessName
from config.process.report import ProcessReport, State
from proto.internal import frames_pb2 as frames
from tools.admin.rolling import RestartStuck, restart_one_by_one

if TYPE_CHECKING:
    from collections.abc import Sequence

NODES = {"n1": 1, "n2": 2, "n3": 3}


class Shards:
    """Replicas on three nodes. A restarted one answers after `silent` questions and catches up after `behind`
    more; the leader hands over when it goes."""

    def __init__(self, leaders: dict[int, str], *, silent: int = 2, behind: int = 2) -> None:
        self.leaders = leaders
        self.restarted: list[str] = []
        self.state_after = State.RUNNING
        self.down: set[str] = set()
        self.now_s = 0.0
        self._silent = silent
        self._behind = behind
        self._questions: dict[ProcessName, int] = {}

    def restart(self, name: ProcessName) -> ProcessReport:
        assert not self._recovering(), f"{name} went down while {self._recovering()} had not recovered"
        self.restarted.append(str(name))
        self.down.discard(str(name))
        assert len(self.down) != 1, f"{name} took the majority with it while {self.down} was down"
        if name.shard is not None:
            self._questions[name] = 0
            if self.leaders[name.shard] == name.node:
                self.leaders[name.shard] = next(node for node in NODES if node != name.node)
        return ProcessReport(name, self.state_after, pid=1, restarts=1, reason="no luck")

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


def _walk(shards: Shards, names: list[ProcessName], timeout_s: float = 10.0) -> list[str]:
    done: list[str] = []
    restart_one_by_one(
        shards,
        names,
        lambda shard: [ProcessName.replica(node, shard) for node in NODES],
        timeout_s=timeout_s,
        on_done=lambda report: done.append(str(report.name)),
        clock=lambda: shards.now_s,
        pause=shards.pause,
    )
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
    with pytest.raises(RestartStuck) as caught:
        _walk(shards, _names("n1/shard-1", "n2/shard-1"))
    assert str(caught.value) == (
        "n2/shard-1 is not restarted: its shard could not serve without it while n3/shard-1 is away; "
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
    assert str(caught.value) == "n2/shard-1 is failed (no luck); left as they are: n3/shard-1, n1/shard-1"
    assert shards.restarted == ["n2/shard-1"]


@pytest.mark.parametrize("what", ["silent", "behind"])
def test_a_replica_that_does_not_recover_ends_the_walk(what: str) -> None:
    shards = Shards({1: "n1"}, silent=9**9 if what == "silent" else 0, behind=9**9)
    with pytest.raises(RestartStuck, match=r"n2/shard-1 runs but had not caught up .* within 3 s; left"):
        _walk(shards, _names("n1/shard-1", "n2/shard-1"), timeout_s=3.0)
    assert shards.restarted == ["n2/shard-1"]


def test_the_last_one_stuck_leaves_nothing_to_mention() -> None:
    shards = Shards({1: "n1"}, silent=9**9)
    with pytest.raises(RestartStuck) as caught:
        _walk(shards, _names("n1/shard-1"), timeout_s=1.0)
    assert str(caught.value).endswith("within 1 s")
