"""A log in memory, held to the same contract as SQLite's (log_contract.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.raft import Compacted, Entry, LogGap, LogIndex, Membership, SnapshotMeta, Term, cut_at_size

if TYPE_CHECKING:
    from collections.abc import Sequence

NO_SNAPSHOT = SnapshotMeta(LogIndex(0), Term(0), Membership(frozenset()))


class MemoryLog:
    def __init__(self) -> None:
        self._cut = (LogIndex(0), Term(0))
        self._entries: list[Entry] = []
        self._snapshot = NO_SNAPSHOT

    # ---- LogStorage

    def first_index(self) -> LogIndex:
        return LogIndex(self._cut[0] + 1)

    def last_index(self) -> LogIndex:
        return LogIndex(self._cut[0] + len(self._entries))

    def term(self, index: LogIndex) -> Term:
        if index == self._cut[0]:
            return self._cut[1]
        self._check(index, LogIndex(index + 1))
        return self._entries[index - self.first_index()].term

    def entries(self, lo: LogIndex, hi: LogIndex, size_bytes_max: int) -> Sequence[Entry]:
        self._check(lo, hi)
        first = self.first_index()
        return cut_at_size(self._entries[lo - first : hi - first], size_bytes_max)

    def snapshot(self) -> SnapshotMeta:
        return self._snapshot

    def _check(self, lo: LogIndex, hi: LogIndex) -> None:
        if lo < self.first_index():
            raise Compacted(lo)
        if hi > self.last_index() + 1:
            raise LogGap(hi)

    # ---- writing, by whoever drives the core

    def append(self, entries: Sequence[Entry]) -> None:
        """Stored entries from the first new index on are dropped."""
        if not entries:
            return
        assert self.first_index() <= entries[0].index <= self.last_index() + 1
        del self._entries[entries[0].index - self.first_index() :]
        self._entries.extend(entries)

    def compact(self, index: LogIndex) -> None:
        """Drop everything up to and including index."""
        term = self.term(index)
        del self._entries[: index - self._cut[0]]
        self._cut = (index, term)

    def install(self, meta: SnapshotMeta) -> None:
        """A snapshot replaces the log."""
        self._entries = []
        self._cut = (meta.index, meta.term)
        self._snapshot = meta

    def set_snapshot(self, meta: SnapshotMeta) -> None:
        self._snapshot = meta

    def copy(self) -> MemoryLog:
        """An independent log with the same content, as a disk keeps it over a crash."""
        other = MemoryLog()
        other._cut, other._entries, other._snapshot = self._cut, list(self._entries), self._snapshot
        return other
