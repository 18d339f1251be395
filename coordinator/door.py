"""Between gRPC and the services: finds the method of a call, and turns its error into the API's status.

Requests and responses pass as raw bytes. Metadata is looked at once, where gRPC hands it over anyway: a method names
the keys it cares about, and a call without any of them costs no allocation here.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog

from coordinator.api import outcomes
from proto import errors

if TYPE_CHECKING:
    import asyncio

Metadata = Mapping[str, str]
Unary = Callable[[bytes, Metadata, float], Awaitable[bytes]]
"""(request bytes, the metadata it asked for, deadline on the loop's clock) -> response bytes."""
Streaming = Callable[[bytes, Metadata, float], AsyncGenerator[bytes, None]]

NO_METADATA: Final[Metadata] = {}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """What all methods of one API share."""

    statuses: outcomes.Table
    message_bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One gRPC method. Exactly one of unary and streaming is set."""

    path: str
    """/package.Service/Method."""
    api: Api
    timeout_s: float
    """A call's deadline, unless its client set an earlier one."""
    unary: Unary | None = None
    streaming: Streaming | None = None
    metadata_keys: frozenset[str] = frozenset()


class Door(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """All methods of both APIs. Add it after every other handler: it also answers what nobody serves."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        routes: list[Route],
        *,
        known_services: frozenset[str],
        unserved: Api,
    ) -> None:
        """known_services: full names; their missing methods are unknown methods, not unknown services. unserved
        says how that is worded."""
        self._loop = loop
        self._known_services = known_services
        self._unserved = unserved
        self._routes = {route.path: (route, self._handler(route, NO_METADATA)) for route in routes}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """gRPC asks who handles a call."""
        found = self._routes.get(handler_call_details.method)
        if found is None:
            return self._refusal(handler_call_details.method)
        route, handler = found
        keys = route.metadata_keys
        if keys:
            for key, _ in handler_call_details.invocation_metadata:
                if key in keys:
                    return self._handler(route, _select(handler_call_details.invocation_metadata, keys))
        return handler

    def _handler(self, route: Route, metadata: Metadata) -> grpc.RpcMethodHandler[Any, Any]:
        unary, streaming, api = route.unary, route.streaming, route.api
        message_bytes_max = api.message_bytes_max
        clock = self._loop.time
        timeout_s = route.timeout_s

        async def handle(body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes | None:
            try:
                if len(body) > message_bytes_max:
                    raise errors.MessageTooLarge(f"{len(body)} vs. {message_bytes_max}")
                remaining_s = context.time_remaining()
                deadline = clock() + (
                    timeout_s if remaining_s is None or remaining_s > timeout_s else remaining_s
                )
                if unary is not None:
                    return await unary(body, metadata, deadline)
                assert streaming is not None
                # Closed in any case: an iteration that its client left still holds a cursor.
                async with contextlib.aclosing(streaming(body, metadata, deadline)) as parts:
                    async for part in parts:
                        await context.write(part)
                return None
            except errors.BoathouseError as error:
                refusal = error
            except grpc.aio.InternalError:
                # A part could not be written: its client has left. Had it not, it must not take this for the end.
                refusal = errors.CursorNotFound("a part could not be sent")
            except Exception as bug:
                log.exception("a call failed with an unexpected error", method=route.path)
                refusal = errors.InvariantBroken(type(bug).__name__)
            row = outcomes.to_status(api.statuses, refusal)
            await context.abort(row.code, row.text)
            return None

        if unary is not None:
            return grpc.unary_unary_rpc_method_handler(handle)
        return grpc.unary_stream_rpc_method_handler(handle)

    def _refusal(self, path: str) -> grpc.RpcMethodHandler[Any, Any]:
        """For a method that nobody serves. Streaming on both sides fits every kind of method: it is answered
        before any message is read."""
        service, _, method = path.lstrip("/").rpartition("/")
        if service in self._known_services:
            error = errors.MethodNotServed(f"unknown method {method} for service {service}")
        else:
            error = errors.MethodNotServed(f"unknown service {service}")
        row = outcomes.to_status(self._unserved.statuses, error)

        async def refuse(_requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            await context.abort(row.code, row.text)

        return grpc.stream_stream_rpc_method_handler(refuse)


def _select(metadata: Any, keys: frozenset[str]) -> dict[str, str]:
    """The first value of each key, as Go's metadata users take it."""
    selected: dict[str, str] = {}
    for key, value in metadata:
        if key in keys and key not in selected:
            selected[key] = value if isinstance(value, str) else value.decode(errors="replace")
    return selected
