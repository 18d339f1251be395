"""Which reads may take long, judged by a look at the table.

The worker's loop answers light reads itself, between turns; heavy ones run on a thread with a connection of their
own, which costs more but holds nobody up. The look must be much cheaper than the read: it counts at most a few
hundred rows in the narrow `live` table and measures sixteen.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from shardworker.machine.ops import Compare, Operation, Page, Range, Target, Txn
from shardworker.machine.view import span_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardworker.machine.view import View

ROWS_LIGHT = 256
COUNT_LIGHT = 20_000
"""Rows that a count may pass over: about half a millisecond."""
BYTES_LIGHT = 1 << 20
STEPS_LIGHT = 1_000
"""Revisions that a look into the past may have to walk back for a single key."""

_SAMPLE = 16


def is_heavy(look: Callable[[], View], op: Operation) -> bool:
    """Whether a read may hold up a loop for more than about a millisecond. look gives the table as it is now."""
    view = look()
    if isinstance(op, Page | Range) and not op.end and not _is_past(view, op):
        return False  # a value is a megabyte or two at most, and a turn makes only so many bytes of answers
    return _share(view, op) > 1


def _is_past(view: View, op: Page | Range) -> bool:
    return isinstance(op, Range) and 0 < op.revision < view.revision


def _share(view: View, op: Operation) -> float:
    """How much of what a light read may take this one takes; above 1 the figure says nothing more.

    A transaction takes the sum: of its comparisons, and of the branch that takes more."""
    match op:
        case Txn():
            if len(op.compares) + len(op.success) + len(op.failure) > ROWS_LIGHT:
                return math.inf
            compares = 0.0
            for compare in op.compares:
                compares += _share_of_compare(view, compare)
                if compares > 1:
                    return compares
            branches = (sum(_share(view, inner) for inner in branch) for branch in (op.success, op.failure))
            return compares + max(branches)
        case Range():
            past = _is_past(view, op)
            if not op.end:
                steps = (view.revision - op.revision) / STEPS_LIGHT if past else 0.0
                return max(steps, _share_of_key(view, op.key))
            if past:
                return math.inf
            # The count in the answer covers the whole range, whatever the limit.
            return _share_of_span(view, op.key, op.end, count_only=op.count_only, limit=op.limit, counts=True)
        case Page():
            if not op.end:
                return _share_of_key(view, op.key)
            return _share_of_span(
                view, op.key, op.end, count_only=op.count_only, limit=op.limit, counts=False
            )
        case _:
            return 0.0


def _share_of_compare(view: View, compare: Compare) -> float:
    if compare.end:
        return _rows(view, compare.key, compare.end, ROWS_LIGHT) / ROWS_LIGHT
    return _share_of_key(view, compare.key) if compare.target is Target.VALUE else 1 / ROWS_LIGHT


def _share_of_key(view: View, key: bytes) -> float:
    return max(1 / ROWS_LIGHT, _mean_bytes(view, key, key + b"\0") / BYTES_LIGHT)


def _share_of_span(
    view: View, key: bytes, end: bytes, *, count_only: bool, limit: int, counts: bool
) -> float:
    if count_only:
        return _rows(view, key, end, COUNT_LIGHT) / COUNT_LIGHT
    rows = _rows(view, key, end, COUNT_LIGHT if counts and 0 < limit <= ROWS_LIGHT else ROWS_LIGHT)
    returned = min(rows, limit) if limit > 0 else rows
    share = max(rows / COUNT_LIGHT, returned / ROWS_LIGHT)
    if share > 1 or not returned:
        return share
    return max(share, _mean_bytes(view, key, end) * returned / BYTES_LIGHT)


def _rows(view: View, key: bytes, end: bytes, enough: int) -> int:
    """Live keys of the span, counted up to one more than enough."""
    return view.count(key, end, enough + 1)


def _mean_bytes(view: View, key: bytes, end: bytes) -> int:
    bounded, span = span_of(key, end)
    row: Any = view.execute(view.sql.sample[bounded], (*span, _SAMPLE)).fetchone()
    mean: float = row[0] or 0
    return int(mean)
