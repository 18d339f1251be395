"""Families as the text that a scrape asks for, in Prometheus's format or OpenMetrics."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from prometheus_client import Metric, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from coordinator.front import compression, http_pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
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


def render(families: Families, request: http_pages.Request) -> http_pages.Response:
    """The whole answer: of the families or samples that the request names, or else of all."""
    names: Sequence[str] = parse_qs(request.query).get("name[]", ())
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    body = encode(_Chosen(_with_this_process(families), frozenset(names)))
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
