"""What a router tells replicas of what others have answered."""

from __future__ import annotations

from proto.internal import frames_pb2 as frames
from tests.unit.coordinator.router_bench import Bench


def answer_at(bench: Bench, node: int, index: int, *, generation: int = 0) -> None:
    """Node answers its last call, and has applied so much, all of it of term 1."""
    reply = frames.Reply(call=bench.numbers(node)[-1])
    committed = frames.CommitPoint(index=index, term=1, generation=generation)
    bench.hear(node, frames.Envelope(replies=[reply], committed=committed))


def test_whoever_is_asked_is_told_once_what_another_has_answered() -> None:
    bench = Bench(leader=2)
    bench.write()
    answer_at(bench, 2, 7)
    bench.write()
    assert bench.told == [], "it said so itself"
    answer_at(bench, 2, 8)
    bench.read()
    bench.read()
    bench.poll()
    assert bench.told == [(1, (0, 8, 1))]
    answer_at(bench, 1, 5)
    bench.read()
    bench.poll()
    assert len(bench.told) == 1, "one that lags was told"
    answer_at(bench, 2, 3, generation=1)
    bench.read()
    bench.poll()
    assert bench.told[1:] == [(1, (1, 3, 1))], "a shard that was recovered begins anew"


def test_who_may_not_have_heard_it_is_told_again() -> None:
    bench = Bench(leader=2)
    bench.write()
    answer_at(bench, 2, 7)
    bench.read()
    bench.poll()
    bench.disconnect(1)
    bench.router.handle_connected(bench.replicas[1])
    bench.read()
    bench.poll()
    assert bench.told == [(1, (0, 7, 1))] * 2
