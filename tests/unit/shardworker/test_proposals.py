"""The queue of writes: bounded, batched in order, and honest about who waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, LEVEL, Access
from shardworker.machine import REGISTRY, Registry
from shardworker.raft import LogIndex
from shardworker.replica.proposals import TXN_BYTES_MAX, Waiter, WriteQueue
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import Bench

if TYPE_CHECKING:
    from pathlib import Path


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


def test_the_commands_of_a_shards_own_have_ids_that_no_other_shards_have(tmp_path: Path) -> None:
    """A table that moves brings all ids that its shard remembers, and there two shards at the same term meet."""
    ids = [own_ids(tmp_path / str(shard), shard) for shard in (2, 3)]
    for one in ids:
        assert set(one.values()) >= {frames.RAISE_LEVEL, frames.TABLE_QUOTA, frames.LEASE_EXPIRE}
    assert not ids[0].keys() & ids[1].keys()


def own_ids(folder: Path, shard: int) -> dict[bytes, int]:
    """The ids and methods of what a new shard's leader proposes for itself in its first seconds."""
    newer = Registry(LEVEL + 1, REGISTRY.handlers)
    bench = Bench(
        folder, members(1), shard=shard, table=10_001, registry=newer, limits={"table_quota": 1 << 20}
    )
    bench.core.campaign()
    bench.replica.turn()
    spec = frames.TableSpec(id=10_001, name="t", history=-1)
    bench.write(frames.TABLE_CREATE, spec.SerializeToString())
    bench.write(frames.LEASE_GRANT, etcd.LeaseGrantRequest(ID=1, TTL=1).SerializeToString())
    for _ in range(30):
        bench.tick()
        bench.work()
    log = bench.store.log
    entries = log.entries(LogIndex(log.first_index()), LogIndex(log.last_index() + 1), 1 << 20)
    commands = [
        command for entry in entries for command in frames.CommandBatch.FromString(entry.data).commands
    ]
    bench.store.close()
    internal = [command for command in commands if COMMANDS[command.method].access is Access.INTERNAL]
    return {command.request_id: command.method for command in internal}
