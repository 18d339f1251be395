"""The two parts of the log as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardworker.raft import Compacted, LogGap, LogIndex, SnapshotMeta, Term
from shardworker.raft.log import LogView
from tests.unit.raft.lab import entries_of
from tests.unit.raft.memory_log import MemoryLog
from tests.unit.raft.replica import members

NO_LIMIT = 1 << 40


def view_of(stable: list[int], unstable: list[int], *, cut: int = 0) -> LogView:
    """A log whose first entries are stable, compacted up to cut."""
    storage = MemoryLog()
    storage.append(entries_of(stable))
    storage.compact(LogIndex(cut))
    view = LogView(storage, commit=LogIndex(cut), applied=LogIndex(cut))
    if unstable:
        view.append(entries_of(unstable, first=len(stable) + 1))
    return view


@pytest.mark.parametrize(("lo", "hi"), [(1, 3), (2, 6), (4, 6), (3, 4), (5, 5)])
def test_ranges_over_both_parts(lo: int, hi: int) -> None:
    view = view_of([1, 1, 2], [2, 3])
    read = view.entries(LogIndex(lo), LogIndex(hi), NO_LIMIT)
    assert [entry.index for entry in read] == list(range(lo, hi))


def test_a_cut_inside_the_stable_part_does_not_skip_to_the_unstable_one() -> None:
    view = view_of([1, 1, 1], [1, 1])
    read = view.entries(LogIndex(1), LogIndex(6), 40)
    assert [entry.index for entry in read] == [1, 2]


def test_outside() -> None:
    view = view_of([1, 1, 2], [2, 3], cut=2)
    with pytest.raises(Compacted):
        view.term(LogIndex(1))
    with pytest.raises(Compacted):
        view.entries(LogIndex(2), LogIndex(4), NO_LIMIT)
    with pytest.raises(LogGap):
        view.term(LogIndex(6))
    with pytest.raises(LogGap):
        view.entries(LogIndex(4), LogIndex(7), NO_LIMIT)
    assert [view.term(LogIndex(index)) for index in range(2, 6)] == [1, 2, 2, 3]


def test_memory_wins_over_a_conflicting_stable_suffix() -> None:
    view = view_of([1, 1, 1, 1], [])
    view.append(entries_of([2, 2], first=2))
    assert (view.last_index, view.last_term) == (3, 2)
    assert [entry.term for entry in view.entries(LogIndex(1), LogIndex(4), NO_LIMIT)] == [1, 2, 2]
    with pytest.raises(LogGap):
        view.term(LogIndex(4))


def test_a_committed_entry_cannot_be_replaced() -> None:
    view = view_of([1, 1, 1], [])
    view.commit_to(LogIndex(2))
    with pytest.raises(AssertionError):
        view.append(entries_of([2], first=2))


def test_stable_is_what_was_saved_and_not_replaced_since() -> None:
    view = view_of([], [1, 1, 1])
    saved = view.unstable[1]
    view.stable_to(saved)
    assert view.stable_index == 2
    view = view_of([], [1, 1, 1])
    saved = view.unstable[1]
    view.append(entries_of([2], first=2))
    view.stable_to(saved)
    assert view.stable_index == 0


def test_a_snapshot_stands_in_for_the_log() -> None:
    view = view_of([1, 1], [1])
    meta = SnapshotMeta(LogIndex(9), Term(4), members(1))
    view.restore(meta)
    assert (view.first_index(), view.last_index, view.term(LogIndex(9)), view.commit) == (10, 9, 4, 9)
    assert not view.committed_after_applied(view.commit, NO_LIMIT)
    with pytest.raises(Compacted):
        view.entries(LogIndex(3), LogIndex(10), NO_LIMIT)
    view.append(entries_of([4], first=10))
    assert view.term(LogIndex(10)) == 4
    view.snapshot_installed(meta)
    assert view.applied == 9


TERMS = st.lists(st.integers(1, 5), min_size=1, max_size=12).map(sorted)


@given(TERMS, TERMS, st.integers(0, 6))
def test_the_conflict_search_never_skips_an_agreeing_entry(
    ours: list[int], theirs: list[int], cut: int
) -> None:
    """Whatever the other log is, the point where the two last agree is at or below the answer; and it is the
    highest such answer: the entry after it has a later term."""
    cut = min(cut, len(ours))
    view = view_of(ours[: len(ours) // 2], ours[len(ours) // 2 :], cut=min(cut, len(ours) // 2))
    hint, term = len(theirs), theirs[-1]
    found, found_term = view.find_conflict_by_term(LogIndex(hint), Term(term))
    if found_term:
        assert found_term == ours[found - 1] <= term
    above = ours[found : min(hint, len(ours))]
    assert all(other > term for other in above)
