"""The page that Prometheus reads.

Nothing is written down before somebody asks: what is counted on the way of a request are plain numbers
(coordinator/api/meter.py), and all figures of a scrape are of one moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from prometheus_client import Metric, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from coordinator.front import compression, http_pages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    Families = Iterable[Metric]


class _Chosen(Collector):
    """Families, or of them the samples of these names; a family's own name stands for all of it."""

    def __init__(self, families: Families, names: AbstractSet[str]) -> None:
        self._families = families
        self._names = names

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            if not self._names or family.name in self._names:
                yield family
                continue
            chosen = [sample for sample in family.samples if sample.name in self._names]
            if chosen:
                part = Metric(family.name, family.documentation, family.type)
                part.samples = chosen
                yield part


def page(gather: Callable[[], Awaitable[Callable[[], Families]]]) -> http_pages.Page:
    """gather is awaited once a scrape; the families are then made on another thread, of what it has gathered."""

    async def metrics(request: http_pages.Request) -> http_pages.Response:
        families = await gather()
        # A node of many tables has megabytes of figures: calls do not wait for them to be written down.
        return await asyncio.to_thread(_render, families, request)

    return metrics


def _render(families: Callable[[], Families], request: http_pages.Request) -> http_pages.Response:
    names: Sequence[str] = parse_qs(request.query).get("name[]", ())
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    body = encode(_Chosen(_with_this_process(families()), frozenset(names)))
    headers = [("Content-Type", content_type), ("Vary", "Accept, Accept-Encoding")]
    if _takes_gzip(request.headers):
        headers.append(("Content-Encoding", "gzip"))
        body = compression.compress("gzip", body)
    return http_pages.Response(headers=headers, body=body)


def _with_this_process(families: Families) -> Iterator[Metric]:
    """By the names that every Prometheus client library gives them; `etcdctl check datascale` reads one of them."""
    yield from ProcessCollector(registry=None).collect()
    yield from PlatformCollector(registry=None).collect()
    yield from families


def _takes_gzip(headers: Mapping[str, str]) -> bool:
    accepted = headers.get("accept-encoding", "").split(",")
    return any(word.partition(";")[0].strip().lower() == "gzip" for word in accepted)
