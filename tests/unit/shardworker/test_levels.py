"""Who is asked for its machine level, what counts as an answer, and that nobody else can raise it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, LEVEL, Access, Command
from shardworker.machine import REGISTRY, Registry
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import TABLE, Bench

if TYPE_CHECKING:
    from pathlib import Path

NEWER = Registry(LEVEL + 1, REGISTRY.handlers)


def bench(folder: Path, registry: Registry = NEWER) -> Bench:
    """One of three voters, which leads."""
    made = Bench(folder, members(1, 2, 3), registry=registry)
    made.lead()
    return made


def report(bench: Bench, node: int, level: int, term: int | None = None) -> None:
    told = frames.LevelReport(sender=node, term=bench.core.term if term is None else term, level=level)
    bench.replica.handle(b"peer", frames.Envelope(level=told))
    bench.work()
    for peer in (2, 3):
        bench.acknowledge(peer)
    bench.work()


def level(bench: Bench) -> int:
    return bench.replica.status().statistics["machine_level"]


def test_a_level_rises_when_the_last_voter_has_answered(tmp_path: Path) -> None:
    led = bench(tmp_path)
    led.tick()
    assert led.level_questions == [2, 3]
    report(led, 2, LEVEL + 1)
    assert level(led) == LEVEL
    report(led, 3, LEVEL + 5)
    assert level(led) == LEVEL + 1
    led.level_questions.clear()
    for _ in range(3 * led.cluster.raft.election_ticks):
        led.tick()
    assert led.level_questions == [], "there is nothing to raise any more"
    led.store.close()


@pytest.mark.parametrize("what", ["too low", "of another term", "of an earlier round"])
def test_an_answer_that_does_not_count(tmp_path: Path, what: str) -> None:
    led = bench(tmp_path)
    led.tick()
    report(led, 2, LEVEL + 1)
    match what:
        case "too low":
            report(led, 3, LEVEL)
        case "of another term":
            report(led, 3, LEVEL + 1, led.core.term - 1)
        case _:
            for _ in range(led.cluster.raft.election_ticks):
                led.tick()
            report(led, 3, LEVEL + 1)
    assert level(led) == LEVEL
    led.store.close()


def test_a_replica_of_the_shards_own_level_asks_nobody(tmp_path: Path) -> None:
    led = bench(tmp_path, REGISTRY)
    for _ in range(3 * led.cluster.raft.election_ticks):
        led.tick()
    assert led.level_questions == []
    led.store.close()


def test_nobody_from_outside_raises_a_level(tmp_path: Path) -> None:
    led = bench(tmp_path)
    body = frames.MachineLevel(level=LEVEL + 1).SerializeToString()
    call = led.ask(frames.RAISE_LEVEL, body, request_id=bytes(16))
    with pytest.raises(errors.MethodNotServed, match="leader's own"):
        led.answer(call)
    led.store.close()


def test_a_command_of_the_next_level_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = frames.Method.ValueType(999)
    monkeypatch.setitem(COMMANDS, new, Command(access=Access.WRITE, since_level=LEVEL + 1))
    handlers = {**REGISTRY.handlers, new: REGISTRY.handlers[frames.ETCD_PUT]}
    led = bench(tmp_path, Registry(LEVEL + 1, handlers))
    led.write(frames.TABLE_CREATE, frames.TableSpec(id=TABLE, name="t", history=-1).SerializeToString())
    body = etcd.PutRequest(key=b"a").SerializeToString()
    refused = led.ask(new, body, request_id=bytes(16))
    with pytest.raises(errors.UpgradeInProgress, match=f"machine level {LEVEL}, this needs {LEVEL + 1}"):
        led.answer(refused)
    led.tick()
    report(led, 2, LEVEL + 1)
    report(led, 3, LEVEL + 1)
    led.write(new, body)
    led.store.close()
