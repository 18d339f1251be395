"""Which mistake wins: the order of the checks is part of each API."""

from __future__ import annotations

import time
from typing import Any

import pytest

from config.tuning import LimitsConfig
from proto import errors
from proto.etcd.rpc_pb2 import Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest
from proto.regatta import mvcc_pb2
from proto.regatta import regatta_pb2 as regatta_api
from proto.validation import etcd, regatta
from proto.validation.bounds import TXN_OPERATIONS_MAX

LIMITS = LimitsConfig()


def failure(check: Any, *arguments: Any) -> type[errors.BoathouseError] | None:
    try:
        check(*arguments)
    except errors.BoathouseError as error:
        return type(error)
    return None


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (PutRequest(ignore_value=True, value=b"v", ignore_lease=True, lease=1), errors.EmptyKey),
        (
            PutRequest(key=b"k", ignore_value=True, value=b"v", ignore_lease=True, lease=1),
            errors.ValueProvided,
        ),
        (PutRequest(key=b"k", ignore_value=True, ignore_lease=True, lease=1), errors.LeaseProvided),
        (PutRequest(key=b"k", ignore_value=True, ignore_lease=True), None),
        (PutRequest(key=b"k", lease=1), None),
    ],
)
def test_etcd_put(request_: PutRequest, expected: type[errors.BoathouseError] | None) -> None:
    assert failure(etcd.check_put, request_) is expected


def test_etcd_range_and_delete() -> None:
    assert failure(etcd.check_range, RangeRequest(sort_target=9)) is errors.EmptyKey  # type: ignore[arg-type]
    assert failure(etcd.check_range, RangeRequest(key=b"k", sort_target=9)) is errors.InvalidSortOption  # type: ignore[arg-type]
    assert failure(etcd.check_range, RangeRequest(key=b"k", sort_order=9)) is None  # type: ignore[arg-type]
    assert failure(etcd.check_delete_range, DeleteRangeRequest(range_end=b"a")) is errors.EmptyKey
    assert failure(etcd.check_delete_range, DeleteRangeRequest(key=b"a")) is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sort_order": RangeRequest.ASCEND}, None),
        ({"sort_target": RangeRequest.MOD}, None),
        ({"sort_order": RangeRequest.DESCEND}, errors.MethodNotServed),
        ({"sort_order": RangeRequest.ASCEND, "sort_target": RangeRequest.MOD}, errors.MethodNotServed),
        ({"sort_order": 9}, errors.InvalidSortOption),
        ({"sort_target": 9}, errors.InvalidSortOption),
        ({"min_mod_revision": 1}, errors.MethodNotServed),
        ({"max_create_revision": -1}, errors.MethodNotServed),
    ],
)
def test_what_etcd_does_not_stream(
    options: dict[str, Any], expected: type[errors.BoathouseError] | None
) -> None:
    assert failure(etcd.check_range_stream, RangeRequest(key=b"k", **options)) is expected
    assert failure(etcd.check_range_stream, RangeRequest(**options)) is errors.EmptyKey


def test_etcd_sizes_that_were_tried() -> None:
    for value_bytes, expected in ((1_572_764, None), (1_572_844, errors.RequestTooLarge)):
        size = PutRequest(key=b"k", value=bytes(value_bytes)).ByteSize()
        assert failure(etcd.check_size, size, LIMITS.request_bytes_max) is expected


def put(key: bytes) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key))


def delete(key: bytes, end: bytes = b"") -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key, range_end=end))


def nest(*success: RequestOp, otherwise: tuple[RequestOp, ...] = ()) -> RequestOp:
    return RequestOp(request_txn=TxnRequest(success=success, failure=otherwise))


@pytest.mark.parametrize(
    ("operations", "refused"),
    [
        ((put(b"a"), put(b"b")), False),
        ((put(b"a"), put(b"a")), True),
        ((put(b"a"), delete(b"a")), True),
        ((delete(b"a"), put(b"a")), True),
        ((delete(b"a"), delete(b"a")), False),
        ((delete(b"a", b"c"), put(b"b")), True),
        ((delete(b"a", b"c"), put(b"c")), False),
        ((delete(b"a", b"\0"), put(b"b")), False),
        ((delete(b"\0", b"\0"), put(b"b")), False),
        ((delete(b"c", b"a"), put(b"b")), False),
        ((delete(b"a", b"b"), delete(b"b", b"c"), delete(b"a", b"aa"), put(b"b")), True),
        ((delete(b"a", b"z"), delete(b"b", b"c"), put(b"d")), True),
        ((nest(put(b"a")), put(b"a")), True),
        ((nest(otherwise=(put(b"a"),)), put(b"a")), True),
        ((nest(put(b"a"), otherwise=(put(b"a"),)),), False),
        ((nest(put(b"a")), nest(put(b"a"))), True),
        ((nest(put(b"a")), nest(otherwise=(put(b"a"),))), True),
        ((nest(put(b"a")), delete(b"a")), True),
        ((nest(put(b"a")), nest(delete(b"a"))), False),
        ((nest(delete(b"a")), nest(put(b"a"))), True),
        ((nest(delete(b"a"), otherwise=(put(b"a"),)),), False),
        ((nest(nest(put(b"a"))), put(b"a")), True),
        ((nest(nest(put(b"a"), put(b"a"))),), True),
    ],
)
def test_etcd_duplicate_keys(operations: tuple[RequestOp, ...], refused: bool) -> None:
    expected = errors.DuplicateKey if refused else None
    assert failure(etcd.check_txn, TxnRequest(success=operations), LIMITS.txn_ops_max) is expected
    assert failure(etcd.check_txn, TxnRequest(failure=operations), LIMITS.txn_ops_max) is expected


def test_etcd_txn_counts_come_before_everything_and_duplicates_after_everything() -> None:
    same = [put(b"k")] * 129
    assert failure(etcd.check_txn, TxnRequest(success=same), LIMITS.txn_ops_max) is errors.TooManyOps
    assert (
        failure(etcd.check_txn, TxnRequest(success=[put(b"k"), put(b"k"), put(b"")]), LIMITS.txn_ops_max)
        is errors.EmptyKey
    )
    assert (
        failure(etcd.check_txn, TxnRequest(success=[put(b"k"), put(b"k"), RequestOp()]), LIMITS.txn_ops_max)
        is errors.KeyNotFound
    )
    assert failure(etcd.check_txn, TxnRequest(success=[put(b"a")] * 3), 2) is errors.TooManyOps


def test_etcd_nested_budgets() -> None:
    deep = nest(put(b"deep"))
    assert failure(etcd.check_txn, TxnRequest(success=[deep]), 2) is None
    assert failure(etcd.check_txn, TxnRequest(success=[deep]), 1) is errors.TooManyOps
    siblings = [nest(put(b"a"), put(b"b")), nest(put(b"c"), put(b"d"))]
    assert failure(etcd.check_txn, TxnRequest(success=siblings), 4) is None
    assert failure(etcd.check_txn, TxnRequest(success=siblings), 3) is errors.TooManyOps


def test_a_transaction_is_bounded_as_a_whole() -> None:
    inner = nest(*[nest(*[put(b"k%d" % number) for number in range(9)])] * 10)  # 101 with itself
    fits = TXN_OPERATIONS_MAX // 101
    assert failure(etcd.check_txn, TxnRequest(success=[inner] * fits), 10**6) is errors.DuplicateKey
    assert failure(etcd.check_txn, TxnRequest(success=[inner] * (fits + 1)), 10**6) is errors.TooManyOps
    beneath = RequestOp(request_txn=TxnRequest(compare=[Compare(key=b"k")] * (TXN_OPERATIONS_MAX - 1)))
    assert failure(etcd.check_txn, TxnRequest(failure=[beneath]), 10**6) is None
    assert failure(etcd.check_txn, TxnRequest(failure=[beneath, beneath]), 10**6) is errors.TooManyOps

    half = TXN_OPERATIONS_MAX // 2
    request = regatta_api.TxnRequest(table=b"t", success=[mvcc_pb2.RequestOp()] * half)
    request.failure.extend([mvcc_pb2.RequestOp()] * half)
    assert failure(regatta.check_txn, request) is None
    request.compare.add()
    assert failure(regatta.check_txn, request) is errors.TooManyOps


def test_etcd_duplicate_check_stays_fast_on_a_hostile_transaction() -> None:
    def both(name: str) -> tuple[RequestOp, RequestOp]:
        return put(b"p" + name.encode()), delete(b"d" + name.encode())

    wide = [
        nest(*(nest(*(op for n in range(60) for op in both(f"{a}.{b}.{n}"))) for b in range(2)))
        for a in range(60)
    ]
    request = TxnRequest(success=wide)
    started = time.process_time()
    assert failure(etcd.check_txn, request, 512) is None
    assert time.process_time() - started < 2.0


R = regatta_api.RangeRequest


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (R(limit=-1, keys_only=True, count_only=True), errors.NegativeLimit),
        (R(keys_only=True, count_only=True, min_mod_revision=1), errors.KeysOnlyAndCountOnly),
        (R(min_mod_revision=1, max_create_revision=1), errors.FilterNotSupported),
        (R(min_mod_revision=-1), errors.EmptyTable),
        (R(key=b"k"), errors.EmptyTable),
        (R(table=b"t"), errors.EmptyKey),
        (R(table=b"t", key=bytes(2000)), None),
    ],
)
def test_regatta_range(request_: R, expected: type[errors.BoathouseError] | None) -> None:
    assert failure(regatta.check_range, request_) is expected


def test_regatta_names_the_filter() -> None:
    request = R(max_mod_revision=1, min_create_revision=1)
    with pytest.raises(errors.FilterNotSupported) as caught:
        regatta.check_range(request)
    assert caught.value.detail == "max_mod_revision"


def test_regatta_lengths() -> None:
    fits, long = bytes(1024), bytes(1025)
    assert failure(regatta.check_range_lengths, R(key=fits, range_end=fits)) is None
    assert failure(regatta.check_range_lengths, R(key=long)) is errors.KeyTooLong
    assert failure(regatta.check_range_lengths, R(key=fits, range_end=long)) is errors.KeyTooLong
    P, D = regatta_api.PutRequest, regatta_api.DeleteRangeRequest
    assert failure(regatta.check_put_lengths, P(key=fits, value=bytes(2_097_152))) is None
    assert failure(regatta.check_put_lengths, P(key=fits, value=bytes(2_097_153))) is errors.ValueTooLong
    assert failure(regatta.check_put_lengths, P(key=long, value=bytes(2_097_153))) is errors.KeyTooLong
    assert failure(regatta.check_delete_range_lengths, D(key=fits, range_end=long)) is None
    assert failure(regatta.check_delete_range_lengths, D(key=long)) is errors.KeyTooLong
    for check, request in ((regatta.check_put, P()), (regatta.check_delete_range, D())):
        assert failure(check, request) is errors.EmptyTable
    assert failure(regatta.check_put, P(table=b"t")) is errors.EmptyKey
    assert failure(regatta.check_delete_range, D(table=b"t")) is errors.EmptyKey


def test_regatta_txn_refuses_puts_that_put_would_refuse() -> None:
    Op, T = mvcc_pb2.RequestOp, regatta_api.TxnRequest
    long = bytes(1025)
    assert failure(regatta.check_txn, T()) is errors.EmptyTable
    assert failure(regatta.check_txn, T(table=b"t")) is None
    harmless = [
        Op(request_range=Op.Range(key=long, limit=-1, keys_only=True, count_only=True)),
        Op(request_delete_range=Op.DeleteRange(key=long)),
        Op(),
    ]
    assert failure(regatta.check_txn_lengths, T(success=harmless, failure=harmless)) is None
    for bad, expected in (
        (Op.Put(), errors.EmptyKey),
        (Op.Put(key=long), errors.KeyTooLong),
        (Op.Put(key=b"k", value=bytes(2_097_153)), errors.ValueTooLong),
    ):
        assert failure(regatta.check_txn_lengths, T(failure=[Op(request_put=bad)])) is expected


def test_read_only_transactions() -> None:
    Op, T = mvcc_pb2.RequestOp, regatta_api.TxnRequest
    get = Op(request_range=Op.Range(key=b"k"))
    assert regatta.is_read_only(T())
    assert regatta.is_read_only(T(success=[get], failure=[get]))
    assert not regatta.is_read_only(T(success=[get, Op()])), "an empty operation makes it a write"
    assert not regatta.is_read_only(T(failure=[Op(request_put=Op.Put(key=b"k"))]))
    assert etcd.is_read_only(TxnRequest())
    assert etcd.is_serializable(TxnRequest())
    assert not etcd.is_read_only(TxnRequest(success=[nest()])), "a nested transaction goes through the log"
