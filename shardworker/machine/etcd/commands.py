"""What each method of etcd's API needs of the state machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proto.etcd import rpc_pb2
from proto.internal import frames_pb2 as frames
from shardworker.machine import weight
from shardworker.machine.etcd import codec
from shardworker.machine.handler import Handler
from shardworker.machine.ops import Compact, DeleteRange, Get, Put, Range, Txn, add_point_keys
from shardworker.machine.writer import read_txn

if TYPE_CHECKING:
    from collections.abc import Callable

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


def _range(view: View, op: Get | Range) -> bytes:
    if isinstance(op, Get):
        return codec.one_body(view.get(op.key))
    return codec.range_body(view.range(op))


def _range_is_heavy(look: Callable[[], View], op: Get | Range) -> bool:
    # A value is a megabyte or two at most.
    return not isinstance(op, Get) and weight.is_heavy(look, op)


def _put(writer: Writer, op: Put) -> bytes:
    return codec.put_body(writer.put(op))


def _delete_range(writer: Writer, op: DeleteRange) -> bytes:
    return codec.delete_body(writer.delete_range(op))


def _txn(writer: Writer, op: Txn) -> bytes:
    return codec.txn_body(writer.txn(op))


def _read_txn(view: View, op: Txn) -> bytes:
    return codec.txn_body(read_txn(view, op))


def _compact(writer: Writer, op: Compact) -> bytes:
    writer.compact(op.revision)
    return b""


def _awaits_sweep(op: Compact) -> int | None:
    return op.revision if op.physical else None


HANDLERS: dict[int, Handler[Any]] = {
    frames.ETCD_RANGE: Handler(parse=_parse_range, read=_range, is_heavy=_range_is_heavy),
    frames.ETCD_PUT: Handler(parse=_parse_put, write=_put, add_keys=add_point_keys),
    frames.ETCD_DELETE_RANGE: Handler(
        parse=_parse_delete_range, write=_delete_range, add_keys=add_point_keys
    ),
    frames.ETCD_TXN: Handler(
        parse=_parse_txn, write=_txn, read=_read_txn, is_heavy=weight.is_heavy, add_keys=add_point_keys
    ),
    frames.ETCD_COMPACT: Handler(parse=_parse_compact, write=_compact, awaits_sweep=_awaits_sweep),
}
