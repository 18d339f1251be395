"""What every LogStorage must do, whatever it stores in. Subclass LogContract and say how to make one.

class TestMyLog(LogContract):
    def make(self) -> LogWriter: ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from shardworker.raft import (
    ENTRY_OVERHEAD_BYTES,
    Compacted,
    Entry,
    EntryKind,
    LogGap,
    LogIndex,
    LogStorage,
    Membership,
    NodeId,
    SnapshotMeta,
    Term,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


class LogWriter(Protocol):
    """How the suite fills a log. Each call is durable when it returns."""

    @property
    def log(self) -> LogStorage: ...

    def append(self, entries: Sequence[Entry]) -> None:
        """Stored entries from the first new index on are dropped."""
        ...

    def compact(self, index: LogIndex) -> None:
        """Drop everything up to and including index."""
        ...

    def install(self, meta: SnapshotMeta) -> None:
        """A snapshot replaces the whole log."""
        ...


def entry(index: int, term: int, data: bytes = b"data", kind: EntryKind = EntryKind.COMMANDS) -> Entry:
    return Entry(Term(term), LogIndex(index), kind, data)


NO_LIMIT = 1 << 40


class LogContract:
    """Inherit, implement `make`, and pytest runs every claim."""

    def make(self) -> LogWriter:
        raise AssertionError("a contract needs an implementation")

    @pytest.fixture
    def writer(self) -> LogWriter:
        return self.make()

    def _filled(self, writer: LogWriter) -> LogStorage:
        writer.append([entry(1, 1), entry(2, 1), entry(3, 2), entry(4, 4), entry(5, 4)])
        return writer.log

    def test_an_empty_log_starts_at_one(self, writer: LogWriter) -> None:
        assert writer.log.first_index() == 1
        assert writer.log.last_index() == 0
        assert writer.log.term(LogIndex(0)) == 0

    def test_entries_come_back_as_they_were(self, writer: LogWriter) -> None:
        stored = [
            entry(1, 1, b""),
            entry(2, 1, b"\x00\xff" * 500),
            entry(3, 9, b"change", EntryKind.MEMBERSHIP),
        ]
        writer.append(stored)
        assert list(writer.log.entries(LogIndex(1), LogIndex(4), NO_LIMIT)) == stored
        assert writer.log.entries(LogIndex(3), LogIndex(4), NO_LIMIT)[0].kind is EntryKind.MEMBERSHIP

    def test_ranges_are_half_open(self, writer: LogWriter) -> None:
        log = self._filled(writer)
        assert [e.index for e in log.entries(LogIndex(2), LogIndex(4), NO_LIMIT)] == [2, 3]

    def test_terms(self, writer: LogWriter) -> None:
        log = self._filled(writer)
        assert [log.term(LogIndex(i)) for i in range(6)] == [0, 1, 1, 2, 4, 4]

    def test_past_the_end_is_a_gap(self, writer: LogWriter) -> None:
        log = self._filled(writer)
        with pytest.raises(LogGap):
            log.term(LogIndex(6))
        with pytest.raises(LogGap):
            log.entries(LogIndex(2), LogIndex(7), NO_LIMIT)

    def test_appending_over_a_conflict_drops_what_followed(self, writer: LogWriter) -> None:
        log = self._filled(writer)
        writer.append([entry(3, 5, b"new")])
        assert log.last_index() == 3
        assert log.term(LogIndex(3)) == 5
        assert list(log.entries(LogIndex(2), LogIndex(4), NO_LIMIT)) == [entry(2, 1), entry(3, 5, b"new")]
        with pytest.raises(LogGap):
            log.term(LogIndex(4))

    def test_the_whole_log_can_be_replaced(self, writer: LogWriter) -> None:
        log = self._filled(writer)
        writer.append([entry(1, 6), entry(2, 6)])
        assert [e.term for e in log.entries(LogIndex(1), LogIndex(3), NO_LIMIT)] == [6, 6]
        assert log.last_index() == 2

    @pytest.mark.parametrize(("entries_that_fit", "extra"), [(1, 0), (2, 0), (2, 1), (3, -1), (5, 100)])
    def test_reads_are_cut_at_a_size(self, writer: LogWriter, entries_that_fit: int, extra: int) -> None:
        size = len(b"data") + ENTRY_OVERHEAD_BYTES
        log = self._filled(writer)
        read = log.entries(LogIndex(1), LogIndex(6), entries_that_fit * size + extra)
        assert len(read) == (entries_that_fit - 1 if extra < 0 else entries_that_fit)

    def test_one_entry_is_read_however_large(self, writer: LogWriter) -> None:
        log = self._filled(writer)
        assert [e.index for e in log.entries(LogIndex(3), LogIndex(6), 0)] == [3]

    def test_compaction_keeps_the_term_at_the_cut(self, writer: LogWriter) -> None:
        log = self._filled(writer)
        writer.compact(LogIndex(3))
        assert log.first_index() == 4
        assert log.last_index() == 5
        assert log.term(LogIndex(3)) == 2
        assert [e.index for e in log.entries(LogIndex(4), LogIndex(6), NO_LIMIT)] == [4, 5]

    def test_below_the_cut_is_compacted(self, writer: LogWriter) -> None:
        log = self._filled(writer)
        writer.compact(LogIndex(3))
        with pytest.raises(Compacted):
            log.term(LogIndex(2))
        with pytest.raises(Compacted):
            log.entries(LogIndex(3), LogIndex(5), NO_LIMIT)

    def test_everything_can_be_compacted(self, writer: LogWriter) -> None:
        log = self._filled(writer)
        writer.compact(LogIndex(5))
        assert (log.first_index(), log.last_index(), log.term(LogIndex(5))) == (6, 5, 4)
        writer.append([entry(6, 4)])
        assert [e.index for e in log.entries(LogIndex(6), LogIndex(7), NO_LIMIT)] == [6]

    @pytest.mark.parametrize("snapshot_index", [3, 5, 50])
    def test_a_snapshot_replaces_the_log(self, writer: LogWriter, snapshot_index: int) -> None:
        log = self._filled(writer)
        membership = Membership(frozenset({NodeId(1), NodeId(2)}), learners=frozenset({NodeId(3)}))
        writer.install(SnapshotMeta(LogIndex(snapshot_index), Term(7), membership))
        assert log.first_index() == snapshot_index + 1
        assert log.last_index() == snapshot_index
        assert log.term(LogIndex(snapshot_index)) == 7
        assert log.snapshot().index == snapshot_index
        assert log.snapshot().membership == membership
        writer.append([entry(snapshot_index + 1, 8)])
        assert log.term(LogIndex(snapshot_index + 1)) == 8
