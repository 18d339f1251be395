"""What is left of leases outlives their leader, and no renewal is forgotten for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from unittest.mock import patch

import pytest

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.raft import MessageKind, NodeId, Reason, Rejected
from shardworker.replica import lease_checkpoints
from tests.unit.raft.lab import message
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import TABLE, Bench
from tests.unit.shardworker.test_leases import (
    ELECTION_TICKS,
    LEASE,
    acknowledge_all,
    acknowledge_round,
    bench_with_lease,
    checkpoints_after,
    grant,
    keep_alive,
    keys,
    tick,
    time_left,
    ttl_told,
)

if TYPE_CHECKING:
    from pathlib import Path

LONG_S: Final = 60
LONG_TICKS: Final = 600
STEP_TICKS: Final = 300


def bench_with_long_lease(folder: Path, *voters: int, ttl_s: int = LONG_S) -> Bench:
    """A leader with one lease."""
    bench = bench_with_lease(folder, *voters, count=0)
    grant(bench, LEASE, ttl_s)
    return bench


def pass_time(bench: Bench, ticks: int) -> None:
    """The peers answer."""
    for _ in range(ticks):
        tick(bench, 1)
        if len(bench.core.membership.voters) > 1:
            acknowledge_all(bench)


def depose(bench: Bench) -> None:
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1))


def left_ms(bench: Bench) -> int:
    """As it is written down."""
    lease = bench.replica._machine.leases.get(TABLE, LEASE)
    assert lease is not None
    return lease.left_ms


def test_a_new_leader_goes_on_from_what_is_written_down(tmp_path: Path) -> None:
    bench = bench_with_long_lease(tmp_path, 1, 2, 3)
    pass_time(bench, STEP_TICKS + 50)
    left = time_left(bench)
    depose(bench)
    bench.lead()
    assert left < time_left(bench) <= LONG_TICKS - STEP_TICKS + ELECTION_TICKS + 3
    pass_time(bench, LONG_TICKS - STEP_TICKS + ELECTION_TICKS + 4)
    assert keys(bench) == 0
    bench.store.close()


def test_what_is_left_outlives_a_restart(tmp_path: Path) -> None:
    bench = bench_with_long_lease(tmp_path, 1)
    pass_time(bench, STEP_TICKS + 50)
    bench.store.close()
    bench = Bench(tmp_path, members(1))
    bench.core.campaign()
    bench.replica.turn()
    bench.work()
    assert LONG_TICKS - STEP_TICKS <= time_left(bench) <= LONG_TICKS - STEP_TICKS + ELECTION_TICKS + 3
    bench.store.close()


def test_at_the_orderly_end_of_a_process_all_of_it_does(tmp_path: Path) -> None:
    bench = bench_with_long_lease(tmp_path, 1)
    pass_time(bench, 100)
    bench.replica.drain()
    assert not bench.replica.drained(), "it is not written down yet"
    bench.work()
    assert bench.replica.drained()
    assert left_ms(bench) == (LONG_TICKS - 100 + 1) * 100
    bench.store.close()


def test_before_leadership_is_handed_over_it_is_written_down(tmp_path: Path) -> None:
    bench = bench_with_long_lease(tmp_path, 1, 2, 3)
    grant(bench, LEASE + 1, LONG_S)
    pass_time(bench, 100)
    grant(bench, LEASE + 2, LONG_S)
    acknowledge_all(bench)
    index = bench.core.log.last_index
    body = frames.TransferLeader(target=2).SerializeToString()
    bench.ask(frames.TRANSFER_LEADER, body, work=False)
    assert {lease.id for lease in checkpoints_after(bench, index)} == {LEASE, LEASE + 1}, (
        "one has lost nothing"
    )
    assert not any(one.kind is MessageKind.TIMEOUT_NOW for _, one in bench.sent), "it is to have that first"
    bench.acknowledge(2)
    assert (NodeId(2), MessageKind.TIMEOUT_NOW) in [(node, one.kind) for node, one in bench.sent]
    bench.store.close()


def test_nothing_is_written_down_for_a_transfer_to_who_leads(tmp_path: Path) -> None:
    bench = bench_with_long_lease(tmp_path, 1, 2, 3)
    pass_time(bench, 100)
    index = bench.core.log.last_index
    call = bench.ask(frames.TRANSFER_LEADER, frames.TransferLeader(target=1).SerializeToString())
    assert bench.answer(call) is not None
    assert bench.core.log.last_index == index
    bench.store.close()


def test_after_a_transfer_that_did_not_happen_a_renewal_is_written_down_once(tmp_path: Path) -> None:
    bench = bench_with_long_lease(tmp_path, 1)
    pass_time(bench, 100)
    body = frames.TransferLeader().SerializeToString()
    with patch.object(bench.core, "propose", return_value=Rejected(Reason.UNCOMMITTED_FULL)):
        bench.ask(frames.TRANSFER_LEADER, body)
    index = bench.core.log.last_index
    assert ttl_told(bench, keep_alive(bench)) == LONG_S
    assert bench.core.log.last_index == index, "what was refused is not under way"
    pass_time(bench, 100)
    bench.ask(frames.TRANSFER_LEADER, body)
    assert left_ms(bench) < LONG_S * 1000
    for _ in range(3):
        assert ttl_told(bench, keep_alive(bench)) == LONG_S
    assert [lease.left_ms for lease in checkpoints_after(bench, index)][1:] == [LONG_S * 1000]
    bench.store.close()


def test_a_lease_is_written_down_once_a_step(tmp_path: Path) -> None:
    bench = bench_with_long_lease(tmp_path, 1, ttl_s=1_000)
    index = bench.core.log.last_index
    pass_time(bench, 9_990)
    assert [lease.left_ms for lease in checkpoints_after(bench, index)] == [700_100, 400_200, 100_300]
    bench.store.close()


def test_who_renews_in_time_costs_no_entry(tmp_path: Path) -> None:
    bench = bench_with_long_lease(tmp_path, 1)
    index = bench.core.log.last_index
    for _ in range(9):
        pass_time(bench, STEP_TICKS - 20)
        assert ttl_told(bench, keep_alive(bench)) == LONG_S
    assert bench.core.log.last_index == index
    bench.store.close()


def test_a_renewal_of_what_is_written_down_is_answered_once_it_is_too(tmp_path: Path) -> None:
    bench = bench_with_long_lease(tmp_path, 1, 2, 3)
    pass_time(bench, STEP_TICKS + 50)
    call = keep_alive(bench)
    acknowledge_round(bench, 2, 3)
    assert time_left(bench) == LONG_TICKS + 1
    second = keep_alive(bench)
    acknowledge_round(bench, 2, 3)
    assert not {call, second} & bench.replies.keys(), "a leader that does not know of it may follow"
    assert left_ms(bench) < LONG_S * 1000
    acknowledge_all(bench)
    assert ttl_told(bench, call) == ttl_told(bench, second) == LONG_S
    depose(bench)
    bench.lead()
    assert time_left(bench) >= LONG_TICKS
    index = bench.core.log.last_index
    call = keep_alive(bench)
    acknowledge_round(bench, 2, 3)
    assert ttl_told(bench, call) == LONG_S
    assert bench.core.log.last_index == index, "the next costs nothing again"
    bench.store.close()


def test_so_is_one_of_what_is_about_to_be_written_down(tmp_path: Path) -> None:
    bench = bench_with_long_lease(tmp_path, 1, 2, 3)
    index = bench.core.log.last_index
    while not checkpoints_after(bench, index):
        acknowledge_all(bench)
        tick(bench, 1)
    assert left_ms(bench) == LONG_S * 1000
    call = keep_alive(bench)
    acknowledge_round(bench, 2, 3)
    assert call not in bench.replies
    acknowledge_all(bench)
    assert ttl_told(bench, call) == LONG_S
    assert left_ms(bench) == LONG_S * 1000
    bench.store.close()


def test_a_renewal_that_could_not_be_written_down_is_tried_again(tmp_path: Path) -> None:
    bench = bench_with_long_lease(tmp_path, 1)
    pass_time(bench, STEP_TICKS + 50)
    with patch.object(bench.core, "propose", return_value=Rejected(Reason.UNCOMMITTED_FULL)):
        call = keep_alive(bench)
        tick(bench, ELECTION_TICKS - 1)
    assert call not in bench.replies
    tick(bench, 1)
    assert ttl_told(bench, call) == LONG_S
    bench.store.close()


def test_a_burst_of_renewals_is_written_down_some_at_a_time(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1, 2, 3, count=0)
    for lease_id in range(LEASE, LEASE + 25):
        grant(bench, lease_id, LONG_S)
        acknowledge_all(bench)
    pass_time(bench, STEP_TICKS + ELECTION_TICKS)
    index = bench.core.log.last_index
    with patch.object(lease_checkpoints, "WRITTEN_MAX", 10):
        calls = [keep_alive(bench, lease_id) for lease_id in range(LEASE, LEASE + 25)]
        for _ in range(3):
            acknowledge_round(bench, 2, 3)
        assert len(checkpoints_after(bench, index)) == 10
        for _ in range(5):
            acknowledge_all(bench)
    assert {ttl_told(bench, call) for call in calls} == {LONG_S}
    assert len(checkpoints_after(bench, index)) == 25
    bench.store.close()


def test_who_waits_for_it_when_leadership_is_lost_asks_elsewhere(tmp_path: Path) -> None:
    bench = bench_with_long_lease(tmp_path, 1, 2, 3)
    pass_time(bench, STEP_TICKS + 50)
    call = keep_alive(bench)
    acknowledge_round(bench, 2, 3)
    depose(bench)
    with pytest.raises(errors.NotLeader):
        bench.answer(call)
    bench.store.close()


def test_a_leader_counts_from_when_it_knows_what_earlier_ones_have_written(tmp_path: Path) -> None:
    bench = bench_with_long_lease(tmp_path, 1, 2, 3)
    pass_time(bench, STEP_TICKS + 50)
    keep_alive(bench)
    acknowledge_round(bench, 2, 3)  # the renewal is in the log, and not applied
    term = bench.core.term
    bench.hear(message(MessageKind.HEARTBEAT, 2, term + 1))
    bench.core.campaign()
    bench.replica.turn()
    for peer in (2, 3):
        bench.hear(message(MessageKind.PRE_VOTE_REPLY, peer, bench.core.term + 1))
    for peer in (2, 3):
        bench.hear(message(MessageKind.VOTE_REPLY, peer, bench.core.term))
    index = bench.core.log.last_index
    for _ in range(LONG_TICKS - STEP_TICKS + ELECTION_TICKS + 5):
        tick(bench, 1)
        for peer in (2, 3):
            bench.hear(message(MessageKind.HEARTBEAT_REPLY, peer, bench.core.term))
    assert bench.core.log.last_index == index, "it ends nothing"
    acknowledge_all(bench)
    assert time_left(bench) >= LONG_TICKS
    bench.store.close()


def test_many_are_written_down_some_at_a_time(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1, count=0)
    for lease_id in range(LEASE, LEASE + 25):
        grant(bench, lease_id, LONG_S)
    index = bench.core.log.last_index
    with patch.object(lease_checkpoints, "WRITTEN_MAX", 10):
        for count in (10, 20, 25):
            pass_time(bench, STEP_TICKS if count == 10 else ELECTION_TICKS)
            assert len(checkpoints_after(bench, index)) == count
    assert bench.replica.status().statistics["lease_checkpoints"] == 25
    bench.store.close()
