"""Asks the coordinators of each node what they have counted of their clients' calls."""

from __future__ import annotations

import http.client
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from google.protobuf.message import DecodeError

from proto.internal import figures_pb2 as figures
from proto.methods import METHODS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from config import ClusterConfig
    from tools.admin.reach import Reach

PATH: Final = "/metrics/figures"
CONNECTION_TIMEOUT_S: Final = 1.0


class Series(NamedTuple):
    """What is counted together."""

    process: str
    """n1/coordinator."""
    method: str
    """/package.Service/Method."""
    table: str


class CallProbe:
    """One question at a time to each node. Use as a context manager."""

    def __init__(self, cluster: ClusterConfig, reach: Reach) -> None:
        self._endpoints = {node.name: node.http_endpoint for node in cluster.nodes.values()}
        self._reach = reach
        self._pool = ThreadPoolExecutor(max_workers=len(self._endpoints), thread_name_prefix="calls")
        self._asked: dict[str, Future[figures.NodeFigures | None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def begin(self) -> None:
        """Ask all. One that hangs is not asked again before it answers."""
        for node in self._endpoints:
            if node not in self._asked:
                self._asked[node] = self._pool.submit(self._ask, node)

    def take(self, timeout_s: float) -> dict[Series, Sequence[int]]:
        """Counts by range of duration (proto/histogram.py), of the nodes that have answered by then."""
        done, _ = wait(self._asked.values(), timeout_s)
        counted: dict[Series, Sequence[int]] = {}
        for node, asked in list(self._asked.items()):
            if asked in done:
                del self._asked[node]
                counted.update(_series(node, asked.result()))
        return counted

    def _ask(self, node: str) -> figures.NodeFigures | None:
        endpoint, tls = self._endpoints[node], self._reach.tls
        connection = (
            http.client.HTTPConnection(endpoint, timeout=CONNECTION_TIMEOUT_S)
            if tls is None
            else http.client.HTTPSConnection(endpoint, timeout=CONNECTION_TIMEOUT_S, context=tls)
        )
        try:
            connection.request("GET", PATH)
            answer = connection.getresponse()
            return figures.NodeFigures.FromString(answer.read()) if answer.status == 200 else None
        except (OSError, http.client.HTTPException, DecodeError):
            return None
        finally:
            connection.close()


def _series(node: str, told: figures.NodeFigures | None) -> Iterator[tuple[Series, Sequence[int]]]:
    for coordinator in told.coordinators if told is not None else ():
        for method in coordinator.methods:
            kind = METHODS.get(method.path)
            # How long a stream lasts, or who waits for a lock, is up to its client.
            if kind is None or kind.kind is not Kind.UNARY or kind.waits:
                continue
            for table, histogram in method.tables.items():
                yield Series(f"{node}/{coordinator.process}", method.path, table), histogram.counts
