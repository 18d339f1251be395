"""What the metrics say of watches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from coordinator.metrics import WatchMetrics
from tests.unit.watch.fakes import TABLE

if TYPE_CHECKING:
    from proto.catalog import TableEntry


@dataclass
class Watched:
    table: TableEntry = TABLE
    watchers_count: int = 7
    behind_count: int = 2
    lag_revisions: int = 40


def test_who_watches_and_who_is_behind() -> None:
    registry = CollectorRegistry()
    registry.register(WatchMetrics([Watched()]))
    lines = generate_latest(registry).decode().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        'boathouse_watchers{table="t"} 7.0',
        'boathouse_watchers_behind{table="t"} 2.0',
        'boathouse_watch_lag_revisions{table="t"} 40.0',
    ]
