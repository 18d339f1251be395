"""Regatta's key-value rules on the same machine: pages, caps, comparisons, counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apsw
import pytest

from proto import errors
from proto.etcd import rpc_pb2
from proto.internal import frames_pb2 as frames
from proto.regatta.mvcc_pb2 import Compare, RequestOp
from proto.regatta.regatta_pb2 import (
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    TxnRequest,
    TxnResponse,
)
from shardworker.machine.pairs import keys_and_values
from shardworker.machine.regatta import pages
from tests.unit.machine.shard import TABLE, Shard

if TYPE_CHECKING:
    from pathlib import Path

    from shardworker.machine import Result

EQUAL, GREATER, LESS, NOT_EQUAL = Compare.EQUAL, Compare.GREATER, Compare.LESS, Compare.NOT_EQUAL


def put(shard: Shard, key: bytes, value: bytes = b"", *, prev_kv: bool = False) -> tuple[int, PutResponse]:
    result = shard.write(PutRequest(table=b"t", key=key, value=value, prev_kv=prev_kv))
    assert result.error is None
    return result.revision, PutResponse.FromString(result.body)


def page(shard: Shard, key: bytes, end: bytes = b"", **options: Any) -> RangeResponse:
    result = shard.read(RangeRequest(table=b"t", key=key, range_end=end, **options))
    assert result.error is None
    return RangeResponse.FromString(result.body)


def delete(shard: Shard, key: bytes, end: bytes = b"", **options: Any) -> tuple[int, DeleteRangeResponse]:
    result = shard.write(DeleteRangeRequest(table=b"t", key=key, range_end=end, **options))
    assert result.error is None
    return result.revision, DeleteRangeResponse.FromString(result.body)


def txn(shard: Shard, *success: RequestOp, compare: Any = (), failure: Any = ()) -> tuple[int, TxnResponse]:
    request = TxnRequest(table=b"t", compare=compare, success=success, failure=failure)
    result = shard.write(request)
    assert result.error is None
    return result.revision, TxnResponse.FromString(result.body)


def op_put(key: bytes, value: bytes = b"", *, prev_kv: bool = False) -> RequestOp:
    return RequestOp(request_put=RequestOp.Put(key=key, value=value, prev_kv=prev_kv))


def op_range(key: bytes, end: bytes = b"", **options: Any) -> RequestOp:
    return RequestOp(request_range=RequestOp.Range(key=key, range_end=end, **options))


def op_delete(key: bytes, end: bytes = b"", **options: bool) -> RequestOp:
    return RequestOp(request_delete_range=RequestOp.DeleteRange(key=key, range_end=end, **options))


def keys(response: Any) -> list[bytes]:
    return [kv.key for kv in response.kvs]


def stocked(*names: bytes) -> Shard:
    shard = Shard()
    for name in names:
        put(shard, name, b"v-" + name)
    return shard


def test_put_returns_the_previous_pair_only_if_asked() -> None:
    shard = Shard()
    revision, response = put(shard, b"k", b"1", prev_kv=True)
    assert (revision, response.HasField("prev_kv")) == (2, False)
    revision, response = put(shard, b"k", b"2")
    assert (revision, response.HasField("prev_kv")) == (3, False)
    _, response = put(shard, b"k", b"", prev_kv=True)
    assert (response.prev_kv.key, response.prev_kv.value) == (b"k", b"2")
    assert (response.prev_kv.create_revision, response.prev_kv.mod_revision) == (0, 0)


def test_ranges_follow_the_bytewise_rules() -> None:
    shard = stocked(b"\0", b"a", b"a\0", b"a\xff", b"b", b"\xff", b"\xff\xff")
    assert keys(page(shard, b"a")) == [b"a"]
    assert keys(page(shard, b"a", b"b")) == [b"a", b"a\0", b"a\xff"]
    assert keys(page(shard, b"b", b"\0")) == [b"b", b"\xff", b"\xff\xff"]
    assert keys(page(shard, b"\0", b"\0")) == [b"\0", b"a", b"a\0", b"a\xff", b"b", b"\xff", b"\xff\xff"]
    assert keys(page(shard, b"b", b"a")) == []
    assert keys(page(shard, b"b", b"b")) == []
    missing = page(shard, b"zz")
    assert (keys(missing), missing.count, missing.more) == ([], 0, False)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 4, 5])
def test_more_tells_the_truth_and_count_is_what_was_returned(limit: int) -> None:
    shard = stocked(b"a", b"b", b"c", b"d")
    expected = min(limit or 4, 4)
    for options in ({}, {"keys_only": True}, {"count_only": True}):
        response = page(shard, b"a", b"z", limit=limit, **options)
        assert (response.count, response.more) == (expected, expected < 4)
        assert len(response.kvs) == (0 if "count_only" in options else expected)
        if "keys_only" in options:
            assert not any(kv.value for kv in response.kvs)


def test_the_limit_is_ignored_for_a_single_key() -> None:
    shard = stocked(b"a")
    response = page(shard, b"a", limit=1)
    assert (response.count, response.more) == (1, False)
    assert page(shard, b"a", count_only=True).count == 1
    assert page(shard, b"a", keys_only=True).kvs[0].value == b""


def test_the_size_cap_cuts_where_upstream_cuts() -> None:
    shard = Shard()
    for number in range(10):
        put(shard, b"key/%d" % number, bytes(512 << 10))
    response = page(shard, b"key/", b"key0")
    assert (response.count, response.more) == (7, True)
    response = page(shard, b"key/7", b"key0")
    assert (response.count, response.more) == (3, False)
    assert page(shard, b"key/", b"key0", keys_only=True).count == 10
    assert page(shard, b"key/", b"key0", count_only=True).count == 10
    _, inside = txn(shard, op_range(b"key/", b"key0"), op_put(b"other"))
    assert (inside.responses[0].response_range.count, inside.responses[0].response_range.more) == (7, True)


def test_the_size_cap_with_small_pairs() -> None:
    shard = Shard()
    commands = [shard.command(PutRequest(key=b"test%d" % n, value=bytes(10_480))) for n in range(900)]
    shard.apply(*commands)
    response = page(shard, b"test0", b"tesu")
    assert (response.count, response.more) == (399, True)


def test_one_value_of_the_largest_size_a_page() -> None:
    shard = Shard()
    for key in (b"a", b"b"):
        put(shard, key, bytes(2 << 20))
    response = page(shard, b"a", b"z")
    assert (response.count, response.more) == (1, True)


def test_a_pair_over_the_cap_is_returned_alone_rather_than_never() -> None:
    shard = Shard()
    shard.put(b"a", bytes(5 << 20))
    shard.put(b"b", b"small")
    response = page(shard, b"a", b"z")
    assert (response.count, response.more) == (1, True)


def test_delete_counts_only_if_asked() -> None:
    shard = stocked(b"a", b"b", b"c", b"d", b"e")
    assert delete(shard, b"a") == (7, DeleteRangeResponse())
    assert delete(shard, b"b", count=True)[1].deleted == 1
    revision, response = delete(shard, b"c", b"e", prev_kv=True)
    assert (revision, response.deleted) == (9, 2)
    assert [(kv.key, kv.value) for kv in response.prev_kvs] == [(b"c", b"v-c"), (b"d", b"v-d")]
    asked: list[dict[str, Any]] = [{}, {"count": True}, {"prev_kv": True}, {"count": True, "prev_kv": True}]
    for options in asked:
        assert delete(shard, b"zz", **options) == (9, DeleteRangeResponse()), "a no-op keeps the revision"
    assert delete(shard, b"a", b"\0", count=True)[1].deleted == 1


def test_previous_pairs_are_capped_but_the_count_is_true() -> None:
    shard = Shard()
    for number in range(10):
        put(shard, b"key/%d" % number, bytes(512 << 10))
    _, response = delete(shard, b"key/", b"key0", prev_kv=True)
    assert (response.deleted, len(response.prev_kvs)) == (10, 7)
    assert page(shard, b"key/", b"key0").count == 0


@pytest.mark.parametrize(
    ("result", "value", "holds"),
    [
        (EQUAL, b"v-a", True),
        (EQUAL, b"v-", False),
        (NOT_EQUAL, b"v-", True),
        (NOT_EQUAL, b"v-a", False),
        (GREATER, b"v-", True),
        (GREATER, b"v-a", False),
        (GREATER, b"", True),
        (LESS, b"v-a\0", True),
        (LESS, b"v-a", False),
        (EQUAL, b"", False),
        (9, b"other", True),
    ],
)
def test_compare_with_a_present_key(result: int, value: bytes, holds: bool) -> None:
    shard = stocked(b"a")
    compare = Compare(key=b"a", result=result, value=value)  # type: ignore[arg-type]
    assert txn(shard, op_put(b"x"), compare=[compare])[1].succeeded is holds


@pytest.mark.parametrize("result", [EQUAL, GREATER, LESS, NOT_EQUAL, 9])
@pytest.mark.parametrize("end", [b"", b"r"])
def test_a_missing_key_fails_every_compare(result: int, end: bytes) -> None:
    shard = stocked(b"a")
    for value in (None, b"", b"x"):
        compare = Compare(key=b"q", range_end=end, result=result, value=value)  # type: ignore[arg-type]
        assert not txn(shard, op_put(b"x"), compare=[compare])[1].succeeded


def test_a_compare_without_a_value_asks_for_existence() -> None:
    shard = stocked(b"a", b"b")
    assert txn(shard, op_put(b"x"), compare=[Compare(key=b"a", result=NOT_EQUAL)])[1].succeeded
    assert txn(shard, op_put(b"x"), compare=[Compare(key=b"a", range_end=b"\0")])[1].succeeded
    empty = Compare(key=b"a", value=b"")
    assert not txn(shard, op_put(b"x"), compare=[empty])[1].succeeded, "an empty value is a value"


def test_a_range_compare_must_hold_for_every_key() -> None:
    shard = stocked(b"a", b"b", b"c")
    every = Compare(key=b"a", range_end=b"d", result=GREATER, value=b"v")
    assert txn(shard, op_put(b"x"), compare=[every])[1].succeeded
    one = Compare(key=b"a", range_end=b"d", result=GREATER, value=b"v-a")
    assert not txn(shard, op_put(b"x"), compare=[one])[1].succeeded


def test_operations_see_earlier_ones_and_share_one_revision() -> None:
    shard = Shard()
    revision, response = txn(
        shard,
        op_put(b"k", b"1"),
        op_range(b"k"),
        op_put(b"k", b"2", prev_kv=True),
        op_delete(b"k", prev_kv=True),
        op_range(b"k"),
        op_put(b"k", b"3", prev_kv=True),
    )
    assert revision == 2
    assert [r.WhichOneof("response") for r in response.responses] == [
        "response_put", "response_range", "response_put", "response_delete_range", "response_range", "response_put",
    ]  # fmt: skip
    assert response.responses[1].response_range.kvs[0].value == b"1"
    assert response.responses[2].response_put.prev_kv.value == b"1"
    assert response.responses[3].response_delete_range.prev_kvs[0].value == b"2"
    assert response.responses[4].response_range.count == 0
    assert not response.responses[5].response_put.HasField("prev_kv")
    kv = shard.range(b"k")[1].kvs[0]
    assert (kv.value, kv.create_revision, kv.version) == (b"3", 2, 1)


def test_an_empty_operation_has_no_response() -> None:
    shard = Shard()
    revision, response = txn(shard, RequestOp(), op_put(b"a"))
    assert (revision, len(response.responses)) == (2, 1)
    revision, response = txn(shard, RequestOp())
    assert (revision, response.succeeded, len(response.responses)) == (2, True, 0)


def test_odd_arguments_inside_a_transaction() -> None:
    shard = stocked(b"a", b"b")
    _, response = txn(
        shard,
        op_range(b"a", b"z", limit=-1),
        op_range(b"a", b"z", keys_only=True, count_only=True),
        op_range(b"a", keys_only=True, count_only=True),
        op_range(b"", b"\0"),
        op_range(b""),
        op_delete(b"", count=True),
    )
    found = [r.response_range for r in response.responses[:5]]
    assert [part.count for part in found] == [2, 2, 1, 2, 0]
    assert [len(part.kvs) for part in found] == [2, 2, 0, 2, 0]
    assert shard.write(TxnRequest(success=[op_put(b"")])).error.__class__ is errors.EmptyKey


def test_a_read_only_transaction_and_one_without_operations() -> None:
    shard = stocked(b"a")
    request = TxnRequest(compare=[Compare(key=b"zz")], failure=[op_range(b"a")])
    result = shard.read(request)
    response = TxnResponse.FromString(result.body)
    assert (response.succeeded, response.responses[0].response_range.count) == (False, 1)
    assert TxnResponse.FromString(shard.read(TxnRequest()).body).succeeded
    assert result.revision == 2, "reads fill the revision, which upstream leaves at 0"


def test_both_apis_see_one_table() -> None:
    shard = Shard()
    put(shard, b"r", b"regatta")
    shard.put(b"e", b"etcd")
    assert [(kv.key, kv.value) for kv in page(shard, b"\0", b"\0").kvs] == [
        (b"e", b"etcd"),
        (b"r", b"regatta"),
    ]
    kv = shard.range(b"r")[1].kvs[0]
    assert (kv.value, kv.create_revision, kv.version, kv.lease) == (b"regatta", 2, 1, 0)


# ---- iteration ----------------------------------------------------------------------------------------------------


def parts(shard: Shard, path: Path | None = None, **options: Any) -> list[tuple[Result, RangeResponse]]:
    body = RangeRequest(table=b"t", **options).SerializeToString()
    found = list(shard.iterate(body))
    return [(result, RangeResponse.FromString(result.body)) for result in found]


def test_iteration_in_parts_of_the_cap() -> None:
    shard = Shard()
    for number in range(100):
        put(shard, b"key/%02d" % number, bytes(512 << 10))
    found = parts(shard, key=b"key/", range_end=b"key0")
    assert len(found) == 15
    assert [result.more for result, _ in found] == [True] * 14 + [False]
    assert [response.more for _, response in found] == [True] * 14 + [False]
    assert [kv.key for _, response in found for kv in response.kvs] == [b"key/%02d" % n for n in range(100)]
    assert all(response.count == len(response.kvs) for _, response in found)
    found = parts(shard, key=b"key/", range_end=b"key0", limit=50)
    assert len(found) == 8
    assert sum(response.count for _, response in found) == 50


def test_iteration_of_large_values_reads_few_of_them_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard()
    for number in range(70):
        put(shard, b"key/%02d" % number, bytes(2 << 20))
    parsed: list[int] = []

    def counted(blob: bytes) -> tuple[list[bytes], list[bytes]]:
        keys, values = keys_and_values(blob)
        parsed.append(len(keys))
        return keys, values

    monkeypatch.setattr(pages, "keys_and_values", counted)
    assert len(parts(shard, key=b"key/", range_end=b"key0")) == 70
    assert sum(parsed) <= 64 + 2 * 70


def test_iteration_of_little_or_nothing_is_one_part() -> None:
    shard = stocked(b"a", b"b")
    everything: dict[str, Any] = {"key": b"a", "range_end": b"\0"}
    for options, count, more in (
        ({"key": b"x", "range_end": b"z"}, 0, False),
        ({"key": b"a"}, 1, False),
        (everything, 2, False),
        (everything | {"count_only": True}, 2, False),
        (everything | {"count_only": True, "limit": 1}, 1, True),
        (everything | {"limit": 1}, 1, True),
        (everything | {"limit": 2}, 2, False),
    ):
        found = parts(shard, **options)
        assert [(result.more, response.more, response.count) for result, response in found] == [
            (False, more, count)
        ], "nothing follows, whether or not the limit has left keys out"


def test_iteration_is_of_one_state(tmp_path: Path) -> None:
    shard = Shard(str(tmp_path / "a.db"))
    shard.connection.pragma("journal_mode", "wal")
    for number in range(10):
        put(shard, b"key/%d" % number, bytes(1 << 20))
    reader = apsw.Connection(str(tmp_path / "a.db"), apsw.SQLITE_OPEN_READONLY)
    body = RangeRequest(key=b"key/", range_end=b"key0").SerializeToString()
    iteration = shard.iterate(body, connection=reader)
    first = next(iteration)
    delete(shard, b"key/", b"key0")
    put(shard, b"key/55")
    rest = list(iteration)
    found = [kv.key for result in (first, *rest) for kv in RangeResponse.FromString(result.body).kvs]
    assert found == [b"key/%d" % n for n in range(10)]
    assert {result.revision for result in (first, *rest)} == {11}
    assert not reader.in_transaction


def test_iteration_errors_are_results() -> None:
    shard = Shard()
    for table, body, error in (
        (99, b"", errors.TableNotFound),
        (TABLE, b"\xff", errors.MalformedRequest),
        (TABLE, RangeRequest().SerializeToString(), errors.EmptyKey),
    ):
        found = list(shard.iterate(body, table))
        assert [type(result.error) for result in found] == [error]
    assert not shard.connection.in_transaction


def test_reads_are_judged_by_what_they_would_touch() -> None:
    shard = Shard()
    shard.apply(*[shard.command(rpc_pb2.PutRequest(key=b"k%03d" % n, value=b"v")) for n in range(300)])
    shard.put(b"y", bytes(600_000))
    shard.put(b"z1", bytes(2 << 20))

    def heavy_bytes(method: int, body: bytes) -> bool:
        return shard.machine.is_heavy(shard.machine.parse(method, TABLE, body))

    def heavy(request: Any) -> bool:
        method = frames.REGATTA_RANGE if isinstance(request, RangeRequest) else frames.ETCD_RANGE
        return heavy_bytes(method, request.SerializeToString())

    etcd = rpc_pb2.RangeRequest
    assert not heavy(etcd(key=b"k000"))
    assert not heavy(etcd(key=b"k00", range_end=b"k01"))
    assert not heavy(etcd(key=b"k", range_end=b"l", limit=10))
    assert not heavy(etcd(key=b"k", range_end=b"l", count_only=True))
    assert heavy(etcd(key=b"k", range_end=b"l"))
    assert heavy(etcd(key=b"k", range_end=b"\0", limit=280))
    assert heavy(etcd(key=b"z", range_end=b"\0")), "few rows, many bytes"
    assert heavy(etcd(key=b"k00", range_end=b"k01", revision=5))
    assert not heavy(RangeRequest(key=b"k", range_end=b"l", limit=10))
    assert heavy(RangeRequest(key=b"k", range_end=b"l"))
    for count, is_heavy in ((10, False), (1000, True)):
        body = TxnRequest(table=b"t", success=[op_range(b"k000")] * count).SerializeToString()
        assert heavy_bytes(frames.REGATTA_TXN, body) is is_heavy, "many operations"
        body = TxnRequest(table=b"t", compare=[Compare(key=b"k000")] * count).SerializeToString()
        assert heavy_bytes(frames.REGATTA_TXN, body) is is_heavy, "many comparisons"
    for count, is_heavy in ((1, False), (3, True)):
        body = TxnRequest(table=b"t", success=[op_range(b"y")] * count).SerializeToString()
        assert heavy_bytes(frames.REGATTA_TXN, body) is is_heavy, "large values"
        body = TxnRequest(
            table=b"t", success=[op_range(b"y")] * (count - 1), failure=[op_range(b"y")] * (count - 1)
        ).SerializeToString()
        assert heavy_bytes(frames.REGATTA_TXN, body) is is_heavy, "one branch is taken"
    for target, is_heavy in ((rpc_pb2.Compare.VALUE, True), (rpc_pb2.Compare.MOD, False)):
        compare = rpc_pb2.Compare(key=b"y", target=target)
        body = rpc_pb2.TxnRequest(compare=[compare] * 3).SerializeToString()
        assert heavy_bytes(frames.ETCD_TXN, body) is is_heavy, "large values are compared"
    assert not heavy_bytes(frames.ETCD_RANGE, b"\xff")
