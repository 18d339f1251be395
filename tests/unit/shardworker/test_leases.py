"""Leases in time: who counts, who may renew, and when one ends."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import pytest

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.raft import LogIndex, MessageKind, Reason, Rejected
from shardworker.replica import lease_questions, leases
from shardworker.replica.outgoing import Outgoing
from tests.unit.raft.lab import message
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import CLIENT, TABLE, Bench

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    from _typeshed import TraceFunction

TTL_S: Final = 2
TTL_TICKS: Final = 20
ELECTION_TICKS: Final = 10
LEASE: Final = 7


def bench_with_lease(folder: Path, *voters: int, count: int = 1, **settings: Any) -> Bench:
    """A leader with a table and leases, each of which has a key."""
    bench = Bench(folder, members(*voters), **settings)
    if len(voters) == 1:
        bench.core.campaign()
        bench.replica.turn()
    else:
        bench.lead()
    bench.write(frames.TABLE_CREATE, frames.TableSpec(id=TABLE, name="t", history=-1).SerializeToString())
    for lease_id in range(LEASE, LEASE + count):
        grant(bench, lease_id)
    return bench


def grant(bench: Bench, lease_id: int, ttl_s: int = TTL_S) -> None:
    bench.write(frames.LEASE_GRANT, etcd.LeaseGrantRequest(ID=lease_id, TTL=ttl_s).SerializeToString())
    put = etcd.PutRequest(key=b"%d" % lease_id, lease=lease_id)
    bench.write(frames.ETCD_PUT, put.SerializeToString())


def keep_alive(bench: Bench, lease_id: int = LEASE, *, work: bool = True) -> int:
    body = etcd.LeaseKeepAliveRequest(ID=lease_id).SerializeToString()
    return bench.ask(frames.LEASE_KEEP_ALIVE, body, work=work, linearizable=True)


def ttl_told(bench: Bench, call: int) -> int:
    response = etcd.LeaseKeepAliveResponse.FromString(bench.answer(call).body)
    return response.TTL


def time_to_live(bench: Bench, lease_id: int = LEASE) -> etcd.LeaseTimeToLiveResponse:
    body = etcd.LeaseTimeToLiveRequest(ID=lease_id, keys=True).SerializeToString()
    call = bench.ask(frames.LEASE_TIME_TO_LIVE, body, linearizable=True)
    return etcd.LeaseTimeToLiveResponse.FromString(bench.answer(call).body)


def tick(bench: Bench, ticks: int) -> None:
    for _ in range(ticks):
        bench.tick()
        bench.work()


def keys(bench: Bench) -> int:
    """How many there are, as this replica has applied."""
    return next(table.keys for table in bench.replica.status().tables if table.id == TABLE)


def acknowledge_round(bench: Bench, *peers: int) -> None:
    """The peers answer the newest heartbeat."""
    rounds = [one.context for _, one in bench.sent if one.kind is MessageKind.HEARTBEAT]
    for peer in peers:
        bench.hear(message(MessageKind.HEARTBEAT_REPLY, peer, bench.core.term, context=rounds[-1]))
    bench.work()


def test_a_lease_ends_after_its_time_and_not_before(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1)
    tick(bench, TTL_TICKS)
    assert keys(bench) == 1, "the tick in which it was granted may have been over"
    tick(bench, 1)
    assert keys(bench) == 0
    assert ttl_told(bench, keep_alive(bench)) == 0
    assert time_to_live(bench).TTL == -1
    bench.store.close()


def test_a_lease_that_is_kept_alive_goes_on(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1)
    revision = bench.replica.status().tables[-1].revision
    index = bench.core.log.last_index
    for _ in range(10):
        tick(bench, TTL_TICKS // 3)
        call = keep_alive(bench)
        assert ttl_told(bench, call) == TTL_S
        assert bench.answer(call).revision == revision
    assert bench.core.log.last_index == index, "nothing of that goes through the log"
    tick(bench, TTL_TICKS)
    assert keys(bench) == 1
    tick(bench, 1)
    assert keys(bench) == 0
    bench.store.close()


def test_a_loop_that_sleeps_is_awake_when_a_lease_ends(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1)
    passed = 0
    while keys(bench):
        ticks = bench.replica.ticks_until_action()
        passed += ticks
        for _ in range(ticks):
            bench.replica.tick()
        bench.replica.turn()
        bench.work()
        assert passed <= TTL_TICKS + 1
    bench.store.close()


def test_what_is_left_is_told_with_the_keys(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1)
    grant(bench, 8, ttl_s=50)
    tick(bench, 4)
    assert time_to_live(bench) == etcd.LeaseTimeToLiveResponse(ID=LEASE, TTL=1, grantedTTL=TTL_S, keys=[b"7"])
    assert time_to_live(bench, 8).TTL == 49
    assert time_to_live(bench, 404) == etcd.LeaseTimeToLiveResponse(ID=404, TTL=-1)
    bench.store.close()


@pytest.mark.parametrize("light", [0, 1_000])
def test_leases_are_listed_in_the_order_in_which_they_end(tmp_path: Path, light: int) -> None:
    bench = bench_with_lease(tmp_path, 1)
    for lease_id, ttl_s in ((-8, 50), (9, 3), (10, 20)):
        grant(bench, lease_id, ttl_s)
    with patch.object(lease_questions, "LISTED_LIGHT", light):
        call = bench.ask(frames.LEASE_LEASES, linearizable=True)
    listed = etcd.LeaseLeasesResponse.FromString(bench.answer(call).body)
    assert [lease.ID for lease in listed.leases] == [LEASE, 9, 10, -8]
    bench.store.close()


@pytest.mark.parametrize("method", [frames.LEASE_KEEP_ALIVE, frames.LEASE_TIME_TO_LIVE, frames.LEASE_LEASES])
def test_only_a_leader_answers(led: Bench, method: frames.Method.ValueType) -> None:
    with pytest.raises(errors.NotLeader):
        led.answer(led.ask(method, linearizable=True))
    with pytest.raises(errors.NotLeader):
        led.answer(led.ask(method, linearizable=False))


@pytest.mark.parametrize("method", [frames.LEASE_KEEP_ALIVE, frames.LEASE_TIME_TO_LIVE, frames.LEASE_LEASES])
def test_what_a_turn_grants_is_known_to_its_reads(alone: Bench, method: frames.Method.ValueType) -> None:
    envelope = frames.Envelope()
    grant_it = etcd.LeaseGrantRequest(ID=LEASE, TTL=TTL_S).SerializeToString()
    envelope.requests.add(
        call=1_001, method=frames.LEASE_GRANT, table_id=TABLE, body=grant_it, request_id=bytes(16)
    )
    ask = etcd.LeaseTimeToLiveRequest(ID=LEASE).SerializeToString()
    envelope.requests.add(call=1_002, method=method, table_id=TABLE, body=ask, linearizable=True)
    alone.replica.handle(CLIENT, envelope)
    alone.work()
    alone.answer(1_001)
    alone.answer(1_002)


def test_nonsense_is_refused(alone: Bench) -> None:
    with pytest.raises(errors.MalformedRequest):
        alone.answer(alone.ask(frames.LEASE_KEEP_ALIVE, b"\xff", linearizable=True))
    with pytest.raises(errors.MethodNotServed):
        alone.answer(alone.ask(frames.LEASE_EXPIRE, request_id=bytes(16)))


@pytest.mark.parametrize("linearizable", [True, False])
def test_a_leader_renews_nothing_before_it_has_proved_that_it_leads(
    tmp_path: Path, linearizable: bool
) -> None:
    bench = bench_with_lease(tmp_path, 1, 2, 3)
    tick(bench, 5)
    left = time_left(bench)
    body = etcd.LeaseKeepAliveRequest(ID=LEASE).SerializeToString()
    call = bench.ask(frames.LEASE_KEEP_ALIVE, body, linearizable=linearizable)
    assert call not in bench.replies
    assert time_left(bench) == left
    acknowledge_round(bench, 2)
    assert ttl_told(bench, call) == TTL_S
    assert time_left(bench) == left + 5
    bench.store.close()


def time_left(bench: Bench) -> int:
    clock = bench.replica._leases._deadlines
    return clock.deadline((TABLE, LEASE)) - clock.now


def test_a_renewal_that_was_proved_in_an_earlier_term_is_not_made(tmp_path: Path) -> None:
    """Between the proof and the answer, which may have to wait for room, leadership can go and come back."""
    bench = bench_with_lease(tmp_path, 1, 2, 3)
    with patch.object(Outgoing, "has_room", return_value=False):
        call = keep_alive(bench, work=False)
        rounds = [one.context for _, one in bench.sent if one.kind is MessageKind.HEARTBEAT]
        bench.hear(message(MessageKind.HEARTBEAT_REPLY, 2, bench.core.term, context=rounds[-1]))
        bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1))
        bench.lead()
    bench.work()
    with pytest.raises(errors.NotLeader):
        bench.answer(call)
    bench.store.close()


def test_a_keep_alive_of_a_lease_whose_end_is_proposed_waits_for_it(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1, 2, 3)
    until_proposed(bench)
    call = keep_alive(bench)
    acknowledge_round(bench, 2)
    assert call not in bench.replies
    assert not bench.replica.drained()
    bench.acknowledge(2)
    bench.work()
    assert ttl_told(bench, call) == 0
    assert keys(bench) == 0
    bench.store.close()


def until_proposed(bench: Bench) -> None:
    """The end of the lease is in the log, and in nobody else's yet. The peers answer heartbeats meanwhile."""
    while True:
        index = bench.core.log.last_index
        bench.tick()
        bench.work()
        if any(command.method == frames.LEASE_EXPIRE for command in commands_after(bench, index)):
            return
        acknowledge_all(bench)


def commands_after(bench: Bench, index: int) -> list[frames.Command]:
    """Those of the entries behind this index."""
    last = LogIndex(bench.core.log.last_index + 1)
    if last == index + 1:
        return []
    return [
        command
        for entry in bench.store.log.entries(LogIndex(index + 1), last, 1 << 20)
        for command in frames.CommandBatch.FromString(entry.data).commands
    ]


def checkpoints_after(bench: Bench, index: int) -> list[frames.LeaseCheckpoint]:
    """What was written down of leases."""
    return [
        lease
        for command in commands_after(bench, index)
        if command.method == frames.LEASE_CHECKPOINT
        for lease in frames.LeaseCheckpoints.FromString(command.body).leases
    ]


def test_who_waits_for_an_end_that_is_lost_asks_elsewhere(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1, 2, 3)
    until_proposed(bench)
    call = keep_alive(bench)
    acknowledge_round(bench, 2)
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1))
    with pytest.raises(errors.NotLeader):
        bench.answer(call)
    assert bench.replica.drained()
    bench.store.close()


def test_keep_alives_that_wait_are_bounded(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1, 2, 3)
    until_proposed(bench)
    with patch.object(leases, "WAITING_MAX", 1):
        first = keep_alive(bench)
        acknowledge_round(bench, 2)
        second = keep_alive(bench)
        acknowledge_round(bench, 2)
        with pytest.raises(errors.QueueFull, match="1 renewals wait"):
            bench.answer(second)
    bench.acknowledge(2)
    bench.work()
    assert ttl_told(bench, first) == 0
    bench.store.close()


def test_an_end_that_came_to_nothing_is_proposed_again(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1)
    with patch.object(bench.core, "propose", return_value=Rejected(Reason.UNCOMMITTED_FULL)):
        tick(bench, TTL_TICKS + 1)
    assert keys(bench) == 1
    tick(bench, ELECTION_TICKS - 1)
    assert keys(bench) == 1
    tick(bench, 1)
    assert keys(bench) == 0
    bench.store.close()


def test_a_new_leader_gives_every_lease_its_time_and_an_election_more(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1, 2, 3)
    tick(bench, TTL_TICKS // 3)
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1))
    for _ in range(5):
        tick(bench, ELECTION_TICKS)
        bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term))
    assert keys(bench) == 1, "no follower ends a lease"
    bench.lead()
    assert time_left(bench) >= TTL_TICKS + ELECTION_TICKS
    for _ in range(TTL_TICKS + ELECTION_TICKS - 1):
        tick(bench, 1)
        acknowledge_all(bench)
    assert keys(bench) == 1
    for _ in range(3):
        tick(bench, 1)
        acknowledge_all(bench)
    assert keys(bench) == 0
    bench.store.close()


def acknowledge_all(bench: Bench) -> None:
    for peer in (2, 3):
        bench.hear(message(MessageKind.HEARTBEAT_REPLY, peer, bench.core.term))
        bench.acknowledge(peer)
    bench.work()


def test_a_lease_survives_a_restart_with_all_its_time(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1)
    tick(bench, TTL_TICKS - 2)
    bench.store.close()
    bench = Bench(tmp_path, members(1))
    bench.core.campaign()
    bench.replica.turn()
    bench.work()
    tick(bench, TTL_TICKS)
    assert keys(bench) == 1
    tick(bench, ELECTION_TICKS + 1)
    assert keys(bench) == 0
    bench.store.close()


def test_leases_that_end_together_end_in_bounded_batches(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1, count=25)
    before = bench.core.log.last_index
    with patch.object(leases, "ENDING_MAX", 10):
        tick(bench, TTL_TICKS)
        bench.replica.tick()
        bench.work()
    assert keys(bench) == 0, "without waiting for another tick"
    sizes = [
        len(frames.ExpiredLeases.FromString(command.body).leases)
        for command in commands_after(bench, before)
        if command.method == frames.LEASE_EXPIRE
    ]
    assert max(sizes) <= 10
    assert sum(sizes) == 25
    bench.store.close()


def test_writes_that_fill_the_queue_keep_no_lease_from_its_end(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1, 2, 3, limits={"pending_requests_max": 4})
    put = etcd.PutRequest(key=b"%d" % (LEASE + 1)).SerializeToString()
    refused = 0
    for number in range(TTL_TICKS + 2):
        for one in range(3):
            call = bench.ask(frames.ETCD_PUT, put, request_id=b"%08d%08d" % (number, one))
            refused += call in bench.replies and bench.replies[call].error == errors.QueueFull.frame_code
        bench.tick()
        # It leads still, and nobody has its log.
        bench.hear(message(MessageKind.HEARTBEAT_REPLY, 2, bench.core.term))
    assert refused > TTL_TICKS, "there was room for others"
    acknowledge_all(bench)
    assert keys(bench) == 1, "what was written, and not the lease's"
    bench.store.close()


def lines_of_an_election(folder: Path, count: int) -> int:
    """How many lines a follower with so many leases runs until it leads and has all of its log applied."""
    bench = bench_with_lease(folder, 1, 2, 3, count=count)
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1, commit=bench.core.log.last_index))
    bench.work()
    lines = 0

    def note(_frame: FrameType, event: str, _argument: object) -> TraceFunction:
        nonlocal lines
        lines += event == "line"
        return note

    before = sys.gettrace()
    sys.settrace(note)
    try:
        bench.lead()
        bench.work()
    finally:
        sys.settrace(before)
    assert time_left(bench) >= TTL_TICKS
    bench.store.close()
    return lines


def test_an_election_looks_at_no_lease(tmp_path: Path) -> None:
    few, many = (lines_of_an_election(tmp_path / str(count), count) for count in (4, 80))
    assert abs(many - few) < 40


def test_the_clock_starts_over_with_a_snapshot(alone: Bench) -> None:
    grant(alone, LEASE)
    clock = alone.replica._leases
    clock.installed()
    assert time_left(alone) == TTL_TICKS + 1
    assert clock.statistics() == {"leases": 1, "leases_ending": 0, "lease_checkpoints": 0}


def test_what_a_busy_process_misses_is_made_up_for_and_a_pause_is_not(tmp_path: Path) -> None:
    bench = bench_with_lease(tmp_path, 1)
    bench.replica.miss(ELECTION_TICKS)
    tick(bench, TTL_TICKS - ELECTION_TICKS)
    assert keys(bench) == 1
    bench.replica.miss(ELECTION_TICKS - 1)
    tick(bench, 1)
    assert keys(bench) == 1
    tick(bench, 1)
    assert keys(bench) == 0
    bench.store.close()
