"""Comparisons of transactions, of both APIs, with what a table holds now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardworker.machine.ops import Compare, Relation, Target
from shardworker.machine.pairs import parse
from shardworker.machine.tables import SUB_BITS
from shardworker.machine.view import span_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardworker.machine.view import View


def holds(view: View, compare: Compare) -> bool:
    """Whether every key of the span stands in the relation, as of now."""
    found = False
    for stored in _compared(view, compare):
        found = True
        if not _relates(stored, compare):
            return False
    if found:
        return True
    if compare.missing_fails or compare.target is Target.VALUE:
        return False
    return _relates(0, compare)


def _compared(view: View, compare: Compare) -> Iterator[int | bytes]:
    if compare.target is Target.VALUE:
        if not compare.end:
            stored = view.get(compare.key)
            if stored is not None:
                view.visit_pair(len(stored))
                yield parse(stored)[0].value
            return
        for _, blob in view.scan(compare.key, compare.end, 0):
            for kv in parse(blob):
                yield kv.value
        return
    rows: Any
    if not compare.end:
        rows = view.execute(view.sql.live, (compare.key,))
    else:
        bounded, span = span_of(compare.key, compare.end)
        rows = view.execute(view.sql.live_rows[bounded], span)
    target = compare.target
    for id_, create_revision, version, lease in rows:
        view.visit(1)
        if target is Target.MOD:
            yield id_ >> SUB_BITS
        elif target is Target.CREATE:
            yield create_revision
        elif target is Target.VERSION:
            yield version
        elif target is Target.LEASE:
            yield lease
        else:
            yield 0


def _relates(stored: int | bytes, compare: Compare) -> bool:
    given: Any = compare.operand
    held: Any = stored
    match compare.relation:
        case Relation.EQUAL:
            return bool(held == given)
        case Relation.NOT_EQUAL:
            return bool(held != given)
        case Relation.GREATER:
            return bool(held > given)
        case Relation.LESS:
            return bool(held < given)
        case Relation.ANY:
            return True
