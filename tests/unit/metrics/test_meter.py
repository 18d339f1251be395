"""What a method's meter counts."""

from __future__ import annotations

import bisect

from hypothesis import given
from hypothesis import strategies as st

from coordinator.api.meter import NO_TABLE, OTHER_TABLES, TABLES_MAX, CallMeter
from proto.histogram import CALL_BOUNDS_S, Histogram


@given(st.lists(st.floats(0, 100)))
def test_each_duration_is_counted_in_its_range_and_nowhere_else(durations: list[float]) -> None:
    meter, histogram = CallMeter(), Histogram(CALL_BOUNDS_S)
    total_s = 0.0  # one after the other: since Python 3.12 sum() rounds less
    for seconds in durations:
        meter.ended("t", seconds)
        histogram.observe(seconds)
        total_s += seconds
    counts = [0] * (len(CALL_BOUNDS_S) + 1)
    for seconds in durations:
        counts[next((place for place, bound in enumerate(CALL_BOUNDS_S) if seconds <= bound), -1)] += 1
    assert histogram.counts == counts
    assert histogram.count == len(durations)
    assert histogram.sum_s == total_s
    if durations:
        assert (meter.by_table["t"].counts, meter.by_table["t"].sum_s) == (counts, histogram.sum_s)


def test_a_bound_belongs_to_the_range_below_it() -> None:
    histogram = Histogram(CALL_BOUNDS_S)
    histogram.observe(CALL_BOUNDS_S[3])
    assert histogram.counts.index(1) == 3
    assert list(CALL_BOUNDS_S) == sorted(CALL_BOUNDS_S)
    assert bisect.bisect(CALL_BOUNDS_S, 0.005), "one of grpc-ecosystem's"


def test_tables_beyond_the_bound_are_told_together() -> None:
    meter = CallMeter()
    for number in range(TABLES_MAX + 10):
        meter.ended(f"t{number}", 0.1)
    assert len(meter.by_table) == TABLES_MAX + 1
    assert meter.by_table[OTHER_TABLES].count == 10
    meter.ended("t3", 0.1)
    assert meter.by_table["t3"].count == 2


def test_a_table_that_is_gone_takes_nothing_off_the_totals() -> None:
    meter = CallMeter()
    for table in ("kept", "gone", NO_TABLE, "gone"):
        meter.ended(table, 0.2)
    meter.forget_all_but({"kept"})
    assert {table: histogram.count for table, histogram in meter.by_table.items()} == {
        "kept": 1,
        NO_TABLE: 1,
        OTHER_TABLES: 2,
    }
    meter.forget_all_but({"kept"})
    assert meter.by_table[OTHER_TABLES].count == 2
