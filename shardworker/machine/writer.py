"""Executing writes: puts, deletes and transactions of one command, all at one new revision.

A Writer is a View that can also change its table. What can fail for a reason in the request is checked before the
first change, so a command changes everything it asks for or nothing. The exceptions are a size limit met half way
through a transaction, and a put that keeps the value or lease of a key which the transaction has just deleted; there
the caller wraps the command in a savepoint (`may_fail_midway` says when).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, assert_never

from proto import errors
from proto.etcd import kv_pb2
from shardworker.machine.ops import (
    Deleted,
    DeleteRange,
    Nothing,
    Operation,
    Outcome,
    Page,
    Put,
    PutDone,
    Range,
    Txn,
    TxnDone,
)
from shardworker.machine.tables import CHANGES_MAX, SUB_BITS, Table
from shardworker.machine.view import View, pair_bytes, parse, span_of
from shardworker.machine.wire import varint, varint_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw

WRITE_ANSWER_BYTES_MAX = 128 << 20
"""Of one write: its answer is also stored for repeats, on every replica. Part of the replicated behaviour."""

_UINT64_MASK = (1 << 64) - 1
_FNV_PRIME = 0x100000001B3

Path = tuple[bool, list[Operation], list["Path"]]
"""Which branch a transaction takes, its operations, and the paths of the transactions among them, in order."""


class Writer(View):
    """One command on one table, inside the open transaction."""

    def __init__(
        self,
        connection: apsw.Connection,
        table: Table,
        lease_exists: Callable[[int, int], bool],
        answer_bytes_left: int,
    ):
        """answer_bytes_left: what the entry's other commands have left of its bound."""
        super().__init__(connection, table, min(WRITE_ANSWER_BYTES_MAX, answer_bytes_left))
        self._lease_exists = lease_exists
        self._base = (table.revision + 1) << SUB_BITS
        self.changes = 0

    @property
    def revision(self) -> int:
        return self.table.revision + 1 if self.changes else self.table.revision

    def finish(self) -> None:
        """The command succeeded: its revision becomes the table's."""
        if not self.changes:
            return
        if self.table.history == 0:
            self.execute(self.sql.delete_replaced, (self._base, self._base + self.changes))
        self.table.revision += 1

    # ---- operations on their own ---------------------------------------------------------------------------

    def put(self, op: Put) -> PutDone:
        """A put outside a transaction: LeaseNotFound goes before KeyNotFound."""
        if op.lease and not self._lease_exists(self.table.id, op.lease):
            raise errors.LeaseNotFound
        return self._put(op)

    def _put(self, op: Put) -> PutDone:
        execute, table, key = self.execute, self.table, op.key
        row: Any = execute(self.sql.live, (key,)).fetchone()
        if row is None and (op.value is None or op.lease is None):
            raise errors.KeyNotFound
        id_ = self._next_id()
        revision = id_ >> SUB_BITS
        value, lease = op.value, op.lease
        prev: bytes | None = None
        if row is None:
            create_revision, version = revision, 1
            table.keys += 1
            prev_id = self._unbury(key)
        else:
            prev_id, create_revision, version, held_lease = row
            version += 1
            if lease is None:
                lease = held_lease
            if op.prev_kv or value is None:
                held = self._stored(prev_id)
                if value is None:
                    value = parse(held)[0].value
                if op.prev_kv:
                    self._charge(len(held))
                    prev = held
        assert value is not None
        assert lease is not None
        pair = kv_pb2.KeyValue(
            key=key,
            create_revision=create_revision,
            mod_revision=revision,
            version=version,
            value=value,
            lease=lease,
        ).SerializeToString()
        stored = b"\x12" + varint(len(pair)) + pair
        crc = zlib.crc32(stored)
        execute(self.sql.add_change, (id_, key, stored, prev_id, crc))
        execute(self.sql.set_live, (key, id_, create_revision, version, lease))
        self._note(id_, crc)
        return PutDone(revision, prev)

    def _stored(self, id_: int) -> bytes:
        row: Any = self.execute(self.sql.change, (id_,)).fetchone()
        stored: bytes = row[0]
        return stored

    def _unbury(self, key: bytes) -> int | None:
        """The tombstone that a key coming to life points back to, if the past may still be asked for it."""
        row: Any = self.execute(self.sql.dead, (key,)).fetchone()
        if row is None:
            return None
        self.execute(self.sql.delete_dead, (key,))
        tombstone: int = row[0]
        return tombstone

    def delete_range(self, op: DeleteRange) -> Deleted:
        if op.end:
            return self._delete_span(op)
        row: Any = self.execute(self.sql.live, (op.key,)).fetchone()
        if row is None:
            return Deleted(self.revision, 0, [])
        prev = []
        if op.prev_kv:
            stored = self._stored(row[0])
            self._charge(len(stored))
            prev.append(stored)
        id_ = self._next_id()
        crc = zlib.crc32(op.key)
        self.execute(self.sql.add_change, (id_, op.key, None, row[0], crc))
        self.execute(self.sql.delete_live, (op.key,))
        self.execute(self.sql.add_dead, (op.key, id_))
        self.table.keys -= 1
        self._note(id_, crc)
        return Deleted(self.revision, int(op.counted), prev)

    def _delete_span(self, op: DeleteRange) -> Deleted:
        """Deletes by a few statements, however many keys there are."""
        count = self.count(op.key, op.end)
        if count == 0:
            return Deleted(self.revision, 0, [])
        if self.changes + count > CHANGES_MAX:
            raise errors.TooManyOps(
                f"one revision holds at most {CHANGES_MAX} changes; delete in several requests"
            )
        prev = self._previous(op) if op.prev_kv else []
        bounded, span = span_of(op.key, op.end)
        first = self._base + self.changes
        self.execute(self.sql.kill_span[bounded], (first - 1, *span))
        self.execute(self.sql.bury_span, (first, first + count))
        self.execute(self.sql.drop_live[bounded], span)
        crc = 0
        for (key,) in self.execute(self.sql.changed_keys, (first, first + count)):
            crc = zlib.crc32(key, zlib.crc32(varint(len(key)), crc))
        self.table.keys -= count
        self.changes += count
        self._mix(first, crc)
        return Deleted(self.revision, count if op.counted else 0, prev)

    def _previous(self, op: DeleteRange) -> list[bytes]:
        found: list[bytes] = []
        taken_bytes = 0
        for _, blob in self.scan(op.key, op.end, 0):
            for stored, kv in zip(split(blob), parse(blob), strict=True):
                if op.prev_bytes_max is not None:
                    so_far = taken_bytes + (1 + varint_bytes(len(found)) if found else 0)
                    if found and so_far + len(kv.key) + len(kv.value) >= op.prev_bytes_max:
                        return found
                    taken_bytes += pair_bytes(kv.key, kv.value)
                self._charge(len(stored))
                found.append(stored)
        return found

    # ---- transactions --------------------------------------------------------------------------------------

    def txn(self, op: Txn) -> TxnDone:
        """All comparisons of the tree on the state before, then checks of the taken path, then the operations."""
        path = choose(self, op)
        self._check_puts(path)
        check_ranges(self, path)
        return self._run(path)

    def _check_puts(self, path: Path) -> None:
        _, operations, nested = path
        inner = iter(nested)
        for op in operations:
            if isinstance(op, Txn):
                self._check_puts(next(inner))
            elif isinstance(op, Put):
                keeps = op.value is None or op.lease is None
                if keeps and self.execute(self.sql.live, (op.key,)).fetchone() is None:
                    raise errors.KeyNotFound
                if op.lease and not self._lease_exists(self.table.id, op.lease):
                    raise errors.LeaseNotFound

    def _run(self, path: Path) -> TxnDone:
        succeeded, operations, nested = path
        inner = iter(nested)
        outcomes: list[Outcome] = []
        for op in operations:
            match op:
                case Put():
                    outcomes.append(self._put(op))
                case DeleteRange():
                    outcomes.append(self.delete_range(op))
                case Range():
                    outcomes.append(self.range_unchecked(op))
                case Page():
                    outcomes.append(self.page(op))
                case Txn():
                    outcomes.append(self._run(next(inner)))
                case Nothing():
                    outcomes.append(op)
                case _:
                    assert_never(op)
        return TxnDone(self.revision, succeeded, outcomes)

    # ---- changes -------------------------------------------------------------------------------------------

    def _next_id(self) -> int:
        if self.changes >= CHANGES_MAX:
            raise errors.TooManyOps(f"one revision holds at most {CHANGES_MAX} changes")
        id_ = self._base + self.changes
        return id_

    def _note(self, id_: int, crc: int) -> None:
        """Counts one change, right after it was made."""
        self.changes += 1
        self._mix(id_, crc)

    def _mix(self, id_: int, crc: int) -> None:
        """Rolls a change into the checksum: order and position matter, and it is cheap.

        The CRC sees the stored bytes, which this code wrote itself; a request's own encoding is not canonical."""
        table = self.table
        table.checksum = ((table.checksum ^ id_) * _FNV_PRIME ^ crc) * _FNV_PRIME & _UINT64_MASK


def may_fail_midway(op: Txn, table: Table) -> bool:
    """Whether a transaction could fail after its first change: at a size limit, or because a put finds its key deleted.

    Most cannot, and a savepoint costs a fifth of a put."""
    answers = changes = 0
    deletes = spans = keeps = False
    stack: list[Operation] = [op]
    while stack:
        inner = stack.pop()
        match inner:
            case Txn():
                stack.extend(inner.success)
                stack.extend(inner.failure)
            case Range() | Page():
                answers += 1
            case DeleteRange():
                answers += inner.prev_kv
                deletes = True
                spans = spans or bool(inner.end)
                changes += 1
            case Put():
                answers += inner.prev_kv
                keeps = keeps or inner.value is None or inner.lease is None
                changes += 1
            case _:
                pass
    # Spans can delete each key that is there now, and each that the transaction puts, once for each put.
    changes_max = 2 * changes + (table.keys if spans else 0)
    return (deletes and keeps) or (changes > 0 and (answers > 0 or changes_max > CHANGES_MAX))


def choose(view: View, op: Txn) -> Path:
    succeeded = all(view.holds(compare) for compare in op.compares)
    operations = op.success if succeeded else op.failure
    return succeeded, operations, [choose(view, inner) for inner in operations if isinstance(inner, Txn)]


def check_ranges(view: View, path: Path) -> None:
    """In a transaction any revision but 0 is checked as it is."""
    _, operations, nested = path
    inner = iter(nested)
    for op in operations:
        if isinstance(op, Txn):
            check_ranges(view, next(inner))
        elif isinstance(op, Range) and op.revision:
            view.check_revision(op.revision)


def read_txn(view: View, op: Txn) -> TxnDone:
    """A transaction of nothing but ranges, without the log."""
    path = choose(view, op)
    check_ranges(view, path)
    succeeded, operations, _ = path
    outcomes: list[Outcome] = []
    for inner in operations:
        assert isinstance(inner, Range | Page), "a transaction with writes must go through the log"
        outcomes.append(view.range_unchecked(inner) if isinstance(inner, Range) else view.page(inner))
    return TxnDone(view.revision, succeeded, outcomes)


def split(blob: bytes) -> list[bytes]:
    """The stored pairs that were glued together, one by one."""
    parts: list[bytes] = []
    at, size = 0, len(blob)
    while at < size:
        length, shift, pos = 0, 0, at + 1
        while True:
            byte = blob[pos]
            length |= (byte & 127) << shift
            pos += 1
            if byte < 128:
                break
            shift += 7
        parts.append(blob[at : pos + length])
        at = pos + length
    return parts
