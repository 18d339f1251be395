"""Spans of keys as sets: what permissions grant and what a request needs, in a form that can be compared.

In messages a span is (key, range_end): an empty end is the key alone, one zero byte everything from the key on. Here it
is half-open, [key, end), and the end is None where there is none.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    Span = tuple[bytes, bytes | None]

OPEN_END: Final = b"\0"
"""The range_end that means: no upper bound."""


def span_of(key: bytes, range_end: bytes) -> Span | None:
    """The keys that a message means; None if those are none at all, or the end lies before the key."""
    if not range_end:
        return key, key + b"\0"
    if range_end == OPEN_END:
        return key, None
    return (key, range_end) if key < range_end else None


class SpanSet:
    """A set of keys, as spans that are apart from each other, in ascending order."""

    __slots__ = ("_starts", "spans")

    def __init__(self, spans: Iterable[Span]) -> None:
        """spans may overlap and touch; what touches is one."""
        merged: list[Span] = []
        for key, end in sorted(spans, key=lambda span: span[0]):
            if merged:
                last_key, last_end = merged[-1]
                if last_end is None:
                    break
                if key <= last_end:
                    merged[-1] = (last_key, None if end is None else max(end, last_end))
                    continue
            merged.append((key, end))
        self.spans: Final = tuple(merged)
        self._starts = [key for key, _ in merged]

    def covers(self, span: Span | None) -> bool:
        """Whether all of the span is in the set. None, which is no span, never is."""
        if span is None:
            return False
        at = bisect_right(self._starts, span[0]) - 1
        if at < 0:
            return False
        held_end = self.spans[at][1]
        return held_end is None or (span[1] is not None and span[1] <= held_end)

    def reach(self, key: bytes) -> bytes | None:
        """Where the span that holds this key ends; None if it does not. Raises KeyError if none holds it."""
        at = bisect_right(self._starts, key) - 1
        if at < 0:
            raise KeyError(key)
        end = self.spans[at][1]
        if end is not None and end <= key:
            raise KeyError(key)
        return end


EVERYTHING: Final = SpanSet([(b"", None)])
NOTHING: Final = SpanSet([])
