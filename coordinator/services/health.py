"""grpc.health.v1.Health, which load balancers and kubelets ask.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md. The server as such (the empty name) and each service
are this coordinator: whether it takes calls. Whether a shard has a leader is not in that, because a node that can do
nothing about it would be taken out of service for it, with all its other shards. It is in the health of a table, which
is asked for by the table's name: NOT_SERVING while this node knows no leader of its shard.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from grpc_health.v1 import health_pb2

from coordinator.services.decoding import decode
from proto import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.api.call import Call, Handler
    from proto.catalog import TableEntry

WHOLE_SERVER: Final = ""
"""The service that a client names who asks for the server as such."""
LOOK_INTERVAL_S: Final = 0.25
"""How late a watch of a table may tell that its shard has lost its leader, or has one again."""
SEARCH_INTERVAL_S: Final = 5.0
"""How late it may tell of a table that is made; looking for one costs a read."""

_Response = health_pb2.HealthCheckResponse
SERVING: Final[int] = _Response.SERVING
NOT_SERVING: Final[int] = _Response.NOT_SERVING
UNKNOWN: Final[int] = _Response.SERVICE_UNKNOWN


class Tables(Protocol):
    """What there is to know of tables."""

    async def find(self, name: str) -> TableEntry | None:
        """The table of that name; None if there is none. Raises BoathouseError if nobody can say."""

    def is_led(self, table: TableEntry) -> bool:
        """Whether its shard has a leader, as far as clients are told."""


@dataclass(slots=True, eq=False)
class _Watched:
    """A table by its name, which somebody watches. However many do, one task looks."""

    status: int
    watchers: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and another one, when the status has changed."""
    looking: asyncio.Task[None] | None = None

    def learn(self, status: int) -> None:
        """That is how it is now."""
        if status != self.status:
            self.status = status
            self.news.set()
            self.news = asyncio.Event()


class Health:
    """Check, Watch."""

    def __init__(self, services: Iterable[str], tables: Tables) -> None:
        """services: full names of those that are served; they are until close()."""
        self._services = frozenset({WHOLE_SERVER, *services})
        self._tables = tables
        self._closed = asyncio.Event()
        self._watched: dict[str, _Watched] = {}

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {"/grpc.health.v1.Health/Check": self.check, "/grpc.health.v1.Health/Watch": self.watch}

    async def check(self, call: Call) -> bytes:
        """Raises Absent for what is neither a service nor a table."""
        name = decode(health_pb2.HealthCheckRequest.FromString, call.body).service
        status = await self._look(name)
        if status == UNKNOWN:
            raise errors.Absent("unknown service")
        return _encoded(status)

    async def watch(self, call: Call) -> None:
        """The status now and at each change; of an unknown name too, since it may become known.

        Ends with ShuttingDown when the last change has been told: a watch that stays would keep a server from going."""
        name = decode(health_pb2.HealthCheckRequest.FromString, call.body).service
        told = await self._look(name)
        await call.send(_encoded(told))
        if name in self._services:
            await self._closed.wait()
        else:
            told = await self._tell_changes(call, name, told)
        status = await self._look(name)
        if status != told:
            await call.send(_encoded(status))
        raise errors.ShuttingDown

    async def _tell_changes(self, call: Call, name: str, told: int) -> int:
        """Of a table, until close(); what was told last."""
        watched = self._watched.get(name)
        if watched is None:
            watched = self._watched[name] = _Watched(told)
            watched.looking = asyncio.create_task(self._keep_looking(name, watched))
        watched.learn(told)
        watched.watchers += 1
        assert watched.looking is not None
        try:
            while not watched.looking.done():
                news = watched.news
                if watched.status != told:
                    told = watched.status
                    await call.send(_encoded(told))
                else:
                    await news.wait()
            watched.looking.result()  # what went wrong there, if it did not end by close()
            return told
        finally:
            watched.watchers -= 1
            if not watched.watchers:
                watched.looking.cancel()
                del self._watched[name]

    async def _keep_looking(self, name: str, watched: _Watched) -> None:
        try:
            while not self._closed.is_set():
                interval_s = SEARCH_INTERVAL_S if watched.status == UNKNOWN else LOOK_INTERVAL_S
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closed.wait(), interval_s)
                watched.learn(await self._look(name))
        finally:
            asyncio.get_running_loop().call_soon(watched.news.set)  # once this has ended

    async def _look(self, name: str) -> int:
        if name in self._services:
            return NOT_SERVING if self._closed.is_set() else SERVING
        try:
            table = await self._tables.find(name)
        except errors.BoathouseError:
            return NOT_SERVING
        if table is None:
            return UNKNOWN
        serves = self._tables.is_led(table) and not self._closed.is_set()
        return SERVING if serves else NOT_SERVING

    def close(self) -> None:
        """From now on nothing is served."""
        self._closed.set()


def _encoded(status: int) -> bytes:
    answer: bytes = _Response(status=status).SerializeToString()
    return answer
