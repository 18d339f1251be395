"""The page that Prometheus reads.

Nothing is written down before somebody asks: what is counted on the way of a request are plain numbers
(coordinator/api/meter.py), and all figures of a scrape are of one moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from prometheus_client import Metric

    from coordinator.front import http_pages

    Families = Iterable[Metric]


def page(gather: Callable[[], Awaitable[Callable[[], Families]]]) -> http_pages.Page:
    """gather is awaited once a scrape; the families are then made on another thread, of what it has gathered."""

    async def metrics(request: http_pages.Request) -> http_pages.Response:
        families = await gather()
        # A node of many tables has megabytes of figures: calls do not wait for them to be written down.
        return await asyncio.to_thread(_render, families, request)

    return metrics


def _render(families: Callable[[], Families], request: http_pages.Request) -> http_pages.Response:
    # With Prometheus's library, of which families.py says why it comes so late.
    from coordinator.metrics.text import render

    return render(families(), request)
