"""The queue of writes: bounded, batched in order, and honest about who waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.catalog import WITHOUT_QUOTA
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, LEVEL, Access
from shardworker.machine import REGISTRY, Registry
from shardworker.raft import LogIndex, MessageKind
from shardworker.replica.proposals import TXN_BYTES_MAX, Proposed, Waiter, WriteQueue
from tests.unit.raft.lab import message
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import CLIENT, TABLE, Bench

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
    ((batch, _),) = queue.take(time_ms=7)
    assert batch.time_ms == 7
    assert [command.request_id[-1] for command in batch.commands] == [0, 1, 2, 3, 4]
    assert not queue
    assert list(queue.take(time_ms=8)) == []


def test_a_batch_is_cut_at_its_bound_and_one_large_write_goes_alone() -> None:
    queue = proposals(bytes_max=10_000)
    for number, size in enumerate([40, 40, 40, 500, 1]):
        queue.admit(b"link", request(number, body=b"v" * size))
    assert [len(batch.commands) for batch, _ in queue.take(time_ms=1)] == [2, 1, 1, 1]


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
    assert [len(batch.commands) for batch, _ in queue.take(time_ms=1)] == [4, 1, 2, 1]


def test_empty_bodies_are_proposed_too() -> None:
    queue = proposals()
    queue.admit(b"link", request(1, body=b""))
    assert [len(batch.commands) for batch, _ in queue.take(time_ms=1)] == [1]


@pytest.mark.parametrize("bound", [{"requests_max": 2}, {"bytes_max": 2}])
def test_a_full_queue_refuses(bound: dict[str, int]) -> None:
    queue = proposals(**bound)
    queue.admit(b"link", request(1))
    queue.admit(b"link", request(2))
    with pytest.raises(errors.QueueFull):
        queue.admit(b"link", request(3))


def test_repeats_of_one_id_count_too() -> None:
    queue = proposals(requests_max=2)
    first, second = (proposed_alone(queue, request(1, call=call)) for call in (1, 2))
    with pytest.raises(errors.QueueFull):
        queue.admit(b"link", request(1, call=3))
    queue.forget(first)
    queue.forget(second)
    queue.admit(b"link", request(1, call=4))
    assert queue.waiting_count == 1


def proposed_alone(queue: WriteQueue, one: frames.Request) -> Proposed:
    queue.admit(b"link", one)
    (proposed,) = queue.take(time_ms=1)
    return proposed


def test_a_write_without_a_proper_id_is_refused() -> None:
    with pytest.raises(errors.MalformedRequest):
        proposals().admit(b"link", frames.Request(call=1, request_id=b"short"))


def test_each_waits_for_the_command_that_he_brought() -> None:
    queue = proposals()
    queue.admit(b"a", request(1, call=1))
    queue.add(request(2))
    queue.admit(b"b", request(1, call=2))
    ((batch, waiters),) = queue.take(time_ms=1)
    assert [command.request_id[-1] for command in batch.commands] == [1, 2, 1]
    assert waiters == [Waiter(b"a", 1), None, Waiter(b"b", 2)]


def test_two_requests_under_one_id_at_the_same_time_hear_each_its_own_result(alone: Bench) -> None:
    """The second is another one, was not applied, and must not be told what the first was."""
    calls: list[int] = []
    for key in (b"a", b"b", b"a"):
        body = etcd.PutRequest(key=key).SerializeToString()
        envelope = frames.Envelope()
        call = 1000 + len(calls)
        envelope.requests.add(
            call=call, method=frames.ETCD_PUT, table_id=TABLE, body=body, request_id=b"the id of both--"
        )
        alone.replica.handle(CLIENT, envelope)
        calls.append(call)
    alone.work()
    assert alone.answer(calls[0]).revision == alone.answer(calls[2]).revision
    with pytest.raises(errors.RequestIdReused):
        alone.answer(calls[1])


def test_who_comes_while_a_predecessors_command_waits_hears_what_came_of_his_own(tmp_path: Path) -> None:
    """The new leader has the command of one request in its log, and the id comes with another one."""
    bench = Bench(tmp_path, members(1, 2, 3))
    bench.lead()
    bench.write(frames.TABLE_CREATE, frames.TableSpec(id=TABLE, name="t", history=-1).SerializeToString())
    first, second = (etcd.PutRequest(key=key).SerializeToString() for key in (b"a", b"b"))
    bench.ask(frames.ETCD_PUT, first, request_id=b"the id of both--")
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1))
    bench.be_elected()
    call = bench.ask(frames.ETCD_PUT, second, request_id=b"the id of both--")
    for peer in (2, 3):
        bench.acknowledge(peer)
    with pytest.raises(errors.RequestIdReused):
        bench.answer(call)
    bench.store.close()


def test_losing_leadership_gives_up_on_queued_and_proposed_alike(tmp_path: Path) -> None:
    bench = Bench(tmp_path, members(1, 2, 3))
    bench.lead()
    body = etcd.PutRequest(key=b"k").SerializeToString()
    calls = [bench.ask(frames.ETCD_PUT, body, request_id=bytes(15) + b"%d" % number) for number in range(2)]
    assert bench.replica.status().statistics["writes_waiting"] == 2
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1))
    for call in calls:
        with pytest.raises(errors.LeaderLost):
            bench.answer(call)
    assert bench.replica.status().statistics["writes_waiting"] == 0
    bench.store.close()


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
    quotas = frames.TableQuotas(quotas={10_001: WITHOUT_QUOTA})
    bench.replica.handle(CLIENT, frames.Envelope(table_quotas=quotas))
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
