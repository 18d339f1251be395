"""Calls in flight: where each goes, when it is sent again, and that it ends once."""

from __future__ import annotations

import pytest

from coordinator.shards.router import ACKNOWLEDGE_BYTES_MIN, SWEEP_INTERVAL_S
from coordinator.shards.shard_call import LEADER, NEAREST
from proto import errors
from proto.ids import NodeId
from proto.internal import frames_pb2 as frames
from tests.unit.coordinator.router_bench import N1, N3, REQUEST_ID, SHARD, Bench, body_of, is_open


def test_a_write_goes_to_the_leader_and_ends_once() -> None:
    bench = Bench()
    call = bench.write()
    [number] = bench.numbers(1)
    bench.reply(1, number, b"done")
    bench.reply(1, number, b"again")
    assert body_of(call) == b"done"
    assert bench.ended == [call]
    assert bench.bounds.calls == 0


def test_what_is_submitted_between_two_polls_leaves_together() -> None:
    bench = Bench()
    calls = [bench.write(), bench.read(LEADER), bench.read(NEAREST)]
    [outgoing] = bench.router.poll(bench.now).outgoing
    assert outgoing.calls == calls


def test_only_the_replica_that_was_asked_can_answer() -> None:
    bench = Bench()
    call = bench.write()
    [number] = bench.numbers(1)
    bench.reply(2, number, b"not asked")
    assert is_open(call)


def test_not_leader_with_a_hint_is_followed_with_the_same_request_id() -> None:
    bench = Bench()
    call = bench.write()
    bench.refuse(1, bench.numbers(1)[0], errors.NotLeader(), term=2, leader=3)
    assert bench.sent(3) == [call]
    assert (call.body, call.request_id) == (b"w", REQUEST_ID)
    bench.reply(3, bench.numbers(3)[0], b"done")
    assert body_of(call) == b"done"


def test_one_refusal_moves_all_calls_and_the_refusals_behind_it_are_ignored() -> None:
    bench = Bench()
    calls = [bench.write() for _ in range(3)]
    refusal = errors.NotLeader().frame_code
    bench.hear(
        1,
        frames.Envelope(
            replies=[
                frames.Reply(call=number, error=refusal, term=2, leader=2) for number in bench.numbers(1)
            ]
        ),
    )
    assert len(bench.sent(2)) == 3
    for number in list(bench.numbers(2)):
        bench.reply(2, number)
    assert set(bench.ended) == set(calls)


def test_a_call_waits_while_nobody_leads_and_leaves_with_the_news() -> None:
    bench = Bench(leader=0)
    bench.write()
    assert not any(bench.sent(node) for node in (1, 2, 3))
    bench.say(2, term=4, leader=2)
    assert len(bench.sent(2)) == 1


def test_who_leads_is_asked_while_calls_wait_for_it_in_case_the_news_was_lost() -> None:
    bench = Bench(leader=0)
    bench.pass_time(5.0)
    assert bench.asked == [], "nothing waits for it"
    bench.router.handle_disconnected(bench.replicas[3])
    bench.write(timeout_s=20.0)
    bench.pass_time(2.5)
    assert bench.asked in ([1, 2] * 2, [1, 2] * 3), "once a second, of who can be reached"
    bench.asked.clear()
    bench.say(1, term=1, leader=1)
    bench.pass_time(5.0)
    assert bench.asked == []
    assert len(bench.sent(1)) == 1


def test_a_refusing_leader_is_not_asked_again_before_the_sweep() -> None:
    bench = Bench()
    bench.write()
    bench.refuse(1, bench.numbers(1)[0], errors.ShuttingDown(), term=1, leader=1)
    assert len(bench.sent(1)) == 1
    bench.pass_time(SWEEP_INTERVAL_S)
    assert len(bench.sent(1)) == 2


def test_a_paused_leader_is_left_when_others_follow_a_new_one() -> None:
    bench = Bench()
    write, linearizable, stale = bench.write(), bench.read(LEADER), bench.read(NEAREST)
    old_numbers = list(bench.numbers(1))
    bench.say(2, term=2, leader=2)
    assert bench.sent(2) == [write, linearizable]
    bench.reply(1, old_numbers[0], b"late")
    assert is_open(write)
    for number in list(bench.numbers(2)):
        bench.reply(2, number, b"new")
    assert body_of(write) == body_of(linearizable) == b"new"
    assert is_open(stale)
    bench.reply(1, old_numbers[2])
    assert bench.ended[-1] is stale


def test_a_broken_link_moves_its_calls_at_once() -> None:
    bench = Bench()
    bench.say(2, term=1, leader=1)
    write, stale, cursor = bench.write(), bench.read(NEAREST), bench.read(N1, cursor=9)
    bench.poll()
    bench.disconnect(1)
    assert isinstance(cursor.error, errors.CursorNotFound)
    assert bench.sent(2) == [stale]
    assert is_open(write)
    bench.say(3, term=2, leader=3)
    assert bench.sent(3) == [write]
    bench.reply(2, bench.numbers(2)[0])
    assert bench.ended == [cursor, stale]


def test_a_replica_is_greeted_whenever_its_link_comes_up() -> None:
    bench = Bench()
    assert bench.greeted == [1, 2, 3]
    bench.disconnect(2)
    bench.router.handle_connected(bench.replicas[2])
    bench.poll()
    assert bench.greeted == [1, 2, 3, 2]


def test_a_call_to_one_replica_that_is_away_fails_at_once() -> None:
    bench = Bench()
    bench.disconnect(3)
    assert isinstance(bench.read(N3).error, errors.NoLeader)
    assert isinstance(bench.read(N3, cursor=1).error, errors.CursorNotFound)
    assert bench.bounds.calls == 0


def test_an_unsent_envelope_is_tried_again_later_and_leaves_no_doubt() -> None:
    bench = Bench()
    call = bench.write()
    [outgoing] = bench.router.poll(bench.now).outgoing
    bench.router.handle_unsent(outgoing)
    assert not bench.sent(1)
    bench.pass_time(SWEEP_INTERVAL_S)
    assert bench.sent(1) == [call]
    bench.refuse(1, bench.numbers(1)[0], errors.NoSpace(), term=1, leader=1)
    assert isinstance(call.error, errors.NoSpace)


def test_what_moves_before_it_was_sent_is_sent_once_and_is_not_in_doubt() -> None:
    bench = Bench()
    call = bench.write()
    bench.say(2, term=2, leader=2)
    assert bench.sent(2) == [call]
    assert not bench.sent(1)
    bench.refuse(2, bench.numbers(2)[0], errors.QueueFull(), term=2, leader=2)
    assert isinstance(call.error, errors.QueueFull)


def test_a_cursor_that_nobody_waits_for_any_more_is_closed() -> None:
    bench = Bench()
    abandoned, late, crossing = bench.read(), bench.read(timeout_s=0.01), bench.read()
    first, second, third = bench.numbers(1)
    bench.router.cancel(abandoned)
    bench.reply(1, first, cursor=7)
    bench.pass_time(SWEEP_INTERVAL_S)
    assert isinstance(late.error, errors.ReadTimedOut)
    bench.reply(1, second, cursor=8)
    bench.reply(1, third, cursor=9)
    bench.router.cancel(crossing)
    bench.poll()
    assert bench.cursors_closed == [7, 8, 9]


def test_at_the_deadline_a_write_is_of_unknown_fate_and_a_read_is_not() -> None:
    bench = Bench(leader=0)
    write, read = bench.write(timeout_s=1.0), bench.read(LEADER, timeout_s=1.0)
    bench.pass_time(0.99)
    assert not bench.ended
    bench.pass_time(SWEEP_INTERVAL_S + 0.01)
    assert isinstance(write.error, errors.TimedOut)
    assert isinstance(read.error, errors.ReadTimedOut)
    assert bench.bounds.calls == bench.bounds.size_bytes == 0


def test_time_does_not_matter_without_calls() -> None:
    bench = Bench()
    assert bench.router.next_deadline() is None
    bench.write()
    assert bench.router.next_deadline() is not None
    bench.reply(1, bench.numbers(1)[0])
    bench.pass_time(2 * SWEEP_INTERVAL_S)
    assert bench.router.next_deadline() is None


def test_lost_leadership_is_retried_and_other_errors_are_not() -> None:
    bench = Bench()
    lost, refused = bench.write(), bench.write()
    first, second = bench.numbers(1)
    bench.refuse(1, second, errors.NoSpace("node 1"), term=1, leader=1)
    assert isinstance(refused.error, errors.NoSpace)
    assert refused.error.detail == "node 1"
    bench.refuse(1, first, errors.LeaderLost(), term=2, leader=2)
    assert bench.sent(2) == [lost]
    assert is_open(lost)


def test_an_error_of_another_version_fails_its_call() -> None:
    bench = Bench()
    call = bench.write()
    reply = frames.Reply(call=bench.numbers(1)[0], error=60_000, detail="from the future")
    bench.hear(1, frames.Envelope(replies=[reply]))
    assert isinstance(call.error, errors.InvariantBroken)
    assert "60000" in call.error.detail


def test_what_is_in_flight_is_bounded_in_number_and_bytes() -> None:
    bench = Bench(calls_max=2, bytes_max=10)
    bench.write(body=b"12345678")
    with pytest.raises(errors.QueueFull):
        bench.write(body=b"123")
    bench.write(body=b"1")
    with pytest.raises(errors.QueueFull):
        bench.write(body=b"")
    for number in list(bench.numbers(1)):
        bench.reply(1, number)
    bench.write(body=b"1234567890")


def test_a_call_whose_client_left_is_neither_resent_nor_kept() -> None:
    bench = Bench(bytes_max=1)
    call = bench.write()
    bench.poll()
    bench.router.cancel(call)
    assert bench.bounds.calls == bench.bounds.size_bytes == 0
    bench.say(2, term=2, leader=2)
    assert not bench.sent(2)
    never_sent = bench.write()
    bench.router.cancel(never_sent)
    assert not bench.sent(2)
    assert not bench.ended


def test_closing_fails_what_is_left_and_refuses_the_rest() -> None:
    bench = Bench()
    write, read = bench.write(), bench.read()
    bench.router.close()
    bench.poll()
    assert isinstance(write.error, errors.TimedOut)
    assert isinstance(read.error, errors.ShuttingDown)
    assert bench.ended == [write, read]
    with pytest.raises(errors.ShuttingDown):
        bench.write()


def test_a_read_that_a_damaged_replica_refuses_goes_to_another() -> None:
    bench = Bench(leader=2)
    call = bench.read()
    bench.refuse(1, bench.numbers(1)[0], errors.Corrupt("differs"), term=1, leader=2)
    assert bench.sent(2) == [call]
    bench.reply(2, bench.numbers(2)[0], b"sound")
    assert body_of(call) == b"sound"


def test_a_read_that_every_replica_refuses_as_damaged_fails() -> None:
    bench = Bench(leader=2)
    call = bench.read()
    bench.refuse(1, bench.numbers(1)[-1], errors.Corrupt("in doubt"), term=1, leader=2)
    bench.refuse(2, bench.numbers(2)[-1], errors.Corrupt("in doubt"), term=1, leader=2)
    bench.refuse(1, bench.numbers(1)[-1], errors.Corrupt("in doubt"), term=1, leader=2)
    assert isinstance(call.error, errors.Corrupt)
    assert sum(len(bench.sent(node)) for node in (1, 2, 3)) == 3


def test_replicas_come_and_go() -> None:
    bench = Bench()
    write, pinned = bench.write(), bench.read(N1)
    bench.poll()
    bench.router.remove_replica(bench.replicas.pop(1))
    bench.poll()
    assert isinstance(pinned.error, errors.NoLeader)
    n4 = NodeId(4)
    bench.add(n4)
    bench.say(4, term=2, leader=4)
    assert bench.sent(4) == [write]
    assert bench.router.routes(SHARD).nodes == (2, 3, 4)
    assert not is_open(bench.read(N1))


LARGE = b"x" * ACKNOWLEDGE_BYTES_MIN


def test_a_replica_is_told_what_was_taken_of_its_answers() -> None:
    bench = Bench()
    for _ in range(3):
        bench.read()
    first, second, third = bench.numbers(1)
    bench.reply(1, first, b"x" * 1000)
    assert not bench.acknowledged
    bench.reply(1, second, LARGE)
    assert bench.acknowledged == [(1, 1000 + len(LARGE))]
    # Few bytes travel with the next request, also those of an answer that nobody waits for any more.
    bench.reply(1, third, b"x" * 7)
    bench.reply(1, third, b"x" * 3)
    bench.read()
    bench.poll()
    assert bench.acknowledged[1:] == [(1, 10)]


def test_bodies_beside_the_envelope_count_once() -> None:
    bench = Bench()
    bench.read()
    reply = frames.Reply(call=bench.numbers(1)[0], body=LARGE, attachment=1)
    bench.router.handle_envelope(bench.replicas[1], frames.Envelope(replies=[reply]), len(LARGE))
    bench.poll()
    assert bench.acknowledged == [(1, len(LARGE))]


def test_nothing_is_acknowledged_while_clients_have_too_much_to_take() -> None:
    bench = Bench()
    bench.read()
    bench.held_bytes = ACKNOWLEDGE_BYTES_MIN
    bench.reply(1, bench.numbers(1)[0], LARGE)
    late = bench.read(timeout_s=60)
    assert bench.sent(1)[-1] is late, "requests go on: the replica keeps them"
    bench.pass_time(10 * SWEEP_INTERVAL_S)
    assert not bench.acknowledged
    bench.held_bytes -= 1
    bench.pass_time(SWEEP_INTERVAL_S)
    assert bench.acknowledged == [(1, len(LARGE))]


def test_a_replica_counts_anew_for_each_connection() -> None:
    bench = Bench()
    bench.read()
    bench.reply(1, bench.numbers(1)[0], b"x" * 10)
    bench.disconnect(1)
    bench.router.handle_connected(bench.replicas[1])
    bench.poll()
    assert not bench.acknowledged
