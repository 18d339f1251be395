"""The Raft log as one SQLite table, behind what the core's LogStorage protocol asks.

Replication and apply almost always want the newest entries, so those stay in memory, bounded by bytes; terms
are known for the whole log, as runs (a log of a million entries has a handful of terms). SQLite is read only
for a follower that fell far behind. Memory changes only after the transaction did: `append` and `drop` stage,
`committed` and `rolled_back` settle."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import apsw

from proto.errors import Corrupt
from shardworker.raft.log import Compacted, LogGap, entry_bytes
from shardworker.raft.types import Entry, LogIndex, SnapshotMeta, Term
from shardworker.store.errors import translated
from shardworker.store.records import LogEnd, checked_entry, entry_checksum, text_is_damage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_READ_ROWS = 64
"""Rows fetched at once for a reader that is behind; between fetches the size limit is checked."""


class RaftLog:
    """The replica's log: entries first_index .. last_index, one by one, without a gap.

    Invariant: first_index - 1 is the truncation point, whose term is known."""

    def __init__(self, cache_bytes_max: int, snapshot_meta: Callable[[], SnapshotMeta]) -> None:
        """Empty until `load`."""
        self._cache_bytes_max = cache_bytes_max
        self._snapshot_meta = snapshot_meta
        self._staged: list[Entry] = []
        self._staged_drop: tuple[int, int] | None = None

    def load(self, connection: apsw.Connection, truncated_index: int, truncated_term: int) -> None:
        """Become the log of this database, whatever this object held before: the core keeps its reference.

        Reads the whole log once and checks every row. Raises Corrupt."""
        self._execute = connection.cursor().execute
        self._executemany = connection.cursor().executemany
        self._truncated_index, self._truncated_term = truncated_index, truncated_term
        self._last = self._truncated_index
        self._run_starts: list[int] = []
        self._run_terms: list[int] = []
        # Bytes of each entry from first_index on, so that compaction finds its cut without reading rows.
        self._sizes = array("I")
        self._bytes = 0
        self._cache: dict[int, Entry] = {}
        self._cache_lo = self._last + 1
        self._cache_bytes = 0
        self.rolled_back()
        with text_is_damage("a row of the log"):
            for row in self._execute("SELECT idx, term, kind, crc, data FROM log ORDER BY idx"):
                entry = checked_entry(*row)
                if entry.index != self._last + 1:
                    raise Corrupt(
                        f"the log goes from index {self._last} to {entry.index}: entries are missing"
                    )
                if entry.term < self.term(LogIndex(self._last)):
                    raise Corrupt(f"the log's term goes back at index {entry.index}")
                self._remember(entry)

    # ---- LogStorage ---------------------------------------------------------------------------------------

    def first_index(self) -> LogIndex:
        """Lowest index still in the log; last_index() + 1 when the log is empty."""
        return LogIndex(self._truncated_index + 1)

    def last_index(self) -> LogIndex:
        """Highest index in the log; the truncation point when the log is empty."""
        return LogIndex(self._last)

    def end(self) -> LogEnd:
        """The last entry; the truncation point when the log is empty."""
        return LogEnd(self.term(self.last_index()), self.last_index())

    def term(self, index: LogIndex) -> Term:
        """Term of an entry in [first_index - 1, last_index]. Raises Compacted below, LogGap above."""
        if index > self._last:
            raise LogGap(f"index {index} is past the last index {self._last}")
        if index <= self._truncated_index:
            if index == self._truncated_index:
                return Term(self._truncated_term)
            raise Compacted(f"index {index} was dropped; the log starts at {self._truncated_index + 1}")
        return Term(self._run_terms[bisect_right(self._run_starts, index) - 1])

    def entries(self, lo: LogIndex, hi: LogIndex, size_bytes_max: int) -> list[Entry]:
        """Entries in [lo, hi), cut at size_bytes_max (as entry_bytes counts) but never fewer than one.

        Raises Compacted if lo was dropped, LogGap if hi is past the last index + 1, Corrupt if a row fails
        its checksum. Why at least one: a single large entry must still replicate."""
        if lo <= self._truncated_index:
            raise Compacted(f"index {lo} was dropped; the log starts at {self._truncated_index + 1}")
        if hi > self._last + 1:
            raise LogGap(f"[{lo}, {hi}) reaches past the last index {self._last}")
        found: list[Entry] = []
        size_bytes = 0
        at = int(lo)
        cache = self._cache
        while at < hi:
            more = (
                [cache[at]]
                if at >= self._cache_lo
                else self._read(at, min(hi, self._cache_lo, at + _READ_ROWS))
            )
            for entry in more:
                size_bytes += entry_bytes(entry)
                if found and size_bytes > size_bytes_max:
                    return found
                found.append(entry)
            at += len(more)
        return found

    def snapshot(self) -> SnapshotMeta:
        """What a snapshot made now would stand for: the applied index, its term, the membership then."""
        return self._snapshot_meta()

    def _read(self, lo: int, hi: int) -> list[Entry]:
        sql = "SELECT idx, term, kind, crc, data FROM log WHERE idx >= ? AND idx < ? ORDER BY idx"
        try:
            # All rows before the first check: a statement left half read would keep its read transaction.
            with text_is_damage(f"a row of the log in [{lo}, {hi})"):
                rows: Any = self._execute(sql, (lo, hi)).fetchall()
        except apsw.Error as error:
            raise translated(error, f"reading the log in [{lo}, {hi})") from error
        found = [checked_entry(*row) for row in rows]
        if [entry.index for entry in found] != list(range(lo, hi)):
            raise Corrupt(f"the log lacks rows in [{lo}, {hi}) that it had when the replica started")
        return found

    # ---- inside a turn ------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> bool:
        """Write entries in the open transaction; a conflicting suffix goes. Returns whether there was one."""
        assert not self._staged, "one append a turn"
        first = entries[0].index
        assert self._truncated_index < first <= self._last + 1, (first, self._truncated_index, self._last)
        conflict = first <= self._last
        if conflict:
            self._execute("DELETE FROM log WHERE idx >= ?", (first,))
        rows = [(e.index, e.term, int(e.kind), _crc(e), e.data) for e in entries]
        if len(rows) == 1:
            self._execute("INSERT INTO log VALUES(?,?,?,?,?)", rows[0])
        else:
            self._executemany("INSERT INTO log VALUES(?,?,?,?,?)", rows)
        assert all(e.index == first + at for at, e in enumerate(entries)), "entries must follow one another"
        self._staged = list(entries)
        return conflict

    def drop(self, upto: LogIndex) -> Term:
        """Delete the entries up to and including `upto` in the open transaction; returns the term of
        `upto`."""
        assert self._truncated_index < upto <= self._last, (self._truncated_index, upto, self._last)
        assert not self._staged or upto < self._staged[0].index, "never drop what this turn appends"
        term = self.term(upto)
        self._execute("DELETE FROM log WHERE idx <= ?", (upto,))
        self._staged_drop = (upto, term)
        return term

    def committed(self) -> None:
        """The transaction is durable: what was staged is now the log."""
        if self._staged:
            if self._staged[0].index <= self._last:
                self._forget_from(self._staged[0].index)
            for entry in self._staged:
                self._remember(entry)
            self._staged = []
        if self._staged_drop is not None:
            self._forget_upto(*self._staged_drop)
            self._staged_drop = None

    def rolled_back(self) -> None:
        """The transaction is gone, and so is what was staged."""
        self._staged = []
        self._staged_drop = None

    # ---- memory -------------------------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        """Bytes of all entries' data."""
        return self._bytes

    def bytes_after(self, index: LogIndex) -> int:
        """Of the entries' data behind `index`; of all that there are, if that is gone."""
        return sum(self._sizes[max(0, index + 1 - self.first_index()) :])

    def surplus(self, keep_entries: int, keep_bytes: int, rows_max: int) -> int:
        """How many of the oldest entries stand between the log and a tail of both sizes; looks at
        rows_max."""
        count, size_bytes = len(self._sizes), self._bytes
        if count <= keep_entries and size_bytes <= keep_bytes:
            return 0
        dropped = 0
        for size in self._sizes[:rows_max]:
            if count - dropped <= keep_entries and size_bytes <= keep_bytes:
                break
            dropped += 1
            size_bytes -= size
        return dropped

    def _remember(self, entry: Entry) -> None:
        assert entry.index == self._last + 1
        self._last = entry.index
        if not self._run_terms or self._run_terms[-1] != entry.term:
            self._run_starts.append(entry.index)
            self._run_terms.append(entry.term)
        size = len(entry.data)
        self._sizes.append(size)
        self._bytes += size
        self._cache[entry.index] = entry
        self._cache_bytes += size + _ENTRY_OVERHEAD_BYTES
        while self._cache_bytes > self._cache_bytes_max and self._cache_lo < self._last:
            self._evict(self._cache_lo)

    def _evict(self, index: int) -> None:
        assert index == self._cache_lo
        self._cache_bytes -= len(self._cache.pop(index).data) + _ENTRY_OVERHEAD_BYTES
        self._cache_lo = index + 1

    def _forget_from(self, index: int) -> None:
        for gone in range(max(index, self._cache_lo), self._last + 1):
            self._cache_bytes -= len(self._cache.pop(gone).data) + _ENTRY_OVERHEAD_BYTES
        self._cache_lo = min(self._cache_lo, index)
        keep = index - self._truncated_index - 1
        self._bytes -= sum(self._sizes[keep:])
        del self._sizes[keep:]
        self._last = index - 1
        while self._run_starts and self._run_starts[-1] >= index:
            self._run_starts.pop()
            self._run_terms.pop()

    def _forget_upto(self, index: int, term: int) -> None:
        while self._cache_lo <= index:
            self._evict(self._cache_lo)
        count = index - self._truncated_index
        self._bytes -= sum(self._sizes[:count])
        del self._sizes[:count]
        self._truncated_index, self._truncated_term = index, term
        run = bisect_right(self._run_starts, index + 1) - 1
        if run > 0:
            del self._run_starts[:run]
            del self._run_terms[:run]


_ENTRY_OVERHEAD_BYTES = 200
"""What an Entry and its place in the cache cost beside its data; measured with sys.getsizeof, rounded up."""


def _crc(entry: Entry) -> int:
    return entry_checksum(entry.index, entry.term, entry.kind, entry.data)
