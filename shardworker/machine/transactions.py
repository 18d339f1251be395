"""Transactions of both APIs, reads and writes: which branch is taken, whether it can be carried out, and doing it.

All that a request can be refused for is looked at before the first change, on the state before it. What shows only half
way, a limit or a put of a key that the transaction itself has deleted, takes the whole back: `Writer.atomically`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from proto import errors
from shardworker.machine.compares import holds
from shardworker.machine.etcd.ranges import read_unchecked
from shardworker.machine.ops import (
    DeleteRange,
    Nothing,
    Operation,
    Outcome,
    Page,
    Put,
    Range,
    Txn,
    TxnDone,
)
from shardworker.machine.regatta.pages import read_page
from shardworker.machine.tables import CHANGES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardworker.machine.view import View
    from shardworker.machine.writer import Writer

Path = tuple[bool, list[Operation], list["Path"]]
"""Which branch a transaction takes, its operations, and the paths of the transactions among them, in order."""


def read_txn(view: View, op: Txn) -> TxnDone:
    """A transaction of nothing but ranges, without the log."""
    path = _choose(view, op)
    _check_ranges(view, path)
    succeeded, operations, _ = path
    outcomes: list[Outcome] = []
    for inner in operations:
        assert isinstance(inner, Range | Page), "a transaction with writes must go through the log"
        outcomes.append(read_unchecked(view, inner) if isinstance(inner, Range) else read_page(view, inner))
    return TxnDone(view.revision, succeeded, outcomes)


def write_txn(writer: Writer, op: Txn) -> TxnDone:
    """All comparisons of the tree on the state before, then checks of the taken path, then the operations."""
    writer.visit_operations(_operations_of(op))
    path = _choose(writer, op)
    _check_puts(writer, path)
    _check_ranges(writer, path)
    if _may_fail_midway(op):
        return writer.atomically(lambda: _run(writer, path))
    return _run(writer, path)


def _operations_of(op: Txn) -> int:
    """Comparisons and operations of the whole tree: those of a branch that is not taken were read too."""
    inner = sum(_operations_of(each) for each in (*op.success, *op.failure) if isinstance(each, Txn))
    return len(op.compares) + len(op.success) + len(op.failure) + inner


def _choose(view: View, op: Txn) -> Path:
    succeeded = all(holds(view, compare) for compare in op.compares)
    operations = op.success if succeeded else op.failure
    return succeeded, operations, [_choose(view, inner) for inner in operations if isinstance(inner, Txn)]


def _taken(path: Path) -> Iterator[Operation]:
    """The operations that are carried out, in their order: those of the transactions among them in their place."""
    _, operations, nested = path
    inner = iter(nested)
    for op in operations:
        if isinstance(op, Txn):
            yield from _taken(next(inner))
        else:
            yield op


def _check_puts(writer: Writer, path: Path) -> None:
    """Raises KeyNotFound and LeaseNotFound in the order of the puts, as things stand before the first."""
    for op in _taken(path):
        if isinstance(op, Put):
            keeps = op.value is None or op.lease is None
            if keeps and writer.newest(op.key)[1] == 0:
                raise errors.KeyNotFound
            if op.lease:
                writer.check_lease(op.lease)


def _check_ranges(view: View, path: Path) -> None:
    """In a transaction any revision but 0 is checked as it is."""
    for op in _taken(path):
        if isinstance(op, Range) and op.revision:
            view.check_revision(op.revision)


def _may_fail_midway(op: Txn) -> bool:
    """Whether a transaction could fail after its first change: at a limit, or because a put finds its key deleted.

    Most cannot, and a savepoint costs a fifth of a put."""
    answers = changes = spans = 0
    keeps = False
    stack: list[Operation] = [op]
    while stack:
        inner = stack.pop()
        match inner:
            case Put():
                answers += inner.prev_kv
                keeps = keeps or inner.value is None or inner.lease is None
                changes += 1
            case Txn():
                stack.extend(inner.success)
                stack.extend(inner.failure)
            case Range() | Page():
                answers += 1
            case DeleteRange():
                answers += inner.prev_kv
                spans += bool(inner.end)
                changes += 1
            case _:
                pass
    if changes == 0:
        return False
    # A range of keys is counted, against the budget, when its turn comes, and so is a value that a put keeps.
    later = spans + keeps
    return answers > 0 or (later > 0 and changes > 1) or changes > CHANGES_MAX


def _run(writer: Writer, path: Path) -> TxnDone:
    succeeded, operations, nested = path
    inner = iter(nested)
    outcomes: list[Outcome] = []
    for op in operations:
        match op:
            case Put():
                outcomes.append(writer.put_unchecked(op))
            case DeleteRange():
                outcomes.append(writer.delete_range(op))
            case Range():
                outcomes.append(read_unchecked(writer, op))
            case Page():
                outcomes.append(read_page(writer, op))
            case Txn():
                outcomes.append(_run(writer, next(inner)))
            case Nothing():
                outcomes.append(op)
            case _:
                assert_never(op)
    return TxnDone(writer.revision, succeeded, outcomes)
