"""The interval map against a list that is scanned."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from coordinator.watch.intervals import NO_END, IntervalMap, Span

keys = st.binary(max_size=2)
spans = st.tuples(keys, st.one_of(st.just(NO_END), keys))


@given(st.lists(st.tuples(st.booleans(), spans)), st.lists(keys), st.integers(0, 1000))
def test_lookup_finds_what_a_scan_finds(
    changes: list[tuple[bool, Span]], asked: list[bytes], seed: int
) -> None:
    tree: IntervalMap[Span] = IntervalMap(Random(seed))
    held: set[Span] = set()
    for adds, span in changes:
        if adds and span not in held:
            tree.add(span, span)
            held.add(span)
        elif not adds and span in held:
            tree.remove(span)
            held.remove(span)
        for key in (*asked, span[0], span[1]):
            over = [each for each in held if each[0] <= key and (key < each[1] or each[1] == NO_END)]
            assert sorted(tree.over(key)) == sorted(over)
    assert len(tree) == len(held)


def test_spans_in_order_do_not_make_a_list_of_the_tree() -> None:
    tree: IntervalMap[int] = IntervalMap(Random(1))
    for number in range(20_000):  # as a list this would be deeper than Python recurses
        tree.add((number.to_bytes(4), NO_END), number)
    assert len(tree.over((9).to_bytes(4))) == 10
