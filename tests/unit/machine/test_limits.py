"""How large answers and revisions may get."""

from __future__ import annotations

import apsw
import pytest

from proto import errors
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2
from proto.regatta.mvcc_pb2 import RequestOp
from shardworker.machine import machine, tables, transactions, view, writer
from tests.unit.machine.shard import Shard, delete, get, put, request_id, txn


def test_an_answer_that_would_be_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard()
    for number in range(4):
        shard.put(b"k%d" % number, bytes(1000))
    monkeypatch.setattr(writer, "WRITE_ANSWER_BYTES_MAX", 2500)
    monkeypatch.setattr(view, "ANSWER_BYTES_MAX", 2500)
    assert shard.error(get(b"k", b"l")) is errors.AnswerTooLarge
    assert len(shard.range(b"k", b"l", limit=2)[1].kvs) == 2
    before = shard.machine.checksum
    request = txn(put(b"k0", bytes(900)), delete(b"k1"), get(b"k", b"l"))
    result = shard.write(request, request_id=request_id(1))
    assert type(result.error) is errors.AnswerTooLarge
    assert result.revision == 5
    assert shard.machine.checksum == before
    assert [len(kv.value) for kv in shard.range(b"k", b"l", limit=2)[1].kvs] == [1000, 1000]
    assert type(shard.write(delete(b"k", b"l", prev_kv=True)).error) is errors.AnswerTooLarge
    assert shard.write(delete(b"k", b"l")).error is None


def test_the_answers_of_one_entry_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are stored as one row, and SQLite's rows have an end."""
    shard = Shard()
    for number in range(2):
        shard.put(b"k%d" % number, bytes(1000))
    monkeypatch.setattr(machine, "ENTRY_ANSWERS_BYTES_MAX", 5000)
    shard.connection.limit(apsw.SQLITE_LIMIT_LENGTH, 8000)
    request = txn(put(b"a"), get(b"k", b"l"))
    results = shard.apply(*[shard.command(request, request_id=request_id(number)) for number in range(5)])
    assert [result.revision for result in results] == [4, 5, 5, 5, 5]
    assert [type(result.error) for result in results[2:]] == [errors.AnswerTooLarge] * 3
    assert shard.write(request, request_id=request_id(2)).error is not None, "the first result stays"
    assert shard.write(request, request_id=request_id(9)).error is None


def test_a_regatta_transaction_whose_answer_is_too_large_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shard = Shard()
    for number in range(4):
        shard.put(b"k%d" % number, bytes(1000))
    monkeypatch.setattr(writer, "WRITE_ANSWER_BYTES_MAX", 2500)
    before = (shard.machine.checksum, shard.rows())
    change = RequestOp(request_put=RequestOp.Put(key=b"a"))
    ranges = RequestOp(request_range=RequestOp.Range(key=b"k", range_end=b"l"))
    result = shard.write(regatta_pb2.TxnRequest(table=b"t", success=[change, ranges]))
    assert type(result.error) is errors.AnswerTooLarge
    assert (shard.machine.checksum, shard.rows()) == before
    assert shard.put(b"a")[0] == 6


def test_values_that_puts_keep_are_no_part_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard()
    for number in range(4):
        shard.put(b"k%d" % number, bytes(1000))
    monkeypatch.setattr(writer, "WRITE_ANSWER_BYTES_MAX", 2500)
    result = shard.write(txn(*[put(b"k%d" % number, ignore_value=True) for number in range(4)]))
    assert result.error is None
    assert result.revision == 6
    assert shard.put(b"a")[0] == 7


def test_regatta_ranges_and_deletes_count_with_what_they_return(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard()
    for number in range(4):
        shard.put(b"k%d" % number, bytes(1000))
    monkeypatch.setattr(writer, "WRITE_ANSWER_BYTES_MAX", 2500)
    monkeypatch.setattr(view, "ANSWER_BYTES_MAX", 2500)

    def in_txn(*ranges: RequestOp.Range) -> type[errors.BoathouseError] | None:
        operations = [RequestOp(request_range=request) for request in ranges]
        request = regatta_pb2.TxnRequest(table=b"t", success=operations)
        writing = regatta_pb2.TxnRequest(table=b"t", success=[*operations, RequestOp()])
        body = request.SerializeToString()
        error = shard.read_as(frames.REGATTA_TXN, body).error
        assert type(shard.write(writing).error) is type(error)
        return None if error is None else type(error)

    one = RequestOp.Range(key=b"k1")
    assert in_txn(one, one) is None
    assert in_txn(one, one, one) is errors.AnswerTooLarge
    assert in_txn(*[RequestOp.Range(key=b"k1", keys_only=True)] * 3) is None
    assert in_txn(RequestOp.Range(key=b"k", range_end=b"l", limit=2)) is None
    assert in_txn(RequestOp.Range(key=b"k", range_end=b"l")) is errors.AnswerTooLarge
    assert in_txn(RequestOp.Range(key=b"k", range_end=b"l", keys_only=True)) is None
    deletes = [
        RequestOp(request_delete_range=RequestOp.DeleteRange(key=key, range_end=key + b"\0", prev_kv=True))
        for key in (b"k1", b"k2", b"k3")
    ]
    refused = shard.write(regatta_pb2.TxnRequest(table=b"t", success=deletes)).error
    assert type(refused) is errors.AnswerTooLarge
    keys_only = regatta_pb2.RangeRequest(key=b"k", range_end=b"l", keys_only=True)
    parts = list(shard.iterate(keys_only.SerializeToString()))
    assert [regatta_pb2.RangeResponse.FromString(part.body).count for part in parts] == [4]


@pytest.mark.parametrize("revision", [0, 4])
def test_keys_without_values_count_without_values(monkeypatch: pytest.MonkeyPatch, revision: int) -> None:
    shard = Shard()
    for number in range(4):
        shard.put(b"k%d" % number, bytes(1000))
    monkeypatch.setattr(writer, "WRITE_ANSWER_BYTES_MAX", 2500)
    monkeypatch.setattr(view, "ANSWER_BYTES_MAX", 2500)
    for options in (
        {},
        {"limit": 3},
        {"sort_order": 2},
        {"sort_target": 3, "limit": 2},
        {"min_mod_revision": 2},
    ):
        request = get(b"k", b"l", keys_only=True, revision=revision, **options)
        response = shard.range(b"k", b"l", keys_only=True, revision=revision, **options)[1]
        assert len(response.kvs) == options.get("limit", 3 if revision else 4)
        assert shard.write(txn(put(b"k0", bytes(1000)), request)).error is None
    single = [get(b"k1", keys_only=True, revision=revision), get(b"k1", count_only=True, revision=revision)]
    assert shard.write(txn(put(b"a"), *single * 3)).error is None
    assert (
        shard.error(get(b"k", b"l", revision=revision, sort_target=4, keys_only=True))
        is errors.AnswerTooLarge
    )


def test_a_revision_holds_a_bounded_number_of_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (transactions, writer):
        monkeypatch.setattr(module, "CHANGES_MAX", 4)
    shard = Shard()
    for number in range(5):
        shard.put(b"k%d" % number)
    before = shard.machine.checksum
    assert type(shard.write(delete(b"k", b"l")).error) is errors.TooManyOps
    assert type(shard.write(txn(*[put(b"n%d" % n) for n in range(5)])).error) is errors.TooManyOps
    assert type(shard.write(txn(put(b"n"), delete(b"k0", b"k4"))).error) is errors.TooManyOps
    assert shard.machine.checksum == before
    assert shard.range(b"\0", b"\0", count_only=True)[1].count == 5
    assert shard.write(delete(b"k0", b"k4")).error is None


def test_revision_ids_fit() -> None:
    assert (tables.REVISION_MAX + 1) << tables.SUB_BITS == 1 << 63
