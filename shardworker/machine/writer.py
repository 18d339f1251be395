"""Executing writes: puts and deletes, one command at a time, each at one new revision.

A Writer is a View that can also change its table; it lives for one log entry. What can fail for a reason in the request
is checked before the first change, so a command changes everything it asks for or nothing. The exceptions are a limit
met half way through a transaction, and a put that keeps the value or lease of a key which the transaction has just
deleted; such a transaction runs in a savepoint (`atomically`; `transactions.py` says when).

Puts and deletes of single keys go to `PendingRows`, everything else works in SQL; `execute` writes what is pending
before any statement of the latter kind.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, TypeVar
from zlib import crc32

import apsw

from proto import errors
from proto.checksums import rolled
from proto.pairs import encode_pair
from proto.varint import varint, varint_bytes
from shardworker.machine import budget, quota
from shardworker.machine.changes import Edit, Listen
from shardworker.machine.ops import (
    Deleted,
    DeleteRange,
    Put,
    PutDone,
)
from shardworker.machine.pairs import pair_bytes, parse, split
from shardworker.machine.rows import Newest, PendingRows
from shardworker.machine.statements import CHANGE_BYTES
from shardworker.machine.tables import CHANGES_MAX, SUB_BITS, TableState
from shardworker.machine.view import View, span_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shardworker.machine.auth_store import AuthStore
    from shardworker.machine.changes import Recorder
    from shardworker.machine.leases import Leases

WRITE_ANSWER_BYTES_MAX = 128 << 20
"""Of one write: it is built on every replica. Part of the replicated behaviour."""

Done = TypeVar("Done")


class Writer(View):
    """The commands of one entry on one table, inside the open transaction: begin(), the command, end() or refuse()."""

    def __init__(
        self,
        connection: apsw.Connection,
        table: TableState,
        entry: budget.EntryBudget,
        recorder: Recorder,
        leases: Leases,
        auth: AuthStore,
    ):
        super().__init__(connection, table)
        self.execute_unflushed = connection.execute
        """For statements that need not see what is pending."""
        self.execute = self._execute_after_flush  # type: ignore[assignment]
        self._rows = PendingRows(connection, table.sql)
        self._entry = entry
        self._recorder = recorder
        self.leases = leases
        """Of the shard."""
        self.auth = auth
        """Users and roles, likewise."""
        self._listen = recorder.listening(table.id)
        self._edits: list[Edit] = []
        self._replaced: list[int] = []
        self._replaced_spans: list[tuple[int, int]] = []

    def _execute_after_flush(self, statement: str, bindings: Any = ()) -> apsw.Cursor:
        if self._rows:
            self._rows.flush()
        return self.execute_unflushed(statement, bindings)

    # ---- the life of a command ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """A command begins: what it does happens at the table's next revision."""
        entry = self._entry
        self._new_revision = revision = self.table.revision + 1
        self.next_id = self._base = revision << SUB_BITS
        """Of the change that the command makes next."""
        self._ids_end = self._base + CHANGES_MAX
        self._rows_left = entry.rows_for_next
        self.answer_bytes_left = self._answer_bytes_max = min(WRITE_ANSWER_BYTES_MAX, entry.answer_bytes_left)
        self._revision_bytes = varint(revision)
        self._put_done = PutDone(revision, None)

    def end(self) -> None:
        """The command succeeded: its revision becomes the table's."""
        entry = self._entry
        if self._rows_left != entry.rows_for_next:
            entry.spend(entry.rows_for_next - self._rows_left)
        entry.answer_bytes_left -= self._answer_bytes_max - self.answer_bytes_left
        if self.next_id != self._base:
            self.table.revision = self._new_revision
            if self._listen is not None:
                self._recorder.add(self.table, self._edits)
                self._edits = []

    def refuse(self) -> None:
        """The command was refused: it must have changed nothing."""
        entry = self._entry
        entry.spend(entry.rows_for_next - self._rows_left)
        assert self.next_id == self._base, "a refused command has changed something"

    def atomically(self, run: Callable[[], Done]) -> Done:
        """Runs several operations of a command so that an error leaves nothing of them behind."""
        table = self.table
        keys, checksum, written_bytes = table.keys, table.checksum, table.written_bytes
        replaced, spans = len(self._replaced), len(self._replaced_spans)
        # By hand, because a full disk may end the whole transaction, and a `with` would then hide that error.
        self.execute("SAVEPOINT command")
        try:
            done = run()
        except errors.BoathouseError:
            self._rows.forget()
            self.execute_unflushed("ROLLBACK TO command")
            self.execute_unflushed("RELEASE command")
            table.keys, table.checksum, table.written_bytes = keys, checksum, written_bytes
            del self._replaced[replaced:], self._replaced_spans[spans:]
            self.next_id = self._base
            self._edits.clear()
            raise
        self.execute_unflushed("RELEASE command")
        return done

    def fetch(self, keys: Iterable[bytes]) -> None:
        """Looks up the newest changes of these keys together: the entry's commands will ask for them."""
        self._rows.fetch(keys)

    def flush(self) -> None:
        """Writes what is pending."""
        self._rows.flush()

    def finish(self) -> None:
        """The entry's last command has ended: writes what is pending."""
        self._rows.flush()
        table, sql = self.table, self.sql
        if self._replaced:
            ids = self._replaced
            table.written_bytes -= self.execute_unflushed(
                sql.removed_bytes, (apsw.carray(array("q", ids)),)
            ).get
            self.connection.executemany(sql.delete_change, [(id_,) for id_ in ids])
        for span in self._replaced_spans:
            table.written_bytes -= self.execute_unflushed(sql.replaced_bytes, span).get
            self.execute_unflushed(sql.delete_replaced, span)
        quota.note_changed(table, self.leases, self.auth)

    @property
    def changes(self) -> int:
        """How many the command has made so far."""
        return self.next_id - self._base

    @property
    def revision(self) -> int:
        return self._new_revision if self.next_id != self._base else self.table.revision

    # ---- budgets -----------------------------------------------------------------------------------------------

    def visit(self, rows: int, size_bytes: int = 0) -> None:
        """Raises TooManyRows or ShardBusy when the command's budget is used up."""
        self._rows_left -= max(rows, size_bytes // budget.BYTES_PER_ROW)
        if self._rows_left < 0:
            raise budget.too_much(self._entry.rows_for_next)

    def visit_operations(self, count: int) -> None:
        """As visit(), before a transaction of so many comparisons and operations."""
        if self._entry.counts_keys:
            self.visit(budget.OPERATION_ROWS * count)

    def visit_pair(self, size_bytes: int) -> None:
        """As visit()."""
        if self._entry.counts_keys:
            self.visit(0, size_bytes)

    def count(self, key: bytes, end: bytes, enough: int = -1) -> int:
        affordable = (self._rows_left + 1) * budget.COUNTED_PER_ROW
        total = super().count(key, end, affordable if enough < 0 else min(enough, affordable))
        self.visit(total // budget.COUNTED_PER_ROW)
        return total

    # ---- puts and deletes ----------------------------------------------------------------------------------

    def put(self, op: Put) -> PutDone:
        """A put outside a transaction: LeaseNotFound goes before KeyNotFound."""
        if op.lease:
            self.check_lease(op.lease)
        return self.put_unchecked(op)

    def check_lease(self, lease_id: int) -> None:
        """Raises LeaseNotFound if there is none of this id, or it has ended."""
        if self.leases.get(self.table.id, lease_id) is None:
            raise errors.LeaseNotFound

    def put_unchecked(self, op: Put) -> PutDone:
        """A put whose lease, if it names one, is there. Raises KeyNotFound if it is to keep what is not there."""
        table, rows, key, value, lease = self.table, self._rows, op.key, op.value, op.lease
        before = rows.newest(key)
        prev_id, create_revision, version, held_lease = before
        if version == 0 and (value is None or lease is None):
            raise errors.KeyNotFound
        held: bytes | None = None
        if value is None:
            assert prev_id is not None
            held = rows.stored(prev_id)
            self.visit_pair(budget.KEPT_BYTES * len(held))
            value = parse(held)[0].value
        id_ = self.take_id()
        revision = self._new_revision
        if version == 0:
            create_revision = revision
            table.keys += 1
        else:
            assert prev_id is not None
            if held is None and (op.prev_kv or self._listen is Listen.WITH_PREVIOUS):
                held = rows.stored(prev_id)
            if lease is None:
                lease = held_lease
        version += 1
        assert lease is not None
        modified = self._revision_bytes
        created = modified if create_revision == revision else varint(create_revision)
        stored = encode_pair(key, created, modified, version, value, lease)
        self.store(key, before, (id_, create_revision, version, lease), stored)
        if self._listen is not None:
            self._edits.append(Edit(key, stored, held))
        if not op.prev_kv or held is None:
            return self._put_done
        self.charge(len(held))
        return PutDone(revision, held)

    def delete_range(self, op: DeleteRange) -> Deleted:
        """A key or a span; none of them need be there."""
        if op.end:
            return self._delete_span(op)
        before = self._rows.newest(op.key)
        prev_id, _, version, _ = before
        if version == 0:
            return Deleted(self.revision, 0, [])
        assert prev_id is not None
        held: bytes | None = None
        if op.prev_kv or self._listen is Listen.WITH_PREVIOUS:
            held = self._rows.stored(prev_id)
            if op.prev_kv:
                self.charge(len(held))
        self.store_deletion(op.key, before, self.take_id())
        self.table.keys -= 1
        if self._listen is not None:
            self._edits.append(Edit(op.key, None, held))
        return Deleted(self.revision, int(op.counted), [held] if op.prev_kv and held is not None else [])

    def _delete_span(self, op: DeleteRange) -> Deleted:
        """Deletes by a few statements, however many keys there are."""
        count = self.count(op.key, op.end)
        if count == 0:
            return Deleted(self.revision, 0, [])
        if self.changes + count > CHANGES_MAX:
            raise errors.TooManyOps(
                f"one revision holds at most {CHANGES_MAX} changes; delete in several requests"
            )
        self.visit(count * budget.DELETED_ROWS)
        prev = self._previous(op) if op.prev_kv else []
        bounded, span = span_of(op.key, op.end)
        first = self.next_id
        self.execute(self.sql.kill_span[bounded], (first - 1, *span))
        self.execute(self.sql.drop_live[bounded], span)
        self.bury(count)
        return Deleted(self.revision, count if op.counted else 0, prev)

    def bury(self, count: int) -> None:
        """The command's next changes, so many, are tombstones; their keys are live no longer."""
        first = self.next_id
        end = first + count
        self.execute(self.sql.bury_span, (first, end))
        self._rows.forget()
        checksum = self.table.checksum
        size_bytes = count * CHANGE_BYTES
        for id_, (key,) in enumerate(self.execute(self.sql.changed_keys, (first, end)), first):
            checksum = rolled(checksum, id_, crc32(key))
            size_bytes += len(key)
        self.table.checksum = checksum
        if self._listen is not None:
            self._note_span(first, end)
        if self.table.history == 0:
            self._replaced_spans.append((first, end))
        self.table.keys -= count
        self.table.written_bytes += size_bytes
        self.next_id = end

    def _note_span(self, first: int, end: int) -> None:
        found: Any = self.execute(self.sql.killed[self._listen is Listen.WITH_PREVIOUS], (first, end))
        self._edits.extend([Edit(key, None, held) for key, held in found])

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
                self.charge(len(stored))
                found.append(stored)
        return found

    # ---- changes -------------------------------------------------------------------------------------------

    def newest(self, key: bytes) -> Newest:
        """The newest change of a key, those of this entry included."""
        return self._rows.newest(key)

    def take_id(self) -> int:
        """The id of a change, which is made now. Raises TooManyOps if its revision has no further one."""
        id_ = self.next_id
        if id_ >= self._ids_end:
            raise errors.TooManyOps(f"one revision holds at most {CHANGES_MAX} changes")
        self.next_id = id_ + 1
        return id_

    def store(self, key: bytes, before: Newest, now: Newest, stored: bytes) -> None:
        """A change puts this pair. before: what newest() said; now: the same of this change, whose id it brings. How
        many keys there are, and who listens, is the caller's to see to."""
        table, prev_id, id_ = self.table, before[0], now[0]
        assert id_ is not None
        crc = crc32(stored)
        self._rows.put(key, before, now, stored, crc)
        if table.history == 0 and before[2] and prev_id is not None:
            self._replaced.append(prev_id)
        table.written_bytes += len(key) + len(stored) + CHANGE_BYTES
        table.checksum = rolled(table.checksum, id_, crc)

    def store_deletion(self, key: bytes, before: Newest, id_: int) -> None:
        """As store(), of a change that deletes the key."""
        table, prev_id = self.table, before[0]
        crc = crc32(key)
        self._rows.delete(key, before, id_, crc)
        if table.history == 0 and before[2] and prev_id is not None:
            self._replaced.append(prev_id)
        table.written_bytes += len(key) + CHANGE_BYTES
        table.checksum = rolled(table.checksum, id_, crc)

    def note_put(self, key: bytes, before: Newest, stored: bytes) -> None:
        """Tells who listens of a pair that was put; before: what newest() said."""
        if self._listen is not None:
            prev_id = before[0] if before[2] and self._listen is Listen.WITH_PREVIOUS else None
            self._edits.append(Edit(key, stored, None if prev_id is None else self._rows.stored(prev_id)))

    def note_unkept(self) -> None:
        """Tells who listens that more has changed than this command's revision: the table's log has it, if anything."""
        self._recorder.add_unkept(self.table)

    def give_up_rows(self) -> None:
        """All rows are about to be replaced: what the entry's commands have not written yet need not be."""
        self._rows.forget()
        self._replaced.clear()
        self._replaced_spans.clear()
