"""grpc.health.v1.Health, which load balancers and kubelets ask.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md. The server as such (the empty name) and each service
are this coordinator: whether it takes calls. Whether a shard has a leader is not in that, because a node that can do
nothing about it would be taken out of service for it, with all its other shards. It is in the health of a table, which
is asked for by the table's name: NOT_SERVING while this node knows no leader of its shard.
"""

from __future__ import annotations

import asyncio
import contextlib
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


class Health:
    """Check, Watch."""

    def __init__(self, services: Iterable[str], tables: Tables) -> None:
        """services: full names of those that are served; they are until close()."""
        self._services = frozenset({WHOLE_SERVER, *services})
        self._tables = tables
        self._closed = asyncio.Event()

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
        while not self._closed.is_set():
            await self._wait(name, told)
            status = await self._look(name)
            if status != told:
                told = status
                await call.send(_encoded(status))
        raise errors.ShuttingDown

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

    async def _wait(self, name: str, told: int) -> None:
        """Until it may be another one."""
        if name in self._services:
            await self._closed.wait()
            return
        interval_s = SEARCH_INTERVAL_S if told == UNKNOWN else LOOK_INTERVAL_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), interval_s)

    def close(self) -> None:
        """From now on nothing is served."""
        self._closed.set()


def _encoded(status: int) -> bytes:
    answer: bytes = _Response(status=status).SerializeToString()
    return answer
