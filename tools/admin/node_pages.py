"""Reads the pages that coordinators have beside /metrics for programs of an operator: of many nodes at once, and waits
for none long."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar

from google.protobuf.message import DecodeError, Message

from proto.methods import METHODS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from proto.internal import figures_pb2 as figures
    from tools.admin.reach import Reach

    M = TypeVar("M", bound=Message)

COUNTED: Final = "/metrics/figures"
PROCESSES: Final = "/metrics/processes"
REPLICAS: Final = "/metrics/replicas"
CONNECTION_TIMEOUT_S: Final = 1.0
NODES_AT_ONCE: Final = 16
UNIX: Final = "unix://"


class Pages:
    """What one endpoint answered."""

    def __init__(self, bodies: Mapping[str, bytes], *, is_lost: bool = False, is_away: bool = False) -> None:
        self._bodies = bodies
        self._messages: dict[str, Message | None] = {}
        self.is_lost = is_lost
        """It answered, and has no such pages: it is no coordinator."""
        self.is_away = is_away
        """Nobody takes connections there."""

    def read(self, path: str, message: type[M]) -> M | None:
        """A page; None if there was no answer, or one that can't be read."""
        if path not in self._messages:
            self._messages[path] = None
            with contextlib.suppress(KeyError, DecodeError):
                self._messages[path] = message.FromString(self._bodies[path])
        found = self._messages[path]
        assert found is None or isinstance(found, message)
        return found


class NodePages:
    """One question at a time to each endpoint, on connections that stay. Use as a context manager."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._pool = ThreadPoolExecutor(max_workers=NODES_AT_ONCE, thread_name_prefix="pages")
        self._asked: dict[str, Future[Pages]] = {}
        self._late: set[str] = set()
        """They let the last look down, and are waited for no more until they answer."""
        self._connections: dict[str, http.client.HTTPConnection] = {}
        self._has_ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        for connection in list(self._connections.values()):
            connection.close()

    def begin(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Ask for pages, by endpoint. One that hangs is not asked again before it answers."""
        for endpoint, paths in wanted.items():
            if paths and endpoint not in self._asked:
                self._asked[endpoint] = self._pool.submit(self._ask, endpoint, paths)

    def take(self, timeout_s: float) -> dict[str, Pages]:
        """What each has answered by then. Who hangs costs timeout_s once."""
        wait([asked for endpoint, asked in self._asked.items() if endpoint not in self._late], timeout_s)
        taken = {endpoint: asked.result() for endpoint, asked in self._asked.items() if asked.done()}
        for endpoint in taken:
            del self._asked[endpoint]
        self._late = set(self._asked)
        return taken

    def _ask(self, endpoint: str, paths: Sequence[str]) -> Pages:
        kept = self._connections.get(endpoint)
        if kept is not None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self._read(endpoint, kept, paths)  # fails if it was idle for too long
        try:
            return self._read(endpoint, _connection(endpoint, self._reach), paths)
        except (ssl.SSLError, http.client.HTTPException):
            return Pages({})
        except OSError:
            return Pages({}, is_away=True)

    def _read(self, endpoint: str, connection: http.client.HTTPConnection, paths: Sequence[str]) -> Pages:
        """Keeps the connection, unless this raises OSError or HTTPException."""
        bodies: dict[str, bytes] = {}
        is_lost = is_whole = False
        try:
            for path in paths:
                connection.request("GET", path)
                answer = connection.getresponse()
                body = answer.read()
                is_lost |= answer.status == http.client.NOT_FOUND
                if answer.status == http.client.OK:
                    bodies[path] = body
            is_whole = True
        finally:
            self._connections.pop(endpoint, None)
            if is_whole and not self._has_ended:
                self._connections[endpoint] = connection
            else:
                connection.close()
        return Pages(bodies, is_lost=is_lost)


class _UnixConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECTION_TIMEOUT_S)
        self.sock.connect(self.host)


def _connection(endpoint: str, reach: Reach) -> http.client.HTTPConnection:
    if endpoint.startswith(UNIX):
        return _UnixConnection(endpoint.removeprefix(UNIX), timeout=CONNECTION_TIMEOUT_S)
    if reach.tls is None:
        return http.client.HTTPConnection(endpoint, timeout=CONNECTION_TIMEOUT_S)
    return http.client.HTTPSConnection(endpoint, timeout=CONNECTION_TIMEOUT_S, context=reach.tls)


class Series(NamedTuple):
    """What is counted together."""

    process: str
    """n1/coordinator."""
    method: str
    """/package.Service/Method."""
    table: str


def counted(node: str, told: figures.NodeFigures | None) -> Iterator[tuple[Series, Sequence[int]]]:
    """What a node's coordinators have counted of their clients' calls, by range of duration (proto/histogram.py)."""
    for coordinator in told.coordinators if told is not None else ():
        for method in coordinator.methods:
            kind = METHODS.get(method.path)
            # How long a stream lasts, or who waits for a lock, is up to its client.
            if kind is None or kind.kind is not Kind.UNARY or kind.waits:
                continue
            for table, histogram in method.tables.items():
                yield Series(f"{node}/{coordinator.process}", method.path, table), histogram.counts
