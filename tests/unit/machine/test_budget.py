"""How much a write may make its replicas do, and that one which may not has changed nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.etcd.rpc_pb2 import Compare
from proto.internal import frames_pb2 as frames
from proto.regatta import mvcc_pb2, regatta_pb2
from shardworker.machine import budget
from tests.unit.machine.shard import Shard, delete, get, put, txn

if TYPE_CHECKING:
    from google.protobuf.message import Message

ROWS = 200


def holds(**what: int) -> Compare:
    """A comparison that has to look at every key of the table."""
    return Compare(key=b"k", range_end=b"l", result=Compare.GREATER, **what)  # type: ignore[arg-type]


EXPENSIVE: dict[str, Message] = {
    "comparing versions": txn(put(b"k000"), compare=[holds(target=Compare.VERSION)]),
    "comparing values": txn(
        put(b"k000"),
        compare=[
            Compare(key=b"k", range_end=b"l", result=Compare.NOT_EQUAL, target=Compare.VALUE, value=b"no")
        ],
    ),
    "a nested comparison": txn(put(b"k000"), txn(compare=[holds(target=Compare.MOD, mod_revision=0)])),
    "counting": txn(put(b"k000"), *[get(b"k", b"l", count_only=True)] * 8),
    "a short part of a long range": txn(put(b"k000"), *[get(b"k", b"l", limit=1)] * 8),
    "a range": txn(put(b"k000"), get(b"k", b"l")),
    "a sorted range": txn(put(b"k000"), get(b"k", b"l", sort_order=2, sort_target=1, limit=1)),
    "the past": txn(put(b"k000"), get(b"k", b"l", revision=20, count_only=True)),
    "a past that is far away": txn(put(b"k000"), get(b"hot", revision=10)),
    "deleting": delete(b"k", b"l"),
    "deleting with an answer": delete(b"k", b"l", prev_kv=True),
    "deleting and then more": txn(delete(b"k000"), delete(b"k", b"l"), put(b"a")),
    "a page of Regatta's": regatta_pb2.TxnRequest(
        table=b"t",
        success=[
            mvcc_pb2.RequestOp(request_put=mvcc_pb2.RequestOp.Put(key=b"k000", value=b"v")),
            mvcc_pb2.RequestOp(request_range=mvcc_pb2.RequestOp.Range(key=b"k", range_end=b"l")),
        ],
    ),
}


def filled() -> Shard:
    shard = Shard()
    shard.apply(*[shard.command(put(b"hot", b"%d" % number)) for number in range(ROWS)])
    shard.apply(*[shard.command(put(b"k%03d" % number, b"v")) for number in range(ROWS)])
    return shard


def test_what_is_expensive_is_served_within_the_budget() -> None:
    for name, request in EXPENSIVE.items():
        shard = filled()
        assert shard.write(request).error is None, name
        assert shard.machine.rows_visited >= ROWS // 2 - 10, name


@pytest.mark.parametrize("name", EXPENSIVE)
def test_what_goes_over_the_budget_is_refused_and_changes_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = filled()
    monkeypatch.setattr(budget, "ROWS_MAX", 50)
    before = (shard.machine.checksum, shard.rows())
    result = shard.write(EXPENSIVE[name])
    assert type(result.error) is errors.TooManyRows
    assert "split the range and send several requests" in result.error.detail
    assert (shard.machine.checksum, shard.rows()) == before
    assert shard.write(txn(put(b"a"), get(b"k000"), delete(b"k001"))).error is None
    assert shard.range(b"k", b"l", count_only=True)[1].count == ROWS - 1, "reads have no such budget"


def test_one_transaction_cannot_stop_a_shard() -> None:
    """128 comparisons over 200,000 keys took 20 s; this is the same with fewer keys."""
    shard = Shard()
    shard.apply(*[shard.command(put(b"k%04d" % number)) for number in range(2_000)])
    request = txn(put(b"a"), compare=[holds(target=Compare.VERSION)] * 128)
    assert type(shard.write(request).error) is errors.TooManyRows
    assert shard.machine.rows_visited <= budget.ROWS_MAX + 1
    request = txn(put(b"a"), compare=[holds(target=Compare.VERSION)] * 64)
    assert shard.write(request).error is None


def test_the_commands_of_one_entry_share_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = filled()
    monkeypatch.setattr(budget, "ROWS_MAX", 250)
    monkeypatch.setattr(budget, "ENTRY_ROWS_MAX", 400)
    monkeypatch.setattr(budget, "ROWS_FREE", 20)
    costly = shard.command(txn(put(b"a"), compare=[holds(target=Compare.VERSION)]))
    modest = shard.command(txn(put(b"b"), get(b"k", b"k010")))
    commands = [costly, modest] * 4
    for number, command in enumerate(commands):
        copied = frames.Command.FromString(command.SerializeToString())
        copied.request_id = number.to_bytes(16, "big")
        commands[number] = copied
    found = [type(result.error) for result in shard.apply(*commands)]
    assert found == [type(None)] * 4 + [errors.ShardBusy, type(None)] * 2
    assert shard.write(txn(put(b"a"), compare=[holds(target=Compare.VERSION)])).error is None, (
        "the next entry has its own"
    )


def risen() -> Shard:
    """A shard at this build's machine level."""
    shard = filled()
    assert shard.write(frames.MachineLevel(level=budget.COUNTS_KEYS_SINCE)).error is None
    return shard


def compared(key: bytes) -> Compare:
    return Compare(key=key, result=Compare.NOT_EQUAL, target=Compare.VALUE, value=b"no")


def nested(count: int) -> Message:
    """Operations beneath operations, which no list's bound counts."""
    return txn(put(b"k000"), *[txn(*[get(b"none")] * 10)] * (count // 10))


VALUE_BYTES = 100 << 10

KEY_BY_KEY: dict[str, tuple[Message, int]] = {
    "comparing a value": (txn(put(b"a"), compare=[compared(b"big")]), 2 * budget.OPERATION_ROWS + 100),
    "counting a key": (txn(put(b"a"), get(b"big", count_only=True)), 2 * budget.OPERATION_ROWS),
    "the key of a key": (txn(put(b"a"), get(b"big", keys_only=True)), 2 * budget.OPERATION_ROWS + 100),
    "a filtered key": (txn(put(b"a"), get(b"big", min_mod_revision=1)), 2 * budget.OPERATION_ROWS + 100),
    "a key's past": (
        txn(put(b"a"), get(b"big", revision=2 * ROWS + 2, count_only=True)),
        2 * budget.OPERATION_ROWS + 202,
    ),
    "keeping a value": (put(b"big", ignore_value=1), 100 * budget.KEPT_BYTES),
    "deleting keys that are not there": (txn(*[delete(b"none")] * 7), 7 * budget.OPERATION_ROWS),
    "a branch that is not taken": (
        txn(put(b"a"), txn(compare=[compared(b"none")], failure=[txn(), *[get(b"a")] * 4])),
        8 * budget.OPERATION_ROWS,
    ),
    "many operations beneath others": (nested(100), 111 * budget.OPERATION_ROWS),
}


@pytest.mark.parametrize("name", KEY_BY_KEY)
def test_what_goes_key_by_key_counts_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request, rows = KEY_BY_KEY[name]
    for has_risen in (False, True):
        shard = risen() if has_risen else filled()
        shard.put(b"big", bytes(VALUE_BYTES - 50))
        shard.put(b"big", bytes(VALUE_BYTES - 50))
        assert shard.write(request).error is None
        if has_risen:
            assert shard.machine.rows_visited == pytest.approx(rows, abs=2)
            monkeypatch.setattr(budget, "ROWS_MAX", rows - 5)
            before = (shard.machine.checksum, shard.rows())
            assert type(shard.write(request).error) is errors.TooManyRows
            assert (shard.machine.checksum, shard.rows()) == before
        else:
            assert shard.machine.rows_visited <= 2, "replicas of an older build count as they always did"


def test_values_that_are_read_count_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard()
    shard.put(b"k", bytes(100 << 10))
    compare = Compare(key=b"k", range_end=b"l", result=Compare.NOT_EQUAL, target=Compare.VALUE, value=b"no")
    assert shard.write(txn(put(b"a"), compare=[compare])).error is None
    assert shard.machine.rows_visited == 100
