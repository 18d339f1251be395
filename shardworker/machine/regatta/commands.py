"""What each method of Regatta's API needs of the state machine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2
from shardworker.machine import quota, weight
from shardworker.machine.handler import Handler
from shardworker.machine.ops import DeleteRange, Page, Put, Txn, add_point_keys
from shardworker.machine.permissions import check_operation
from shardworker.machine.regatta import codec
from shardworker.machine.regatta.pages import read_page
from shardworker.machine.transactions import read_txn, write_txn
from shardworker.machine.view import SCAN_ROWS_MIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardworker.machine.view import View
    from shardworker.machine.writer import Writer


def _parse_range(body: bytes) -> Page:
    return codec.to_page(regatta_pb2.RangeRequest.FromString(body))


def _parse_put(body: bytes) -> Put:
    return codec.to_put(regatta_pb2.PutRequest.FromString(body))


def _parse_delete_range(body: bytes) -> DeleteRange:
    return codec.to_delete_range(regatta_pb2.DeleteRangeRequest.FromString(body))


def _parse_txn(body: bytes) -> Txn:
    return codec.to_txn(regatta_pb2.TxnRequest.FromString(body))


def _range(view: View, op: Page) -> bytes:
    page = read_page(view, op)
    return codec.page_body(page, more=page.more)


def _parts(view: View, op: Page) -> Iterator[tuple[bytes, bool]]:
    """The limit counts over all parts; `more` is false only on a last part beyond which the range has no key."""
    left = op.limit
    rows_first = SCAN_ROWS_MIN
    while True:
        # Each part has its own allowance: what was sent is no longer in memory.
        page = read_page(view.anew(), op, rows_first)
        # Of large values few fit into a part; the next one is not to read many more of them than it can hold.
        rows_first = min(SCAN_ROWS_MIN, page.count + 1)
        if left > 0:
            left -= page.count
        last = not page.more or op.count_only or not op.end or (op.limit > 0 and left <= 0)
        yield codec.page_body(page, more=page.more), not last
        if last:
            return
        op = replace(op, key=page.last_key + b"\0", limit=left)


def _put(writer: Writer, op: Put) -> bytes:
    return codec.put_body(writer.put(op))


def _delete_range(writer: Writer, op: DeleteRange) -> bytes:
    return codec.delete_body(writer.delete_range(op))


def _txn(writer: Writer, op: Txn) -> bytes:
    return codec.txn_body(write_txn(writer, op))


def _read_txn(view: View, op: Txn) -> bytes:
    return codec.txn_body(read_txn(view, op))


HANDLERS: dict[int, Handler[Any]] = {
    frames.REGATTA_RANGE: Handler(
        check=check_operation, parse=_parse_range, read=_range, is_heavy=weight.is_heavy
    ),
    frames.REGATTA_ITERATE: Handler(check=check_operation, parse=_parse_range, parts=_parts),
    frames.REGATTA_PUT: Handler(
        check=check_operation, parse=_parse_put, write=_put, add_keys=add_point_keys, cost=quota.cost
    ),
    frames.REGATTA_DELETE_RANGE: Handler(
        check=check_operation, parse=_parse_delete_range, write=_delete_range, add_keys=add_point_keys
    ),
    frames.REGATTA_TXN: Handler(
        check=check_operation,
        parse=_parse_txn,
        write=_txn,
        read=_read_txn,
        is_heavy=weight.is_heavy,
        add_keys=add_point_keys,
        cost=quota.cost,
    ),
}
