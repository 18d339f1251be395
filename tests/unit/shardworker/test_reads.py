"""When reads are made and when their answers leave: bounded by turn and by coordinator, in order, none lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.machine import StateMachine
from shardworker.raft import MessageKind
from shardworker.replica.outgoing import WINDOW_PATIENCE_TICKS
from shardworker.replica.reads import CATCH_UP_MS, TURN_S
from tests.unit.raft.lab import message
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import CLIENT, KEYS, TABLE, VALUE, Bench, everything

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shardworker.machine import Parsed, Result

TURN_VALUES: Final = 3
LINK_VALUES: Final = 6


@pytest.fixture
def metered(tmp_path: Path) -> Iterator[Bench]:
    """A lone replica that holds few answers at a time."""
    bench = Bench(
        tmp_path,
        members(1),
        limits={
            "turn_answer_bytes_max": TURN_VALUES * len(VALUE),
            "link_answer_bytes_max": LINK_VALUES * len(VALUE),
        },
    )
    bench.core.campaign()
    bench.replica.turn()
    bench.fill()
    bench.replies.clear()
    yield bench
    bench.store.close()


def gets(count: int, *, linearizable: bool = False) -> frames.Envelope:
    """Envelopes of so many reads of a large value, numbered from 1,000."""
    envelope = frames.Envelope()
    for number in range(count):
        envelope.requests.add(
            call=1_000 + number,
            method=frames.ETCD_RANGE,
            table_id=TABLE,
            body=etcd.RangeRequest(key=b"%d" % (number % KEYS)).SerializeToString(),
            linearizable=linearizable,
        )
    return envelope


@pytest.mark.parametrize("linearizable", [False, True])
def test_a_turn_makes_no_more_answers_than_it_may_hold(metered: Bench, linearizable: bool) -> None:
    metered.replica.handle(CLIENT, gets(7, linearizable=linearizable))
    answered = []
    while metered.replica.has_work():
        metered.replica.turn()
        answered.append(len(metered.replies))
    assert answered == [3, 6, 7]
    assert list(metered.replies) == list(range(1_000, 1_007)), "in order"
    assert all(len(reply.body) > len(VALUE) for reply in metered.replies.values())


def test_a_turn_reads_for_a_moment_and_goes_on_in_the_next(alone: Bench) -> None:
    """Small answers can take long to find, and there may be thousands: heartbeats must leave in between."""
    alone.replies.clear()
    alone.disk.sync_s = TURN_S / 2.5  # by which its clock goes on whenever anybody looks
    alone.replica.handle(CLIENT, gets(9))
    alone.replica.turn()
    assert 0 < len(alone.replies) < 5
    assert alone.replica.has_work()
    alone.work()
    assert list(alone.replies) == list(range(1_000, 1_009))


def test_who_asks_for_much_holds_up_no_other_one(alone: Bench) -> None:
    alone.other_clients.add(b"another")
    alone.replies.clear()
    alone.disk.sync_s = TURN_S
    alone.replica.handle(CLIENT, gets(9))
    one = gets(1)
    one.requests[0].call = 1
    alone.replica.handle(b"another", one)
    for _ in range(2):
        alone.replica.turn()
    assert 1 in alone.replies
    assert len(alone.replies) < 9


def test_a_coordinator_that_takes_nothing_is_sent_no_more(metered: Bench) -> None:
    metered.replica.handle(CLIENT, frames.Envelope(hello=frames.Hello(node=1, acknowledges=True)))
    metered.replica.handle(CLIENT, gets(9))
    metered.work()
    assert len(metered.replies) == LINK_VALUES
    metered.replica.handle(CLIENT, frames.Envelope(taken_bytes=2 * len(VALUE)))
    metered.work()
    assert len(metered.replies) == LINK_VALUES + 2
    metered.replica.handle(CLIENT, frames.Envelope(taken_bytes=LINK_VALUES * len(VALUE)))
    metered.work()
    assert sorted(metered.replies) == list(range(1_000, 1_009))


def test_a_coordinator_that_takes_nothing_holds_up_no_other_one(metered: Bench) -> None:
    metered.other_clients.add(b"another")
    metered.replica.handle(CLIENT, frames.Envelope(hello=frames.Hello(node=1, acknowledges=True)))
    metered.replica.handle(CLIENT, gets(LINK_VALUES + 2))
    metered.work()
    assert not metered.replica.has_work()
    envelope = gets(1)
    envelope.requests[0].call = 1
    metered.replica.handle(b"another", envelope)
    metered.work()
    assert 1 in metered.replies


def shown(call: int, revision: int) -> frames.Envelope:
    """A read that may be stale, of who was shown this revision."""
    envelope = gets(1)
    envelope.requests[0].call = call
    envelope.requests[0].shown_revision = revision
    return envelope


def test_what_a_node_has_shown_is_waited_for_and_what_is_cut_off_answers_at_last(alone: Bench) -> None:
    alone.replica.handle(CLIENT, shown(901, 1))
    alone.work()
    revision = alone.answer(901).revision
    alone.replica.handle(CLIENT, shown(902, revision + 1))
    alone.replica.handle(CLIENT, shown(903, revision + 100))
    alone.work()
    assert 902 not in alone.replies
    alone.write(frames.ETCD_PUT, etcd.PutRequest(key=b"new").SerializeToString())
    alone.work()
    assert alone.answer(902).revision == revision + 1
    assert 903 not in alone.replies
    for _ in range(CATCH_UP_MS // alone.cluster.raft.tick_ms + 2):
        alone.tick()
    assert alone.answer(903).revision == revision + 1


def test_what_is_asked_twice_in_a_turn_is_read_once(alone: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[bytes] = []
    read = StateMachine.read

    def counting(self: StateMachine, connection: Any, request: Parsed) -> Result:
        result = read(self, connection, request)
        bodies.append(result.body)
        return result

    monkeypatch.setattr(StateMachine, "read", counting)
    alone.replica.handle(CLIENT, gets(3 * KEYS))
    alone.replica.turn()
    assert len(bodies) == KEYS
    told = [alone.replies[1_000 + number].body for number in range(3 * KEYS)]
    assert told == 3 * bodies


def test_the_next_turn_reads_anew(alone: Bench) -> None:
    body = etcd.RangeRequest(key=b"0").SerializeToString()
    for value in (b"one", b"two"):
        alone.write(frames.ETCD_PUT, etcd.PutRequest(key=b"0", value=value).SerializeToString())
        assert value in alone.answer(alone.ask(frames.ETCD_RANGE, body)).body


def test_what_a_coordinator_without_room_waits_for_is_refused_at_last(metered: Bench) -> None:
    metered.replica.handle(CLIENT, frames.Envelope(hello=frames.Hello(node=1, acknowledges=True)))
    metered.replica.handle(CLIENT, gets(LINK_VALUES + 2))
    metered.work()
    for _ in range(WINDOW_PATIENCE_TICKS):
        assert metered.replica.status().statistics["reads_waiting"] == 2
        metered.tick()
    metered.work()
    assert metered.replica.status().statistics["reads_waiting"] == 0
    for call in range(1_000 + LINK_VALUES, 1_000 + LINK_VALUES + 2):
        with pytest.raises(errors.ReadTimedOut):
            metered.answer(call)


def test_a_coordinator_without_room_hears_of_its_writes_and_of_what_is_small(metered: Bench) -> None:
    metered.replica.handle(CLIENT, frames.Envelope(hello=frames.Hello(node=1, acknowledges=True)))
    metered.replica.handle(CLIENT, gets(LINK_VALUES))
    metered.work()
    for _ in range(WINDOW_PATIENCE_TICKS):
        metered.tick()
    put = etcd.PutRequest(key=b"0", value=b"new", prev_kv=True).SerializeToString()
    told = metered.answer(metered.ask(frames.ETCD_PUT, put, request_id=bytes(16)))
    assert etcd.PutResponse.FromString(told.body).prev_kv.value == VALUE
    key = etcd.RangeRequest(key=b"0").SerializeToString()
    assert b"new" in metered.answer(metered.ask(frames.ETCD_RANGE, key)).body
    with pytest.raises(errors.QueueFull):
        metered.answer(metered.ask(frames.ETCD_RANGE, everything()))
    # It is served as before once it takes answers again.
    metered.replica.handle(CLIENT, frames.Envelope(taken_bytes=LINK_VALUES * len(VALUE)))
    assert metered.answer(metered.ask(frames.ETCD_RANGE, everything())).body


def test_what_nobody_waits_for_any_more_is_not_read(metered: Bench) -> None:
    metered.replica.handle(CLIENT, frames.Envelope(hello=frames.Hello(node=1, acknowledges=True)))
    metered.replica.handle(CLIENT, gets(LINK_VALUES + 1))
    metered.work()
    metered.jobs.may_end = False
    threads = metered.cluster.store.reader_threads
    metered.other_clients.add(b"another")
    envelope = frames.Envelope()
    for call in range(threads + 1):
        envelope.requests.add(call=call, method=frames.ETCD_RANGE, table_id=TABLE, body=everything())
    metered.replica.handle(b"another", envelope)
    limits, tick_ms = metered.cluster.limits, metered.cluster.raft.tick_ms
    for _ in range(limits.read_timeout_ms // tick_ms + 2):
        metered.tick()
    metered.jobs.may_end = True
    metered.replica.handle(CLIENT, frames.Envelope(taken_bytes=LINK_VALUES * len(VALUE)))
    metered.work()
    # The last one did not get a thread; those that did end in the middle.
    for call in (1_000 + LINK_VALUES, *range(threads + 1)):
        with pytest.raises(errors.ReadTimedOut):
            metered.answer(call)
    assert metered.answer(metered.ask(frames.ETCD_RANGE, everything())).body


def test_as_many_long_reads_run_as_there_are_threads(metered: Bench) -> None:
    metered.jobs.may_end = False
    threads = metered.cluster.store.reader_threads
    calls = [metered.ask(frames.ETCD_RANGE, everything()) for _ in range(threads + 3)]
    assert metered.jobs.waiting_count == threads
    assert not metered.replica.drained()
    metered.jobs.may_end = True
    metered.work()
    for call in calls:
        assert len(metered.answer(call).body) > KEYS * len(VALUE)
    assert metered.replica.drained()


def test_rounds_are_counted_that_leadership_was_confirmed_for_too_late_or_never(tmp_path: Path) -> None:
    bench = Bench(tmp_path, members(1, 2, 3), limits={"read_timeout_ms": 300})
    bench.lead()
    bench.fill()
    patience_ticks = 300 // bench.cluster.raft.tick_ms

    def slow_rounds() -> int:
        return bench.replica.status().statistics["slow_read_rounds"]

    def asked_for_reads(ticks: int) -> int:
        """The context of a round, so many ticks after two reads have begun it."""
        bench.sent.clear()
        bench.replica.handle(CLIENT, gets(2, linearizable=True))
        bench.replica.turn()
        (context,) = {one.context for _, one in bench.sent if one.kind is MessageKind.HEARTBEAT}
        for _ in range(ticks):
            bench.tick()
        return context

    context = asked_for_reads(patience_ticks)
    bench.hear(message(MessageKind.HEARTBEAT_REPLY, 2, bench.core.term, context=context))
    assert bench.answer(1_000).body
    assert slow_rounds() == 0
    context = asked_for_reads(patience_ticks + 1)
    bench.hear(message(MessageKind.HEARTBEAT_REPLY, 2, bench.core.term, context=context))
    with pytest.raises(errors.ReadTimedOut):
        bench.answer(1_000)
    assert slow_rounds() == 1
    asked_for_reads(patience_ticks + 1)
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1))
    with pytest.raises(errors.NotLeader):
        bench.answer(1_000)
    assert slow_rounds() == 2
    bench.store.close()


def test_a_write_without_a_request_id_is_no_write(alone: Bench) -> None:
    body = etcd.PutRequest(key=b"k", value=b"v").SerializeToString()
    with pytest.raises(errors.MalformedRequest):
        alone.answer(alone.ask(frames.ETCD_PUT, body))


def test_a_transaction_without_a_request_id_is_a_read(alone: Bench) -> None:
    txn = etcd.TxnRequest()
    txn.success.add(request_range=etcd.RangeRequest(key=b"0"))
    reply = alone.answer(alone.ask(frames.ETCD_TXN, txn.SerializeToString()))
    assert etcd.TxnResponse.FromString(reply.body).responses[0].response_range.count == 1


def test_a_method_of_a_newer_build_is_refused(alone: Bench) -> None:
    with pytest.raises(errors.MethodNotServed):
        alone.answer(alone.ask(999))  # type: ignore[arg-type]
