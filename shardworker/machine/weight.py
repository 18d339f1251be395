"""Which reads may take long, judged by a look at the table.

The worker's loop answers light reads itself, between turns; heavy ones run on a thread with a connection of their
own, which costs more but holds nobody up. The look must be much cheaper than the read: it counts at most a few
hundred rows in the narrow `live` table and measures sixteen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardworker.machine.ops import Operation, Page, Range, Txn
from shardworker.machine.view import span_of

if TYPE_CHECKING:
    from shardworker.machine.view import View

ROWS_LIGHT = 256
COUNT_LIGHT = 20_000
"""Rows that a count may pass over: about half a millisecond."""
BYTES_LIGHT = 1 << 20
STEPS_LIGHT = 1_000
"""Revisions that a look into the past may have to walk back for a single key."""

_SAMPLE = 16


def is_heavy(view: View, op: Operation) -> bool:
    """Whether a read may hold up a loop for more than about a millisecond."""
    match op:
        case Txn():
            if len(op.compares) + len(op.success) + len(op.failure) > ROWS_LIGHT:
                return True
            return any(is_heavy(view, inner) for inner in (*op.success, *op.failure)) or any(
                compare.end and _rows(view, compare.key, compare.end, ROWS_LIGHT) > ROWS_LIGHT
                for compare in op.compares
            )
        case Range():
            past = 0 < op.revision < view.revision
            if not op.end:
                return past and view.revision - op.revision > STEPS_LIGHT
            # The count in the answer covers the whole range, whatever the limit.
            return past or _is_heavy_span(
                view, op.key, op.end, count_only=op.count_only, limit=op.limit, counts=True
            )
        case Page():
            return bool(op.end) and _is_heavy_span(
                view, op.key, op.end, count_only=op.count_only, limit=op.limit, counts=False
            )
        case _:
            return False


def _is_heavy_span(view: View, key: bytes, end: bytes, *, count_only: bool, limit: int, counts: bool) -> bool:
    if count_only:
        return _rows(view, key, end, COUNT_LIGHT) > COUNT_LIGHT
    rows = _rows(view, key, end, COUNT_LIGHT if counts and 0 < limit <= ROWS_LIGHT else ROWS_LIGHT)
    if rows > COUNT_LIGHT:
        return True
    returned = min(rows, limit) if limit > 0 else rows
    if returned > ROWS_LIGHT:
        return True
    return returned > 0 and _mean_bytes(view, key, end) * returned > BYTES_LIGHT


def _rows(view: View, key: bytes, end: bytes, enough: int) -> int:
    """Live keys of the span, counted up to one more than enough."""
    return view.count(key, end, enough + 1)


def _mean_bytes(view: View, key: bytes, end: bytes) -> int:
    bounded, span = span_of(key, end)
    row: Any = view.execute(view.sql.sample[bounded], (*span, _SAMPLE)).fetchone()
    mean: float = row[0] or 0
    return int(mean)
