"""etcd's messages to operations and back. Bodies of answers have no header: the coordinator prepends it.

Only a transaction's inner answers carry headers, with nothing but a revision in them; the header of an inner
transaction is present and empty. Clients read both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import errors
from proto.varint import delimited, varint
from shardworker.machine.ops import (
    Compare,
    Deleted,
    DeleteRange,
    GrantLease,
    Operation,
    Order,
    Outcome,
    Put,
    PutDone,
    Range,
    Ranged,
    Relation,
    Target,
    Txn,
    TxnDone,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proto.etcd import rpc_pb2
    from shardworker.machine.leases import Lease

_SORT_TARGETS = (Target.KEY, Target.VERSION, Target.CREATE, Target.MOD, Target.VALUE)
_COMPARE_TARGETS = (
    (Target.VERSION, "version"),
    (Target.CREATE, "create_revision"),
    (Target.MOD, "mod_revision"),
    (Target.VALUE, "value"),
    (Target.LEASE, "lease"),
)
_RELATIONS = (Relation.EQUAL, Relation.GREATER, Relation.LESS, Relation.NOT_EQUAL)


_SERIALIZABLE = b"\x38\x01"


def plain_key(body: bytes) -> bytes:
    """The key of a RangeRequest that holds a key of up to 127 bytes and at most the serializable flag; else nothing.

    Most gets are just that, and looking at two bytes saves a quarter of their time."""
    if len(body) < 3 or body[0] != 0x0A:
        return b""
    size = body[1]
    rest = len(body) - 2 - size
    if size < 128 and (rest == 0 or (rest == 2 and body.endswith(_SERIALIZABLE))):
        return body[2 : 2 + size]
    return b""


def plain_put(body: bytes) -> Put | None:
    """A PutRequest that holds a key of up to 127 bytes and a value and nothing else, as most do; else None."""
    size = len(body)
    if size < 5 or body[0] != 0x0A:
        return None
    value_at = 2 + body[1]
    if body[1] > 127 or body[1] == 0 or value_at + 2 > size or body[value_at] != 0x12:
        return None
    length = body[value_at + 1]
    start = value_at + 2
    if length > 127:
        if start == size or body[start] > 127:
            return None
        length += (body[start] << 7) - 128
        start += 1
    if start + length != size:
        return None
    return Put(body[2:value_at], body[start:], 0, False)


def to_range(request: rpc_pb2.RangeRequest) -> Range:
    """Raises EmptyKey, InvalidSortOption."""
    if not request.key:
        raise errors.EmptyKey
    op = Range(request.key, request.range_end)
    op.limit = request.limit
    op.revision = request.revision
    op.keys_only = request.keys_only
    op.count_only = request.count_only
    op.min_mod, op.max_mod = request.min_mod_revision, request.max_mod_revision
    op.min_create, op.max_create = request.min_create_revision, request.max_create_revision
    order, target = int(request.sort_order), int(request.sort_target)
    if order or target:
        if not 0 <= target < len(_SORT_TARGETS):
            raise errors.InvalidSortOption
        if order in (0, 1, 2):
            op.order, op.target = Order(order), _SORT_TARGETS[target]
    return op


def to_put(request: rpc_pb2.PutRequest) -> Put:
    """Raises EmptyKey."""
    key = request.key
    if not key:
        raise errors.EmptyKey
    return Put(
        key,
        None if request.ignore_value else request.value,
        None if request.ignore_lease else request.lease,
        request.prev_kv,
    )


def to_delete_range(request: rpc_pb2.DeleteRangeRequest) -> DeleteRange:
    """Raises EmptyKey."""
    if not request.key:
        raise errors.EmptyKey
    return DeleteRange(request.key, request.range_end, request.prev_kv, None)


LEASE_TTL_S_MAX = 9_000_000_000
"""etcd's."""


def to_grant(request: rpc_pb2.LeaseGrantRequest) -> GrantLease:
    """Raises LeaseTTLTooLarge, InvalidRequest."""
    if request.TTL > LEASE_TTL_S_MAX:
        raise errors.LeaseTTLTooLarge
    if request.TTL < 1:
        raise errors.InvalidRequest("a lease lives for a second at least")
    return GrantLease(request.ID, request.TTL)


def to_txn(request: rpc_pb2.TxnRequest) -> Txn:
    """Raises EmptyKey, KeyNotFound (a RequestOp with no request set), InvalidSortOption."""
    return Txn(
        [_to_compare(compare) for compare in request.compare],
        _to_operations(request.success),
        _to_operations(request.failure),
    )


def _to_operations(requests: Iterable[rpc_pb2.RequestOp]) -> list[Operation]:
    operations: list[Operation] = []
    for request in requests:
        match request.WhichOneof("request"):
            case "request_range":
                operations.append(to_range(request.request_range))
            case "request_put":
                operations.append(to_put(request.request_put))
            case "request_delete_range":
                operations.append(to_delete_range(request.request_delete_range))
            case "request_txn":
                operations.append(to_txn(request.request_txn))
            case _:
                raise errors.KeyNotFound
    return operations


def _to_compare(request: rpc_pb2.Compare) -> Compare:
    if not request.key:
        raise errors.EmptyKey
    result, number = int(request.result), int(request.target)
    relation = _RELATIONS[result] if 0 <= result < len(_RELATIONS) else Relation.ANY
    if not 0 <= number < len(_COMPARE_TARGETS):
        return Compare(request.key, request.range_end, Target.NOTHING, relation, 0, missing_fails=False)
    target, member = _COMPARE_TARGETS[number]
    # Another member of the union than the target's reads as its default.
    operand: int | bytes = getattr(request, member)
    return Compare(request.key, request.range_end, target, relation, operand, missing_fails=False)


def range_body(done: Ranged) -> bytes:
    tail = b"\x18\x01" if done.more else b""
    if done.count:
        tail += b"\x20" + varint(done.count)
    return done.kvs + tail


def one_body(stored: bytes | None) -> bytes:
    """Of a range that is one key: its pair and a count of 1, or nothing at all."""
    return b"" if stored is None else stored + b"\x20\x01"


def put_body(done: PutDone) -> bytes:
    # A stored pair is field 2 of its message, and so is prev_kv.
    return done.prev or b""


def delete_body(done: Deleted) -> bytes:
    parts = [b"\x10" + varint(done.count)] if done.count else []
    for stored in done.prev:
        parts += (b"\x1a", stored[1:])
    return b"".join(parts)


def grant_body(lease: Lease) -> bytes:
    return b"\x10" + varint(lease.id) + b"\x18" + varint(lease.ttl_s)


def txn_body(done: TxnDone) -> bytes:
    parts = [b"\x10\x01"] if done.succeeded else []
    before: Outcome | None = None
    for outcome in done.outcomes:
        # Puts that return no pair have one outcome in common.
        if outcome is not before:
            part = delimited(b"\x1a", _response_op(outcome))
            before = outcome
        parts.append(part)
    return b"".join(parts)


def _response_op(outcome: Outcome) -> bytes:
    match outcome:
        case Ranged():
            return delimited(b"\x0a", _header(outcome.revision) + range_body(outcome))
        case PutDone():
            return delimited(b"\x12", _header(outcome.revision) + put_body(outcome))
        case Deleted():
            return delimited(b"\x1a", _header(outcome.revision) + delete_body(outcome))
        case TxnDone():
            return delimited(b"\x22", b"\x0a\x00" + txn_body(outcome))
        case _:
            raise AssertionError(f"{outcome} is no outcome of an etcd request")


def _header(revision: int) -> bytes:
    return delimited(b"\x0a", b"\x18" + varint(revision))
