"""Regatta's messages to operations and back. Bodies of answers have no header: the coordinator prepends it.

Pairs carry no revisions: Regatta's own servers send zeros, clients expect nothing else, and the cap on a message is
counted without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import errors
from proto.regatta import mvcc_pb2, regatta_pb2
from shardworker.machine.ops import (
    Compare,
    Deleted,
    DeleteRange,
    Nothing,
    Operation,
    Outcome,
    Page,
    Paged,
    Put,
    PutDone,
    Relation,
    Target,
    Txn,
    TxnDone,
)
from shardworker.machine.pairs import parse

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE_BYTES_MAX = 4_193_280
"""4 MiB, a gRPC client's default limit, less 1 KiB for what surrounds the pairs."""

_RELATIONS = (Relation.EQUAL, Relation.GREATER, Relation.LESS, Relation.NOT_EQUAL)


def to_page(request: regatta_pb2.RangeRequest) -> Page:
    """Raises EmptyKey."""
    if not request.key:
        raise errors.EmptyKey
    return _page(request)


def _page(request: regatta_pb2.RangeRequest | mvcc_pb2.RequestOp.Range) -> Page:
    return Page(
        request.key,
        request.range_end,
        request.limit,
        request.keys_only,
        request.count_only,
        PAGE_BYTES_MAX,
    )


def to_put(request: regatta_pb2.PutRequest | mvcc_pb2.RequestOp.Put) -> Put:
    """Raises EmptyKey."""
    if not request.key:
        raise errors.EmptyKey
    return Put(request.key, request.value, 0, request.prev_kv)


def to_delete_range(request: regatta_pb2.DeleteRangeRequest | mvcc_pb2.RequestOp.DeleteRange) -> DeleteRange:
    return DeleteRange(
        request.key,
        request.range_end,
        request.prev_kv,
        PAGE_BYTES_MAX,
        counted=request.prev_kv or request.count,
    )


def to_txn(request: regatta_pb2.TxnRequest) -> Txn:
    """Raises EmptyKey for a put; nothing else in a transaction needs one."""
    return Txn(
        [_to_compare(compare) for compare in request.compare],
        _to_operations(request.success),
        _to_operations(request.failure),
    )


def _to_operations(requests: Iterable[mvcc_pb2.RequestOp]) -> list[Operation]:
    operations: list[Operation] = []
    for request in requests:
        match request.WhichOneof("request"):
            case "request_range":
                operations.append(_page(request.request_range))
            case "request_put":
                operations.append(to_put(request.request_put))
            case "request_delete_range":
                operations.append(to_delete_range(request.request_delete_range))
            case _:
                operations.append(Nothing())
    return operations


def _to_compare(request: mvcc_pb2.Compare) -> Compare:
    result = int(request.result)
    if request.HasField("value") and not request.target and 0 <= result < len(_RELATIONS):
        return Compare(
            request.key,
            request.range_end,
            Target.VALUE,
            _RELATIONS[result],
            request.value,
            missing_fails=True,
        )
    # No value, or a number from the future: does the key exist?
    return Compare(request.key, request.range_end, Target.EXISTENCE, Relation.ANY, 0, missing_fails=True)


def page_body(done: Paged, *, more: bool) -> bytes:
    rest = regatta_pb2.RangeResponse(more=more, count=done.count).SerializeToString()
    return b"".join((*done.kvs, rest))


def put_body(done: PutDone) -> bytes:
    if done.prev is None:
        return b""
    return regatta_pb2.PutResponse(prev_kv=_pairs([done.prev])[0]).SerializeToString()


def delete_body(done: Deleted) -> bytes:
    return regatta_pb2.DeleteRangeResponse(deleted=done.count, prev_kvs=_pairs(done.prev)).SerializeToString()


def txn_body(done: TxnDone) -> bytes:
    responses = [_response_op(outcome) for outcome in done.outcomes if not isinstance(outcome, Nothing)]
    return regatta_pb2.TxnResponse(succeeded=done.succeeded, responses=responses).SerializeToString()


def _response_op(outcome: Outcome) -> mvcc_pb2.ResponseOp:
    ops = mvcc_pb2.ResponseOp
    match outcome:
        case Paged():
            kvs = regatta_pb2.RangeResponse.FromString(b"".join(outcome.kvs)).kvs
            return ops(response_range=ops.Range(kvs=kvs, more=outcome.more, count=outcome.count))
        case PutDone():
            prev_kv = None if outcome.prev is None else _pairs([outcome.prev])[0]
            return ops(response_put=ops.Put(prev_kv=prev_kv))
        case Deleted():
            return ops(
                response_delete_range=ops.DeleteRange(deleted=outcome.count, prev_kvs=_pairs(outcome.prev))
            )
        case _:
            raise AssertionError(f"{outcome} is no outcome of a Regatta request")


def _pairs(stored: list[bytes]) -> list[mvcc_pb2.KeyValue]:
    return [mvcc_pb2.KeyValue(key=kv.key, value=kv.value) for kv in parse(b"".join(stored))]
