"""What each method of etcd's API needs of the state machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proto import errors
from proto.etcd import rpc_pb2
from proto.internal import frames_pb2 as frames
from shardworker.machine import lease_ends, pieces, quota, weight
from shardworker.machine.backup.extras import read_left
from shardworker.machine.etcd import codec, hashing
from shardworker.machine.etcd.ranges import read_parts, read_range
from shardworker.machine.handler import Handler
from shardworker.machine.ops import (
    CheckpointLeases,
    Compact,
    DeleteRange,
    ExpireLeases,
    Get,
    GrantLease,
    Order,
    Put,
    Range,
    RevokeLease,
    Target,
    Txn,
    add_point_keys,
)
from shardworker.machine.permissions import check_operation
from shardworker.machine.transactions import read_txn, write_txn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shardworker.machine.auth import Caller
    from shardworker.machine.view import View
    from shardworker.machine.writer import Writer


def _parse_range(body: bytes) -> Get | Range:
    key = codec.plain_key(body)
    return Get(key) if key else codec.to_range(rpc_pb2.RangeRequest.FromString(body))


def _parse_put(body: bytes) -> Put:
    return codec.plain_put(body) or codec.to_put(rpc_pb2.PutRequest.FromString(body))


def _parse_delete_range(body: bytes) -> DeleteRange:
    return codec.to_delete_range(rpc_pb2.DeleteRangeRequest.FromString(body))


def _parse_txn(body: bytes) -> Txn:
    return codec.to_txn(rpc_pb2.TxnRequest.FromString(body))


def _parse_compact(body: bytes) -> Compact:
    request = rpc_pb2.CompactionRequest.FromString(body)
    return Compact(request.revision, request.physical)


def _parse_grant(body: bytes) -> GrantLease:
    return codec.to_grant(rpc_pb2.LeaseGrantRequest.FromString(body))


def _parse_revoke(body: bytes) -> RevokeLease:
    return RevokeLease(rpc_pb2.LeaseRevokeRequest.FromString(body).ID)


def _parse_expire(body: bytes) -> ExpireLeases:
    expired = frames.ExpiredLeases.FromString(body).leases
    return ExpireLeases([(lease.id, lease.granted_at) for lease in expired])


def _parse_checkpoint(body: bytes) -> CheckpointLeases:
    counted = frames.LeaseCheckpoints.FromString(body).leases
    return CheckpointLeases([(lease.id, lease.granted_at, lease.left_ms) for lease in counted])


def _range(view: View, op: Get | Range) -> bytes:
    if isinstance(op, Get):
        return codec.one_body(view.get(op.key))
    return codec.range_body(read_range(view, op))


def _parse_range_stream(body: bytes) -> Range:
    op = codec.to_range(rpc_pb2.RangeRequest.FromString(body))
    if (op.order, op.target) == (Order.ASCEND, Target.KEY):
        op.order = Order.NONE  # the same order, and read as it is found
    return op


def _range_parts(view: View, op: Range) -> Iterator[tuple[bytes, bool]]:
    for part, more in read_parts(view, op):
        yield codec.range_body(part), more


def _range_is_heavy(look: Callable[[], View], op: Get | Range) -> bool:
    # A value is a megabyte or two at most.
    return not isinstance(op, Get) and weight.is_heavy(look, op)


def _put(writer: Writer, op: Put) -> bytes:
    return codec.put_body(writer.put(op))


def _delete_range(writer: Writer, op: DeleteRange) -> bytes:
    return codec.delete_body(writer.delete_range(op))


def _txn(writer: Writer, op: Txn) -> bytes:
    return codec.txn_body(write_txn(writer, op))


def _read_txn(view: View, op: Txn) -> bytes:
    return codec.txn_body(read_txn(view, op))


def _compact(writer: Writer, op: Compact) -> bytes:
    """Gives up everything below the revision. Raises Compacted, FutureRevision."""
    table = writer.table
    if op.revision <= table.floor:
        raise errors.Compacted
    if op.revision > table.revision:
        raise errors.FutureRevision
    table.compacted = op.revision
    return b""


def _grant(writer: Writer, op: GrantLease) -> bytes:
    return codec.grant_body(writer.leases.grant(writer.table.id, op.id, op.ttl_s))


def _revoke(writer: Writer, op: RevokeLease) -> bytes:
    lease_ends.revoke(writer, op.id)
    return b""


def _expire(writer: Writer, op: ExpireLeases) -> bytes:
    lease_ends.expire(writer, op.leases)
    return b""


def _checkpoint(writer: Writer, op: CheckpointLeases) -> bytes:
    for lease_id, granted_at, left_ms in op.leases:
        writer.leases.checkpoint(writer.table.id, lease_id, granted_at, left_ms)
    return b""


def _check_user(caller: Caller, _op: object) -> None:
    caller.check_user()


def _check_root(caller: Caller, _op: object) -> None:
    caller.check_root()


def _check_revoke(caller: Caller, op: RevokeLease) -> None:
    caller.check_user()
    caller.check_lease(op.id)


def _awaits_sweep(op: Compact) -> int | None:
    return op.revision if op.physical else None


def _parse_alarm(body: bytes) -> quota.AlarmChange:
    change = frames.AlarmChange.FromString(body)
    if change.alarm.alarm not in rpc_pb2.AlarmType.values():
        raise errors.InvalidRequest(f"there is no alarm {change.alarm.alarm}")
    return quota.AlarmChange(change.alarm.member, change.alarm.alarm, change.activate, change.holds_table)


def _alarm(writer: Writer, op: quota.AlarmChange) -> bytes:
    response = rpc_pb2.AlarmResponse()
    if quota.change_alarm(writer.table, op):
        response.alarms.add(memberID=op.member, alarm=rpc_pb2.AlarmType.ValueType(op.alarm))
    return response.SerializeToString()


HANDLERS: dict[int, Handler[Any]] = {
    frames.ETCD_RANGE: Handler(
        check=check_operation, parse=_parse_range, read=_range, is_heavy=_range_is_heavy
    ),
    frames.ETCD_RANGE_STREAM: Handler(check=check_operation, parse=_parse_range_stream, parts=_range_parts),
    frames.ETCD_PUT: Handler(
        check=check_operation, parse=_parse_put, write=_put, add_keys=add_point_keys, cost=quota.cost
    ),
    frames.ETCD_DELETE_RANGE: Handler(
        check=check_operation, parse=_parse_delete_range, write=_delete_range, add_keys=add_point_keys
    ),
    frames.ETCD_TXN: Handler(
        check=check_operation,
        parse=_parse_txn,
        write=_txn,
        read=_read_txn,
        is_heavy=weight.is_heavy,
        add_keys=add_point_keys,
        cost=quota.cost,
    ),
    frames.ETCD_COMPACT: Handler(
        check=check_operation, parse=_parse_compact, write=_compact, awaits_sweep=_awaits_sweep
    ),
    frames.ETCD_HASH_KV: Handler(
        check=_check_root, parse=rpc_pb2.HashKVRequest.FromString, parts=hashing.hash_parts
    ),
    frames.ETCD_SNAPSHOT: Handler(check=_check_root, parse=read_left, parts=pieces.pieces),
    frames.ETCD_ALARM: Handler(
        check=_check_root, parse=_parse_alarm, write=_alarm, under_alarm=True, for_copies=True
    ),
    frames.LEASE_GRANT: Handler(
        check=_check_user, parse=_parse_grant, write=_grant, cost=lambda op: quota.LEASE_BYTES
    ),
    frames.LEASE_REVOKE: Handler(check=_check_revoke, parse=_parse_revoke, write=_revoke),
    frames.LEASE_EXPIRE: Handler(parse=_parse_expire, write=_expire, under_alarm=True),
    frames.LEASE_CHECKPOINT: Handler(parse=_parse_checkpoint, write=_checkpoint, under_alarm=True),
}
