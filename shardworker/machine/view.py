"""Reading the rows of a table, as they are now or were at a revision.

A View belongs to one connection and one request. The newest state comes from `live`, where a plain range is a
handful of statements that return rows already glued together. The past comes key by key: from a key's newest
change back along `prev` to the first one that is not too new. What the APIs make of it is theirs: `etcd/ranges.py`,
`regatta/pages.py`, and `compares.py` for both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apsw

from proto import errors
from proto.spans import OPEN_END
from shardworker.machine.tables import REVISION_MAX, SUB_BITS, TableState

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER_BYTES_MAX = 512 << 20
"""Of one read. protobuf ends at 2 GiB; a worker that builds that much in memory has long disturbed its node."""

SCAN_ROWS_MIN, SCAN_ROWS_MAX = 64, 512
"""Rows glued together by one statement. More gains nothing measurable, and bounds the memory of one step."""
SCAN_BYTES = 8 << 20
"""What one statement should return at most, going by the rows seen before."""


class View:
    """One table as one connection sees it now. `table` must be the table's counters in that same state."""

    def __init__(self, connection: apsw.Connection, table: TableState):
        self.connection = connection
        self.execute = connection.execute
        self.table = table
        self.sql = table.sql
        self.answer_bytes_left = ANSWER_BYTES_MAX

    def anew(self) -> View:
        """The same view, with all of its allowance."""
        return View(self.connection, self.table)

    @property
    def revision(self) -> int:
        """The revision that an operation at this point reports."""
        return self.table.revision

    def visit(self, rows: int, size_bytes: int = 0) -> None:
        """Called before or while rows are looked at. A read may look at as many as it likes: where it would hold others
        up, it runs beside the loop. A write may not."""

    def visit_pair(self, size_bytes: int) -> None:
        """Called when the pair of one key was loaded, for another reason than that it is part of the answer: those are
        charged."""

    def charge(self, size_bytes: int) -> None:
        """Takes bytes of an answer off the view's allowance. Raises AnswerTooLarge when that is used up."""
        self.answer_bytes_left -= size_bytes
        if self.answer_bytes_left < 0:
            raise errors.AnswerTooLarge("ask for fewer keys at a time, with a limit or a shorter range")

    def check_revision(self, revision: int) -> None:
        """Raises FutureRevision or Compacted if a range cannot read this revision."""
        if revision > self.table.revision:
            raise errors.FutureRevision
        if revision < self.table.floor:
            raise errors.Compacted

    # ---- the newest state --------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """The stored pair of a key as of now."""
        row: Any = self.execute(self.sql.get_kv, (key,)).fetchone()
        return None if row is None else row[0]

    def is_live(self, key: bytes) -> bool:
        """Whether the key exists now."""
        return self.execute(self.sql.live, (key,)).fetchone() is not None

    def count(self, key: bytes, end: bytes, enough: int = -1) -> int:
        """Live keys of the span, counted no further than to `enough`, unless that is negative."""
        bounded, span = span_of(key, end)
        row: Any = (
            self.execute(self.sql.live_count[bounded], span)
            if enough < 0
            else self.execute(self.sql.probe[bounded], (*span, enough))
        ).fetchone()
        total: int = row[0]
        return total

    def scan(
        self, key: bytes, end: bytes, limit: int, rows_first: int = SCAN_ROWS_MIN
    ) -> Iterator[tuple[int, bytes]]:
        """The span's stored pairs in key order, many glued together: (how many, bytes).

        A limit of 0 or less means none."""
        bounded, span = span_of(key, end)
        left = limit if limit > 0 else REVISION_MAX
        step = rows_first
        while left > 0:
            asked = min(step, left)
            # Where the statement ends is looked up first: to have it tell its last key took a quarter of its time.
            after: Any = self.execute(self.sql.key_after[bounded], (*span, asked)).fetchone()
            try:
                row: Any = (
                    self.execute(self.sql.scan[bounded], span)
                    if after is None
                    else self.execute(self.sql.scan[True], (span[0], after[0]))
                ).fetchone()
            except apsw.TooBigError:
                assert asked > 1, "one row is over SQLite's limit"
                step = max(1, asked // 8)
                continue
            count, blob = row
            if count == 0:
                return
            self.visit(count, len(blob))
            yield count, blob
            if after is None:
                return
            left -= count
            span = (after[0], *span[1:])
            step = max(1, min(SCAN_ROWS_MAX, step * 2, SCAN_BYTES * count // len(blob)))

    # ---- the past ----------------------------------------------------------------------------------------------

    def kv_at(self, id_: int | None, newest_id: int) -> bytes | None:
        """The stored pair of the newest change below newest_id on the way back from id_; None = absent."""
        while id_ is not None:
            self.visit(1)
            row: Any = self.execute(self.sql.change, (id_,)).fetchone()
            if row is None:
                # Only tombstones below the floor are missing while something newer still points at them.
                return None
            if row[0] is not None:
                self.visit_pair(len(row[0]))
            if id_ < newest_id:
                stored: bytes | None = row[0]
                return stored
            id_ = row[1]
        return None

    def newest_before(self, head: int | None, newest_id: int) -> int | None:
        """The id of a key's newest change below newest_id, on the way back from its newest of all; None = it had none
        that can still be told."""
        while head is not None and head >= newest_id:
            row: Any = self.execute(self.sql.change, (head,)).fetchone()
            head = None if row is None else row[1]
        return head

    def past(self, key: bytes, end: bytes, newest_id: int) -> Iterator[bytes]:
        """The stored pairs that the span held just below newest_id, in key order, one by one."""
        for head in self._heads(key, end, newest_id):
            blob = self.kv_at(head, newest_id)
            if blob is not None:
                yield blob

    def _heads(self, key: bytes, end: bytes, newest_id: int) -> Iterator[int]:
        """Ids of the newest change of each key that may have existed below newest_id, in key order."""
        if not end:
            row = (
                self.execute(self.sql.live, (key,)).fetchone()
                or self.execute(self.sql.dead, (key,)).fetchone()
            )
            if row is not None:
                yield row[0]
            return
        bounded, span = span_of(key, end)
        for _, id_ in self.execute(self.sql.heads[bounded], (*span, *span, newest_id)):
            yield id_

    def count_past(self, key: bytes, end: bytes, newest_id: int) -> int:
        """How many past() gives. Keys untouched since then are counted by SQLite, only the others are followed back."""
        if not end:
            return sum(1 for _ in self.past(key, end, newest_id))
        bounded, span = span_of(key, end)
        total = self.count(key, end)
        newer: Any = self.execute(self.sql.live_newer[bounded], (*span, newest_id))
        for (id_,) in newer:
            total -= self.kv_at(id_, newest_id) is None
        dead: Any = self.execute(self.sql.dead_span[bounded], (*span, newest_id))
        for (id_,) in dead:
            total += self.kv_at(id_, newest_id) is not None
        return total


def span_of(key: bytes, end: bytes) -> tuple[bool, tuple[bytes, ...]]:
    """Whether the span has an upper bound, and what to bind."""
    return (False, (key,)) if end == OPEN_END else (True, (key, end))


def first_id(revision: int) -> int:
    """The smallest id of a revision; revisions beyond all that can exist are clamped, not overflown."""
    return max(-1, min(revision, REVISION_MAX)) << SUB_BITS
