"""The shape of Regatta's key-value requests.

Regatta asks whether the table exists in the middle of its checks. So each request has two functions: check_*
before the table is looked up, check_*_lengths after it was found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import errors
from proto.validation.bounds import TXN_OPERATIONS_MAX

if TYPE_CHECKING:
    from proto.regatta import mvcc_pb2, regatta_pb2

KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 2_097_152

_FILTERS = ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision")


def check_range(request: regatta_pb2.RangeRequest) -> None:
    """Range and IterateRange. Raises NegativeLimit, KeysOnlyAndCountOnly, FilterNotSupported, EmptyTable, EmptyKey."""
    if request.limit < 0:
        raise errors.NegativeLimit
    if request.keys_only and request.count_only:
        raise errors.KeysOnlyAndCountOnly
    for name in _FILTERS:
        if getattr(request, name) > 0:
            raise errors.FilterNotSupported(name)
    _check_names(request)


def check_range_lengths(request: regatta_pb2.RangeRequest) -> None:
    """Range only: IterateRange has no limits here. Raises KeyTooLong."""
    _check_key_length(request.key)
    _check_key_length(request.range_end)


def check_put(request: regatta_pb2.PutRequest) -> None:
    """Raises EmptyTable, EmptyKey."""
    _check_names(request)


def check_put_lengths(request: regatta_pb2.PutRequest | mvcc_pb2.RequestOp.Put) -> None:
    """Raises KeyTooLong, ValueTooLong."""
    _check_key_length(request.key)
    if len(request.value) > VALUE_BYTES_MAX:
        raise errors.ValueTooLong


def check_delete_range(request: regatta_pb2.DeleteRangeRequest) -> None:
    """Raises EmptyTable, EmptyKey."""
    _check_names(request)


def check_delete_range_lengths(request: regatta_pb2.DeleteRangeRequest) -> None:
    """Raises KeyTooLong. The end of the range may have any length."""
    _check_key_length(request.key)


def check_txn(request: regatta_pb2.TxnRequest) -> None:
    """Raises EmptyTable, and TooManyOps, which upstream knows only as a request that is too large."""
    if not request.table:
        raise errors.EmptyTable
    if len(request.compare) + len(request.success) + len(request.failure) > TXN_OPERATIONS_MAX:
        raise errors.TooManyOps(f"at most {TXN_OPERATIONS_MAX:,} comparisons and operations")


def check_txn_lengths(request: regatta_pb2.TxnRequest) -> None:
    """Raises EmptyKey, KeyTooLong, ValueTooLong for a put that Put itself would refuse, in either list.

    Upstream checks nothing inside a transaction. Here it must not store what no other request could reach or
    the log stream could not carry. Ranges, deletes and comparisons stay unchecked: there an odd key or a negative
    limit does no harm, and means what it means upstream."""
    for operations in (request.success, request.failure):
        for operation in operations:
            if operation.HasField("request_put"):
                if not operation.request_put.key:
                    raise errors.EmptyKey
                check_put_lengths(operation.request_put)


def is_read_only(request: regatta_pb2.TxnRequest) -> bool:
    """Whether a transaction is served as a (linearizable) read: only ranges in both lists, or nothing at all."""
    return all(
        operation.WhichOneof("request") == "request_range"
        for operations in (request.success, request.failure)
        for operation in operations
    )


def _check_names(
    request: regatta_pb2.RangeRequest | regatta_pb2.PutRequest | regatta_pb2.DeleteRangeRequest,
) -> None:
    if not request.table:
        raise errors.EmptyTable
    if not request.key:
        raise errors.EmptyKey


def _check_key_length(key: bytes) -> None:
    if len(key) > KEY_BYTES_MAX:
        raise errors.KeyTooLong
