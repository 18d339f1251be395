"""Latencies as counts in buckets that grow by one per cent: small, and exact enough to quote."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_GROWTH = math.log(1.01)


@dataclass(slots=True)
class Histogram:
    """How many calls took how long. Bucket n holds the latencies whose rounded log is n, in microseconds."""

    buckets: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Histogram:
        """A histogram of these latencies."""
        log = math.log
        return cls(Counter(round(log(max(s * 1e6, 1.0)) / _GROWTH) for s in seconds))

    @property
    def count(self) -> int:
        """Latencies counted."""
        return self.buckets.total()

    def percentile_ms(self, percent: float) -> float:
        """The latency, in milliseconds, that this share of calls did not exceed; 0 if there are none."""
        wanted = math.ceil(self.count * percent / 100)
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return math.exp(bucket * _GROWTH) / 1e3
        return 0.0
