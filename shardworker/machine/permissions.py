"""What each operation needs of who asks for it. Checks come in etcd's order: the first that fails is the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from shardworker.machine.ops import Compact, DeleteRange, Get, Nothing, Page, Put, Range, Txn

if TYPE_CHECKING:
    from shardworker.machine.auth import Caller
    from shardworker.machine.ops import Operation


def check_operation(caller: Caller, op: Operation | Get | Compact) -> None:
    """Raises what Caller's checks do."""
    match op:
        case Put():
            caller.check_write(op.key)
            if op.lease:
                caller.check_lease(op.lease)
            if op.prev_kv:
                caller.check_read(op.key)
        case DeleteRange():
            caller.check_write(op.key, op.end)
            if op.prev_kv:
                caller.check_read(op.key, op.end)
        case Get():
            caller.check_read(op.key)
        case Range() | Page():
            caller.check_read(op.key, op.end)
        case Txn():
            _check_txn(caller, op)
        case Compact():
            caller.check_root()
        case Nothing():
            caller.check_user()
        case _:
            assert_never(op)


def _check_txn(caller: Caller, op: Txn) -> None:
    """All of both branches, whichever is going to be taken: which one it is tells what is stored."""
    for compare in op.compares:
        caller.check_read(compare.key, compare.end)
    for inner in (*op.success, *op.failure):
        check_operation(caller, inner)
