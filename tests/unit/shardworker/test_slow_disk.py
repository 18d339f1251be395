"""When a leader hands over because its syncs are slow, to whom, and when it keeps its office."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto.internal import frames_pb2 as frames
from shardworker.raft import MessageKind, NodeId, Role
from shardworker.replica.slow_disk import KEPT_IDLE_MS, PATIENCE_ELECTIONS, SYNCS_MIN, TENURE_ELECTIONS
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLOW_MS = 200


@pytest.fixture
def led(tmp_path: Path) -> Iterator[Bench]:
    """One of three voters, which leads and has filled a table."""
    bench = Bench(tmp_path, members(1, 2, 3), store={"slow_sync_ms": SLOW_MS})
    bench.lead()
    bench.fill()
    yield bench
    bench.store.close()


def sync(bench: Bench, milliseconds: float, count: int = 4 * SYNCS_MIN) -> None:
    bench.disk.sync_s = milliseconds / 1000
    for number in range(count):
        with bench.store.turn(sync=True):
            pass
        if number % 8 == 0:
            bench.replica.turn()
    bench.replica.turn()


def pass_elections(bench: Bench, count: int) -> None:
    """So many election timeouts in which the others answer."""
    for _ in range(count * bench.cluster.raft.election_ticks):
        bench.tick()
        for peer in (2, 3):
            if bench.core.role is Role.LEADER:
                bench.acknowledge(peer)


def answer(
    bench: Bench, milliseconds: dict[int, float], *, unfit: bool = False, term: int | None = None
) -> None:
    for node, each in milliseconds.items():
        report = frames.SyncReport(
            sender=node,
            term=bench.core.term if term is None else term,
            average_us=int(each * 1000),
            unfit=unfit,
        )
        bench.replica.handle(b"peer", frames.Envelope(sync=report))
    bench.replica.turn()


def asked(bench: Bench) -> list[NodeId]:
    found = [node for node, report in bench.sync_reports if report.asks]
    bench.sync_reports.clear()
    return found


def asked_to_lead(bench: Bench) -> list[NodeId]:
    return [node for node, sent in bench.sent if sent.kind is MessageKind.TIMEOUT_NOW]


def slow_in_office(bench: Bench) -> None:
    """Long enough in office, and slow for long enough."""
    pass_elections(bench, TENURE_ELECTIONS)
    sync(bench, 2 * SLOW_MS)
    pass_elections(bench, PATIENCE_ELECTIONS)


def next_round(bench: Bench) -> None:
    sync(bench, 2 * SLOW_MS, count=2)
    pass_elections(bench, 1)


def test_it_hands_over_to_the_fastest(led: Bench) -> None:
    slow_in_office(led)
    assert led.replica.status().statistics["sync_slow"] == 1
    assert set(asked(led)) == {2, 3}
    answer(led, {2: 20, 3: 5})
    next_round(led)
    assert asked_to_lead(led) == [3]
    assert led.replica.status().statistics["sync_hand_overs"] == 1


@pytest.mark.parametrize(
    "what", ["as slow", "unfit by its own word", "of another term", "not much faster", "no member"]
)
def test_who_is_not_asked_to_lead(led: Bench, what: str) -> None:
    slow_in_office(led)
    match what:
        case "as slow":
            answer(led, {2: 2 * SLOW_MS, 3: 3 * SLOW_MS})
        case "unfit by its own word":
            answer(led, {2: 5, 3: 5}, unfit=True)
        case "of another term":
            answer(led, {2: 5, 3: 5}, term=led.core.term - 1)
        case "not much faster":
            answer(led, {2: 1.1 * SLOW_MS})
        case _:
            answer(led, {9: 5})
    next_round(led)
    assert asked_to_lead(led) == []


def test_a_new_leader_keeps_its_office(led: Bench) -> None:
    sync(led, 2 * SLOW_MS)
    pass_elections(led, TENURE_ELECTIONS - 1)
    assert asked(led) == []
    pass_elections(led, 2)
    assert asked(led) != []


def test_a_few_slow_syncs_are_not_slowness(led: Bench) -> None:
    pass_elections(led, TENURE_ELECTIONS)
    sync(led, 1)
    sync(led, 2 * SLOW_MS, count=4)
    pass_elections(led, 2 * PATIENCE_ELECTIONS)
    assert asked(led) == []


def test_it_is_fast_again_only_well_below_the_limit(led: Bench) -> None:
    def slow() -> int:
        return led.replica.status().statistics["sync_slow"]

    sync(led, 2 * SLOW_MS)
    assert slow()
    sync(led, 0.8 * SLOW_MS, count=200)
    assert slow()
    sync(led, 0.2 * SLOW_MS, count=200)
    assert not slow()


def test_a_leader_that_writes_nothing_stays(led: Bench) -> None:
    slow_in_office(led)
    answer(led, {2: 5, 3: 5})
    pass_elections(led, 3)
    assert asked_to_lead(led) == []


def test_how_syncs_were_is_forgotten_where_nothing_is_written(led: Bench) -> None:
    def p99_us() -> int:
        return led.replica.status().statistics["sync_p99_us"]

    ticks = KEPT_IDLE_MS // led.cluster.raft.tick_ms
    for _ in range(2):
        sync(led, 2 * SLOW_MS)
        for _ in range(ticks - 1):
            led.replica.tick()
        assert p99_us() > 1_900 * SLOW_MS
        led.replica.tick()
        assert p99_us() == led.replica.status().statistics["syncs_of_late"] == 0
        sync(led, 1)
        assert p99_us() < 1_100


def test_a_replica_says_how_it_is(tmp_path: Path) -> None:
    follower = Bench(tmp_path, members(1, 2, 3), store={"slow_sync_ms": SLOW_MS})
    sync(follower, 3 * SLOW_MS)
    question = frames.SyncReport(sender=2, term=follower.core.term, asks=True)
    follower.replica.handle(b"peer", frames.Envelope(sync=question))
    ((node, report),) = follower.sync_reports
    assert (node, report.unfit, report.average_us > 2_900 * SLOW_MS) == (2, True, True)
    statistics = follower.replica.status().statistics
    assert (statistics["sync_p99_us"] + 500) // 1000 == 3 * SLOW_MS
    assert statistics["syncs_of_late"] == statistics["syncs"] > 0
    follower.store.close()
