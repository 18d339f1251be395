"""grpc.health.v1.Health, which load balancers and kubelets ask.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md. It speaks of this coordinator: whether it takes calls.
Whether a shard has a leader is not in it, because a node that can do nothing about that would be taken out of service
for it, with all its other shards.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from grpc_health.v1 import health_pb2

from coordinator.services.decoding import decode
from proto import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.api.call import Call, Handler

WHOLE_SERVER: Final = ""
"""The service that a client names who asks for the server as such."""

_Response = health_pb2.HealthCheckResponse


class Health:
    """Check, Watch."""

    def __init__(self, services: Iterable[str]) -> None:
        """services: full names of those that are served; they are until close()."""
        self._services = frozenset({WHOLE_SERVER, *services})
        self._closed = asyncio.Event()

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {"/grpc.health.v1.Health/Check": self.check, "/grpc.health.v1.Health/Watch": self.watch}

    async def check(self, call: Call) -> bytes:
        """Raises Absent for a service that is not known."""
        service = decode(health_pb2.HealthCheckRequest.FromString, call.body).service
        if service not in self._services:
            raise errors.Absent("unknown service")
        return self._status(service)

    async def watch(self, call: Call) -> None:
        """The status now and at each change; of an unknown service too, since it may become known.

        Ends with ShuttingDown when the last change has been told: a watch that stays would keep a server from going."""
        service = decode(health_pb2.HealthCheckRequest.FromString, call.body).service
        await call.send(self._status(service))
        if not self._closed.is_set():
            await self._closed.wait()
            if service in self._services:
                await call.send(self._status(service))
        raise errors.ShuttingDown

    def _status(self, service: str) -> bytes:
        if service not in self._services:
            status = _Response.SERVICE_UNKNOWN
        elif self._closed.is_set():
            status = _Response.NOT_SERVING
        else:
            status = _Response.SERVING
        answer: bytes = _Response(status=status).SerializeToString()
        return answer

    def close(self) -> None:
        """From now on nothing is served."""
        self._closed.set()
