"""The log as the core sees it: a stable part behind LogStorage and, in memory, the tail that is not durable
yet.

    compacted | stable, in LogStorage          | unstable, in memory
    ----------+--------------------------------+---------------------
              first_index            offset - 1  offset     last_index

Invariants: applied <= commit <= last_index; offset is the first index that is not known to be durable; where
both parts hold an index, memory wins (it overwrites a conflicting stable suffix). A snapshot waiting to be
installed stands in for everything below `offset`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from shardworker.raft.types import ENTRY_OVERHEAD_BYTES, LogIndex, SnapshotMeta, Term

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardworker.raft.types import Entry


class Compacted(Exception):
    """The entry was dropped from the log; only a snapshot still covers it."""


class LogGap(Exception):
    """The entry lies past the end of the log."""


class LogStorage(Protocol):
    """The durable log, as the core reads it. Only the caller writes to it, in step 3 of a Ready.

    An empty, never compacted log has first_index 1 and last_index 0; term(0) is 0."""

    def first_index(self) -> LogIndex:
        """The first entry still there; last_index + 1 if there is none."""
        ...

    def last_index(self) -> LogIndex: ...

    def term(self, index: LogIndex) -> Term:
        """The term of the entry at index; also known for first_index - 1, where the log was cut.

        Raises Compacted below that, LogGap past last_index."""
        ...

    def entries(self, lo: LogIndex, hi: LogIndex, size_bytes_max: int) -> Sequence[Entry]:
        """Entries in [lo, hi), cut at size_bytes_max but never fewer than one.

        An entry counts its data plus ENTRY_OVERHEAD_BYTES. Raises Compacted if lo was dropped, LogGap if hi
        is past last_index + 1. Why at least one: a single large entry must still replicate."""
        ...

    def snapshot(self) -> SnapshotMeta:
        """What a snapshot made now would stand for; index 0 if none can be made yet.

        Its index is at least first_index - 1, or a lagging peer could never be brought back."""
        ...


def entry_bytes(entry: Entry) -> int:
    """What an entry counts towards every size limit."""
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


def cut_at_size(entries: Sequence[Entry], size_bytes_max: int) -> Sequence[Entry]:
    """The longest prefix within size_bytes_max, but never fewer than one entry."""
    total = 0
    for count, entry in enumerate(entries):
        total += len(entry.data) + ENTRY_OVERHEAD_BYTES
        if total > size_bytes_max and count:
            return entries[:count]
    return entries


class LogView:
    """Both parts as one log, with the commit and applied indexes."""

    __slots__ = (
        "_storage",
        "applied",
        "commit",
        "last_index",
        "last_term",
        "offset",
        "pending_snapshot",
        "unstable",
    )

    def __init__(self, storage: LogStorage, *, commit: LogIndex, applied: LogIndex) -> None:
        self._storage = storage
        self.last_index = storage.last_index()
        self.last_term = storage.term(self.last_index)
        self.offset = LogIndex(self.last_index + 1)
        self.unstable: list[Entry] = []
        self.pending_snapshot: SnapshotMeta | None = None
        self.commit = commit
        self.applied = applied
        assert applied <= commit <= self.last_index, (applied, commit, self.last_index)

    @property
    def stable_index(self) -> LogIndex:
        """The last index this replica may vouch for after a crash."""
        return LogIndex(self.offset - 1)

    def first_index(self) -> LogIndex:
        if self.pending_snapshot is not None:
            return LogIndex(self.pending_snapshot.index + 1)
        return self._storage.first_index()

    def snapshot(self) -> SnapshotMeta:
        return self.pending_snapshot or self._storage.snapshot()

    def term(self, index: LogIndex) -> Term:
        """As LogStorage.term, over both parts."""
        if index == self.last_index:
            return self.last_term
        if index >= self.offset:
            if index > self.last_index:
                raise LogGap(index)
            return self.unstable[index - self.offset].term
        if self.pending_snapshot is not None:
            if index == self.pending_snapshot.index:
                return self.pending_snapshot.term
            raise Compacted(index)
        return self._storage.term(index)

    def matches(self, index: LogIndex, term: Term) -> bool:
        """Whether this log holds an entry of that term at that index (the consistency check, paper 5.3)."""
        try:
            return self.term(index) == term
        except (Compacted, LogGap):
            return False

    def entries(self, lo: LogIndex, hi: LogIndex, size_bytes_max: int) -> Sequence[Entry]:
        """As LogStorage.entries, over both parts; empty if lo == hi."""
        if lo >= hi:
            return ()
        offset = self.offset
        if lo >= offset:
            if hi > self.last_index + 1:
                raise LogGap(hi)
            if lo == offset and hi == self.last_index + 1:
                return cut_at_size(self.unstable, size_bytes_max)
            return cut_at_size(self.unstable[lo - offset : hi - offset], size_bytes_max)
        if self.pending_snapshot is not None:
            raise Compacted(lo)
        if hi <= offset:
            return self._storage.entries(lo, hi, size_bytes_max)
        stable = self._storage.entries(lo, offset, size_bytes_max)
        if len(stable) < offset - lo:
            return stable
        return cut_at_size([*stable, *self.unstable[: hi - offset]], size_bytes_max)

    def append(self, entries: Sequence[Entry]) -> None:
        """Put entries at their indexes, dropping whatever was there and after it.

        Committed entries are never dropped (paper 5.4.3, state machine safety)."""
        first = entries[0].index
        assert self.commit < first <= self.last_index + 1, (self.commit, first, self.last_index)
        if first == self.last_index + 1:
            self.unstable.extend(entries)
        elif first <= self.offset:
            self.offset = first
            self.unstable = list(entries)
        else:
            del self.unstable[first - self.offset :]
            self.unstable.extend(entries)
        self.last_index = entries[-1].index
        self.last_term = entries[-1].term

    def first_conflict(self, entries: Sequence[Entry]) -> int:
        """Position of the first entry that this log lacks or has with another term; len(entries) if none."""
        if entries and entries[0].index > self.last_index:
            return 0
        for position, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                return position
        return len(entries)

    def commit_to(self, index: LogIndex) -> None:
        """Never backwards."""
        if index > self.commit:
            assert index <= self.last_index, (index, self.last_index)
            self.commit = index

    def is_up_to_date(self, last_index: LogIndex, last_term: Term) -> bool:
        """Whether a candidate's log is at least as complete as this one (paper 5.4.1)."""
        return last_term > self.last_term or (last_term == self.last_term and last_index >= self.last_index)

    def find_conflict_by_term(self, index: LogIndex, term: Term) -> tuple[LogIndex, Term]:
        """The highest index <= `index` whose term is <= `term`, and that term (0 if it was compacted away).

        Every entry above it is certainly not in a log whose entry at `index` has `term`, so a whole
        conflicting term is skipped in one round trip (paper 5.3, "the protocol can be optimized"). Terms
        never fall along a log: a binary search finds it."""
        low = LogIndex(self.first_index() - 1)
        high = min(index, self.last_index)
        if high < low or self.term(low) > term:
            return LogIndex(min(high, low)), Term(0)
        while low < high:
            middle = LogIndex((low + high + 1) // 2)
            if self.term(middle) <= term:
                low = middle
            else:
                high = LogIndex(middle - 1)
        return low, self.term(low)

    def committed_after_applied(self, commit: LogIndex, size_bytes_max: int) -> Sequence[Entry]:
        """The next entries to apply, up to `commit`. None while a snapshot waits: it replaces the state
        first."""
        if self.pending_snapshot is not None or commit <= self.applied:
            return ()
        return self.entries(LogIndex(self.applied + 1), LogIndex(commit + 1), size_bytes_max)

    def restore(self, meta: SnapshotMeta) -> None:
        """Forget everything in favour of a snapshot; it waits to be installed."""
        assert meta.index > self.commit
        self.unstable = []
        self.offset = LogIndex(meta.index + 1)
        self.pending_snapshot = meta
        self.last_index = self.commit = meta.index
        self.last_term = meta.term

    def snapshot_installed(self, meta: SnapshotMeta) -> None:
        if self.pending_snapshot is meta:
            self.pending_snapshot = None
        self.applied = max(self.applied, meta.index)

    def stable_to(self, last: Entry) -> None:
        """The tail up to this entry was made durable.

        If a later message replaced it meanwhile (another term there now), its successor is still unstable:
        nothing is dropped, and the next Ready overwrites what was stored."""
        count = last.index - self.offset + 1
        if 0 < count <= len(self.unstable) and self.unstable[count - 1].term == last.term:
            del self.unstable[:count]
            self.offset = LogIndex(last.index + 1)
