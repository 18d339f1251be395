"""Which tables are to move to which shards, so that all shards have about as much to do: pure.

First by bytes: the move that evens out most is made again and again, as long as it evens out by STEP_BYTES or more.
Then by number: small tables go from where there are many to where there are few, without upsetting the bytes again. No
table moves twice, and none without need: a shard that is a little fuller than another stays as it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proto.catalog import FIRST_TABLE_ID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tools.admin.shards import ShardView

STEP_BYTES: Final = 64 << 20
"""Shards that differ by less are even."""


class NotKnown(Exception):
    """A shard does not say what it holds; the words say which."""


@dataclass(frozen=True, slots=True)
class PlacedTable:
    """A table where it is."""

    name: str
    shard: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TableMove:
    """One step of the plan."""

    table: str
    source: int
    target: int
    size_bytes: int


def placed_tables(views: Iterable[ShardView]) -> list[PlacedTable]:
    """By the word of the shards' leaders; without boathouse's own tables, which stay. Raises NotKnown."""
    found = []
    for view in views:
        if view.leader is None:
            raise NotKnown(f"shard {view.shard} has no leader that could say what it holds")
        found += [
            PlacedTable(table.name, view.shard, table.size_bytes)
            for table in view.answers[view.leader].tables
            if table.id >= FIRST_TABLE_ID
        ]
    return found


def plan_rebalance(tables: Sequence[PlacedTable], shards: Sequence[int]) -> list[TableMove]:
    """The moves, in order."""
    plan = _Plan(tables, shards)
    while move := plan.best_by_bytes():
        plan.make(move)
    while move := plan.best_by_number():
        plan.make(move)
    return plan.moves


class _Plan:
    def __init__(self, tables: Sequence[PlacedTable], shards: Sequence[int]) -> None:
        self.moves: list[TableMove] = []
        self._still = {table.name: table for table in tables}
        """Tables that have not moved yet."""
        self._bytes: Counter[int] = Counter(dict.fromkeys(shards, 0))
        self._number: Counter[int] = Counter(dict.fromkeys(shards, 0))
        for table in tables:
            self._bytes[table.shard] += table.size_bytes
            self._number[table.shard] += 1

    def make(self, move: TableMove) -> None:
        self.moves.append(move)
        del self._still[move.table]
        for counter, amount in ((self._bytes, move.size_bytes), (self._number, 1)):
            counter[move.source] -= amount
            counter[move.target] += amount

    def best_by_bytes(self) -> TableMove | None:
        """The one after which the fuller of its two shards has least more than half of both."""
        target = _least(self._bytes)
        candidates = [
            (self._relief(table, target), table.name, table)
            for table in self._still.values()
            if table.shard != target
        ]
        relief, _, table = max(candidates, default=(0, "", None), key=lambda each: (each[0], each[1]))
        return None if table is None or relief < STEP_BYTES else _move(table, target)

    def _relief(self, table: PlacedTable, target: int) -> int:
        """By how much the fuller of the two shards has less afterwards."""
        before = max(self._bytes[table.shard], self._bytes[target])
        after = max(self._bytes[table.shard] - table.size_bytes, self._bytes[target] + table.size_bytes)
        return before - after

    def best_by_number(self) -> TableMove | None:
        """The smallest table of a shard that has two tables more than another, where the bytes stay even."""
        target = _least(self._number)
        room = max(self._bytes.values(), default=0)
        for source in sorted(self._number, key=lambda shard: (-self._number[shard], shard)):
            if self._number[source] - self._number[target] < 2:
                return None
            smallest = min(
                (table for table in self._still.values() if table.shard == source),
                key=lambda table: (table.size_bytes, table.name),
                default=None,
            )
            if smallest is not None and self._bytes[target] + smallest.size_bytes < max(room, STEP_BYTES):
                return _move(smallest, target)
        return None


def _least(counts: Mapping[int, int]) -> int:
    return min(counts, key=lambda shard: (counts[shard], shard))


def _move(table: PlacedTable, target: int) -> TableMove:
    return TableMove(table.name, table.shard, target, table.size_bytes)
