"""How often a method was called, how its calls ended and how long they took.

Every call passes here at its end, so this does as little as it can: one count, in about a fifth of a microsecond. What
can be worked out from that is worked out when somebody reads the metrics."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from proto.histogram import CALL_BOUNDS_S, Histogram

if TYPE_CHECKING:
    from collections.abc import Container

    from proto.codes import Code

NO_TABLE: Final = ""
"""Of calls that are about no table, or ended before it was known: an unknown name is never kept."""
OTHER_TABLES: Final = "_others"
"""Of tables beyond TABLES_MAX, and of those that are gone. No table of a user begins with an underscore."""
TABLES_MAX: Final = 200
"""Tables that a method's calls are told apart by: a cluster may have any number, and a scrape must not."""


class CallMeter:
    """One method of one coordinator."""

    __slots__ = ("answer_bytes_mean", "by_table", "failures", "received", "sent")

    def __init__(self) -> None:
        self.by_table: dict[str, Histogram] = {}
        """Calls that have ended, well or not, from their headers to their status."""
        self.failures: dict[Code, int] = {}
        """How many ended with each code but OK."""
        self.received = 0
        """Messages of clients, on calls that take a stream of them."""
        self.sent = 0
        """Messages to clients, on calls that answer with a stream of them."""
        self.answer_bytes_mean = 0
        """Of lately; what is to be expected of a call under way (coordinator.front.answers)."""

    def ended(self, table: str, seconds: float) -> None:
        """One call has ended; table: its Call.table."""
        histogram = self.by_table.get(table) or self._opened(table)
        # Histogram.observe(), without the call.
        histogram.counts[bisect_left(CALL_BOUNDS_S, seconds)] += 1
        histogram.sum_s += seconds

    def failed(self, code: Code) -> None:
        """It ended with this code."""
        self.failures[code] = self.failures.get(code, 0) + 1

    def _opened(self, table: str) -> Histogram:
        if len(self.by_table) >= TABLES_MAX:
            table = OTHER_TABLES
        return self.by_table.setdefault(table, Histogram(CALL_BOUNDS_S))

    def forget_all_but(self, tables: Container[str]) -> None:
        """Count the calls of tables that are gone among the others: totals never go down."""
        gone = [name for name in self.by_table if name not in tables and name not in (NO_TABLE, OTHER_TABLES)]
        for name in gone:
            histogram = self.by_table.pop(name)
            self.by_table.setdefault(OTHER_TABLES, Histogram(CALL_BOUNDS_S)).add(histogram)
