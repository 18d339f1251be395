"""What one coordinator has counted, at one moment, as it is told to its siblings and written down for Prometheus."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from proto.internal import figures_pb2 as figures

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from coordinator.api.call import Route
    from coordinator.front.front import Front
    from coordinator.shards.bounds import Bounds
    from proto.catalog import TableEntry


class WatchedTable(Protocol):
    """What is told of a table that clients watch through this coordinator."""

    @property
    def table(self) -> TableEntry: ...
    @property
    def watchers_count(self) -> int: ...
    @property
    def behind_count(self) -> int: ...
    @property
    def lag_revisions(self) -> int: ...


def coordinator_figures(
    process: str,
    routes: Mapping[str, Route],
    front: Front,
    bounds: Bounds,
    watched: Iterable[WatchedTable],
    tables: Container[str],
) -> figures.CoordinatorFigures:
    """tables: names of those that there are; calls of any other are told together."""
    under_way = front.under_way()
    for route in routes.values():
        route.meter.forget_all_but(tables)
    return figures.CoordinatorFigures(
        process=process,
        pid=os.getpid(),
        methods=[_method(route, under_way[path]) for path, route in routes.items()],
        watched=[
            figures.WatchFigures(
                table=each.table.name,
                watchers=each.watchers_count,
                behind=each.behind_count,
                lag_revisions=each.lag_revisions,
            )
            for each in watched
        ],
        gauges={
            "connections": len(front.sessions),
            "requests_waiting": bounds.calls,
            "requests_waiting_bytes": bounds.size_bytes,
            "answers_waiting_bytes": front.room.tally.bytes,
            "calls_under_way": under_way.total(),
        },
        received_bytes=front.received_bytes,
        sent_bytes=front.sent_bytes,
    )


def _method(route: Route, under_way: int) -> figures.MethodFigures:
    meter = route.meter
    return figures.MethodFigures(
        path=route.path,
        tables={table: histogram.to_frame() for table, histogram in meter.by_table.items()},
        failures={int(code): count for code, count in meter.failures.items()},
        under_way=under_way,
        received=meter.received,
        sent=meter.sent,
    )
