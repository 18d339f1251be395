"""Plans of moves: even in the end, no table twice, and none that is not needed."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tools.admin.rebalance import STEP_BYTES, PlacedTable, TableMove, plan_rebalance

MIB = 1 << 20


def after(tables: list[PlacedTable], moves: list[TableMove]) -> list[PlacedTable]:
    places = {move.table: move.target for move in moves}
    return [PlacedTable(one.name, places.get(one.name, one.shard), one.size_bytes) for one in tables]


def loads(tables: list[PlacedTable], shards: list[int]) -> Counter[int]:
    total = Counter(dict.fromkeys(shards, 0))
    for table in tables:
        total[table.shard] += table.size_bytes
    return total


def numbers(tables: list[PlacedTable], shards: list[int]) -> Counter[int]:
    return Counter({**dict.fromkeys(shards, 0), **Counter(table.shard for table in tables)})


def test_what_is_even_stays() -> None:
    assert plan_rebalance([], [1, 2]) == []
    tables = [PlacedTable("a", 1, 500 * MIB), PlacedTable("b", 2, 460 * MIB)]
    assert plan_rebalance(tables, [1, 2]) == []
    assert plan_rebalance([PlacedTable("a", 1, 500 * MIB)], [1, 2]) == [], "one table can't be divided"


def test_new_shards_are_filled() -> None:
    tables = [PlacedTable(f"t{number}", 1 + number % 2, 300 * MIB) for number in range(8)]
    moves = plan_rebalance(tables, [1, 2, 3, 4])
    assert set(loads(after(tables, moves), [1, 2, 3, 4]).values()) == {600 * MIB}
    assert len(moves) == 4


def test_many_small_tables_are_spread_by_number() -> None:
    tables = [PlacedTable(f"t{number}", 1, 10) for number in range(9)]
    moves = plan_rebalance(tables, [1, 2, 3])
    assert set(numbers(after(tables, moves), [1, 2, 3]).values()) == {3}


def test_small_tables_do_not_join_a_large_one() -> None:
    tables = [PlacedTable("large", 1, 900 * MIB), *[PlacedTable(f"t{n}", 2, MIB) for n in range(3)]]
    moves = plan_rebalance(tables, [1, 2])
    assert all(move.target != 1 or move.size_bytes < STEP_BYTES for move in moves)
    assert loads(after(tables, moves), [1, 2])[1] <= 900 * MIB


placed = st.lists(
    st.tuples(st.integers(1, 5), st.one_of(st.integers(0, 1_000), st.integers(0, 2_000 * MIB))), max_size=30
).map(lambda pairs: [PlacedTable(f"t{n}", shard, size) for n, (shard, size) in enumerate(pairs)])


@settings(max_examples=200, deadline=None)
@given(placed, st.integers(5, 8))
def test_any_plan_ends_and_makes_nothing_worse(tables: list[PlacedTable], shards_count: int) -> None:
    shards = list(range(1, shards_count + 1))
    moves = plan_rebalance(tables, shards)
    assert len({move.table for move in moves}) == len(moves)
    assert all(move.source != move.target for move in moves)
    ends = after(tables, moves)
    before_max = max(loads(tables, shards).values())
    assert max(loads(ends, shards).values()) <= max(before_max, STEP_BYTES)
    again = plan_rebalance(ends, shards)
    assert sum(move.size_bytes for move in again) <= sum(table.size_bytes for table in tables)
