"""The shape of etcd's key-value requests. Order and limits are those of etcd 3.5."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from proto import errors
from proto.etcd import rpc_pb2
from proto.validation.bounds import TXN_OPERATIONS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

_RAFT_ENVELOPE_BYTES = 16
"""etcd measures its log entry, which is this much longer than the request in it: a value of 1,572,764 bytes
passes, one of 1,572,844 does not."""

_SORT_TARGETS = range(5)


def check_size(body_bytes: int, bytes_max: int) -> None:
    """A write's encoded size. Raises RequestTooLarge. Comes after all other checks."""
    if body_bytes + _RAFT_ENVELOPE_BYTES > bytes_max:
        raise errors.RequestTooLarge(f"{body_bytes} bytes, at most {bytes_max}")


def check_range(request: rpc_pb2.RangeRequest) -> None:
    """Raises EmptyKey, InvalidSortOption. An unknown sort order is fine and sorts by key."""
    if not request.key:
        raise errors.EmptyKey
    if request.sort_target not in _SORT_TARGETS:
        raise errors.InvalidSortOption


def check_range_stream(request: rpc_pb2.RangeRequest) -> None:
    """Raises what check_range does, and MethodNotServed for what etcd 3.7 does not stream: an order other than that of
    the keys, and filters by revision."""
    check_range(request)
    if request.sort_order not in rpc_pb2.RangeRequest.SortOrder.values():
        raise errors.InvalidSortOption
    by_key = request.sort_target == rpc_pb2.RangeRequest.KEY
    ascending = request.sort_order == rpc_pb2.RangeRequest.ASCEND
    if request.sort_order != rpc_pb2.RangeRequest.NONE and not (by_key and ascending):
        raise errors.MethodNotServed("RangeStream does not support custom sort orders")
    if (
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    ):
        raise errors.MethodNotServed("RangeStream does not support revision filters")


def check_put(request: rpc_pb2.PutRequest) -> None:
    """Raises EmptyKey, ValueProvided, LeaseProvided."""
    if not request.key:
        raise errors.EmptyKey
    if request.ignore_value and request.value:
        raise errors.ValueProvided
    if request.ignore_lease and request.lease:
        raise errors.LeaseProvided


def check_delete_range(request: rpc_pb2.DeleteRangeRequest) -> None:
    """Raises EmptyKey."""
    if not request.key:
        raise errors.EmptyKey


def check_txn(request: rpc_pb2.TxnRequest, ops_max: int) -> None:
    """Raises TooManyOps, EmptyKey, what the operations' own checks raise, KeyNotFound for a RequestOp with nothing
    in it; then DuplicateKey for the success list, then for the failure list.

    etcd bounds each list, and not how many lists there are: a few hundred thousand operations fit in a request."""
    _check_total(request)
    _check_ops(request, ops_max)
    _changes(request.success)
    _changes(request.failure)


def _check_total(request: rpc_pb2.TxnRequest) -> None:
    """Comparisons and operations, those of nested transactions included; no more are looked at than there may be."""
    left, stack = TXN_OPERATIONS_MAX, [request]
    while stack:
        txn = stack.pop()
        left -= len(txn.compare) + len(txn.success) + len(txn.failure)
        if left < 0:
            raise errors.TooManyOps
        for operations in (txn.success, txn.failure):
            stack.extend(op.request_txn for op in operations if op.HasField("request_txn"))


def _check_ops(request: rpc_pb2.TxnRequest, ops_max: int) -> None:
    """A nested transaction may use what its parent's longest list left over; siblings do not share it."""
    longest = max(len(request.compare), len(request.success), len(request.failure))
    if longest > ops_max:
        raise errors.TooManyOps
    if not all(compare.key for compare in request.compare):
        raise errors.EmptyKey
    for operations in (request.success, request.failure):
        for operation in operations:
            _check_op(operation, ops_max - longest)


def _check_op(operation: rpc_pb2.RequestOp, ops_left: int) -> None:
    match operation.WhichOneof("request"):
        case "request_range":
            check_range(operation.request_range)
        case "request_put":
            check_put(operation.request_put)
        case "request_delete_range":
            check_delete_range(operation.request_delete_range)
        case "request_txn":
            _check_ops(operation.request_txn, ops_left)
        case _:
            raise errors.KeyNotFound


class _Spans:
    """A set of half-open key spans, kept sorted and disjoint."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, spans: Iterable[tuple[bytes, bytes]]):
        self._starts: list[bytes] = []
        self._stops: list[bytes] = []
        for start, stop in sorted(spans):
            if start >= stop:
                # Empty, and so is [key, "\0"): etcd does not see an open end here, and clients may rely on it.
                continue
            if self._stops and start <= self._stops[-1]:
                self._stops[-1] = max(self._stops[-1], stop)
            else:
                self._starts.append(start)
                self._stops.append(stop)

    def __contains__(self, key: bytes) -> bool:
        at = bisect_right(self._starts, key) - 1
        return at >= 0 and key < self._stops[at]

    def __or__(self, other: _Spans) -> _Spans:
        return _Spans(
            [*zip(self._starts, self._stops, strict=True), *zip(other._starts, other._stops, strict=True)]
        )


def _changes(operations: Iterable[rpc_pb2.RequestOp]) -> tuple[set[bytes], _Spans]:
    """The keys that a list puts and the spans that it deletes, nested lists included. Raises DuplicateKey.

    The order of the three passes is visible: this list's deletes count against puts of its nested transactions,
    a nested delete only against what comes after it, and this list's own puts against everything."""
    operations = list(operations)
    deletes = _Spans(
        (request.key, request.range_end or request.key + b"\0")
        for request in (op.request_delete_range for op in operations if op.HasField("request_delete_range"))
    )
    puts: set[bytes] = set()
    for operation in operations:
        if not operation.HasField("request_txn"):
            continue
        then_puts, then_deletes = _changes(operation.request_txn.success)
        else_puts, else_deletes = _changes(operation.request_txn.failure)
        # Only one of the two lists runs, so they may put the same key.
        for key in sorted(then_puts | else_puts):
            if key in puts or key in deletes:
                raise errors.DuplicateKey(repr(key))
        puts |= then_puts | else_puts
        deletes = deletes | then_deletes | else_deletes
    for operation in operations:
        if not operation.HasField("request_put"):
            continue
        key = operation.request_put.key
        if key in puts or key in deletes:
            raise errors.DuplicateKey(repr(key))
        puts.add(key)
    return puts, deletes


def is_read_only(request: rpc_pb2.TxnRequest) -> bool:
    """Whether a transaction is served as a read: only ranges in both lists, nested ones do not count as such."""
    return all(
        operation.WhichOneof("request") == "request_range"
        for operations in (request.success, request.failure)
        for operation in operations
    )


def is_serializable(request: rpc_pb2.TxnRequest) -> bool:
    """Whether a read-only transaction may be answered from any replica's present state."""
    return all(
        operation.request_range.serializable
        for operations in (request.success, request.failure)
        for operation in operations
    )
