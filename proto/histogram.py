"""How long things take, as counts by range: what Prometheus calls a histogram.

Whoever does the work counts, and whoever is asked adds up and writes down: a count costs a tenth of a microsecond."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Sequence

CALL_BOUNDS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Of a call. Each bound of Regatta's and of grpc-ecosystem's own histograms is among them, so their dashboards read
the same."""
DISK_BOUNDS_S: Final = tuple(0.001 * 2**power for power in range(14))
"""Of a sync or a commit: etcd's."""


class Histogram:
    """How many durations fell into each range, and what all of them come to."""

    __slots__ = ("bounds", "counts", "sum_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        """bounds: upper ends of the ranges, inclusive, ascending, in seconds; a last range is open."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By range: not cumulative, as Prometheus writes them."""
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum_s += seconds

    def add(self, other: Histogram) -> None:
        """Count all of another's, which has the same bounds."""
        assert self.bounds == other.bounds
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s

    @property
    def count(self) -> int:
        """Of all durations."""
        return sum(self.counts)

    def to_frame(self) -> frames.Histogram:
        """As it travels between processes, which agree on the bounds."""
        return frames.Histogram(counts=self.counts, sum_s=self.sum_s)
