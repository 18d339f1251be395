"""The queue of writes: bounded, batched in order, and honest about who waits."""

from __future__ import annotations

import pytest

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.replica.proposals import TXN_BYTES_MAX, Waiter, WriteQueue


def request(number: int, *, call: int = 1, body: bytes = b"x") -> frames.Request:
    return frames.Request(call=call, method=frames.ETCD_PUT, body=body, request_id=number.to_bytes(16, "big"))


def proposals(requests_max: int = 10, bytes_max: int = 1000, batch_bytes_max: int = 100) -> WriteQueue:
    return WriteQueue(requests_max=requests_max, bytes_max=bytes_max, batch_bytes_max=batch_bytes_max)


def test_a_turn_takes_everything_in_order_as_one_batch() -> None:
    queue = proposals()
    for number in range(5):
        queue.admit(b"link", request(number))
    (batch,) = queue.take(time_ms=7)
    assert batch.time_ms == 7
    assert [command.request_id[-1] for command in batch.commands] == [0, 1, 2, 3, 4]
    assert not queue
    assert list(queue.take(time_ms=8)) == []


def test_a_batch_is_cut_at_its_bound_and_one_large_write_goes_alone() -> None:
    queue = proposals(bytes_max=10_000)
    for number, size in enumerate([40, 40, 40, 500, 1]):
        queue.admit(b"link", request(number, body=b"v" * size))
    assert [len(batch.commands) for batch in queue.take(time_ms=1)] == [2, 1, 1, 1]


def test_transactions_of_one_entry_are_as_many_as_it_can_apply() -> None:
    queue = proposals(bytes_max=10 << 20, batch_bytes_max=1 << 20)
    third = TXN_BYTES_MAX // 3
    for number, (method, size) in enumerate(
        [
            (frames.ETCD_TXN, third),
            (frames.ETCD_PUT, TXN_BYTES_MAX),
            (frames.REGATTA_TXN, third),
            (frames.ETCD_TXN, third),
            (frames.ETCD_TXN, third),
            (frames.ETCD_TXN, 2 * TXN_BYTES_MAX),
            (frames.ETCD_PUT, 1),
            (frames.ETCD_TXN, 1),
        ]
    ):
        one = request(number, body=b"v" * size)
        one.method = method
        queue.admit(b"link", one)
    assert [len(batch.commands) for batch in queue.take(time_ms=1)] == [4, 1, 2, 1]


def test_empty_bodies_are_proposed_too() -> None:
    queue = proposals()
    queue.admit(b"link", request(1, body=b""))
    assert [len(batch.commands) for batch in queue.take(time_ms=1)] == [1]


@pytest.mark.parametrize("bound", [{"requests_max": 2}, {"bytes_max": 2}])
def test_a_full_queue_refuses(bound: dict[str, int]) -> None:
    queue = proposals(**bound)
    queue.admit(b"link", request(1))
    queue.admit(b"link", request(2))
    with pytest.raises(errors.QueueFull):
        queue.admit(b"link", request(3))


def test_repeats_of_one_id_count_too() -> None:
    queue = proposals(requests_max=2)
    for call in (1, 2):
        queue.admit(b"link", request(1, call=call))
        list(queue.take(time_ms=call))
    with pytest.raises(errors.QueueFull):
        queue.admit(b"link", request(1, call=3))
    assert len(queue.resolve(request(1).request_id)) == 2
    queue.admit(b"link", request(1, call=4))
    assert queue.waiting_count == 1


def test_a_write_without_a_proper_id_is_refused() -> None:
    with pytest.raises(errors.MalformedRequest):
        proposals().admit(b"link", frames.Request(call=1, request_id=b"short"))


def test_everybody_who_asked_for_an_id_is_answered_once() -> None:
    queue = proposals()
    queue.admit(b"a", request(1, call=1))
    queue.admit(b"b", request(1, call=2))
    list(queue.take(time_ms=1))
    assert queue.resolve(request(1).request_id) == [Waiter(b"a", 1), Waiter(b"b", 2)]
    assert queue.resolve(request(1).request_id) == []


def test_losing_leadership_gives_up_on_queued_and_proposed_alike() -> None:
    queue = proposals()
    queue.admit(b"a", request(1))
    list(queue.take(time_ms=1))
    queue.admit(b"a", request(2, call=2))
    assert queue.abandon() == [Waiter(b"a", 1), Waiter(b"a", 2)]
    assert not queue
    assert queue.waiting_count == 0
