"""Prometheus's families of samples, made of figures that somebody else has counted.

Its client library brings servers, and what they need, and takes 2 MB: it is imported with the first scrape."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client import Metric

    from proto.internal import frames_pb2 as frames

    Labels = Sequence[str]
    """Values of a family's labels, in their order."""


def gauge(name: str, text: str, labels: Labels, samples: Iterable[tuple[Labels, float]]) -> Metric:
    """What goes up and down."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def counter(name: str, text: str, labels: Labels, samples: Iterable[tuple[Labels, float]]) -> Metric:
    """What goes up, from 0 when a process begins. name ends with _total."""
    from prometheus_client.core import CounterMetricFamily

    assert name.endswith("_total")
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def histogram(
    name: str,
    text: str,
    labels: Labels,
    bounds: Sequence[float],
    samples: Iterable[tuple[Labels, frames.Histogram]],
) -> Metric:
    """How long things took, in ranges up to these bounds in seconds (proto/histogram.py)."""
    from prometheus_client.core import HistogramMetricFamily
    from prometheus_client.utils import floatToGoString

    family = HistogramMetricFamily(name, text, labels=labels)
    names = [*map(floatToGoString, bounds), "+Inf"]
    for values, counted in samples:
        # One that was never told of is one that has counted nothing.
        counts = counted.counts or [0] * len(names)
        family.add_metric(values, list(zip(names, itertools.accumulate(counts), strict=True)), counted.sum_s)
    return family
