"""A span for each call of a client that is traced, and one below it for each question to a shard.

Handlers are no tasks of asyncio's and share the context that the loop calls back in, so a traced one gets a context of
its own, in which its span is the current one. What is not traced, because its client or the sampler says so, runs as if
nothing of this were here."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from coordinator.shards.driver import Driver
from proto import errors
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from config.process.tracing import Tracing
    from coordinator.api.call import Call, Handler
    from coordinator.shards.shard_call import ShardCall


class _Within:
    """Awaits a coroutine, each step of which is taken in this context."""

    def __init__(self, context: contextvars.Context, coroutine: Coroutine[Any, Any, bytes | None]) -> None:
        self._context = context
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, bytes | None]:
        step: Callable[[Any], Any] = self._coroutine.send
        argument: Any = None
        while True:
            try:
                waits_for = self._context.run(step, argument)
            except StopIteration as end:
                return cast("bytes | None", end.value)
            try:
                argument, step = (yield waits_for), self._coroutine.send
            except BaseException as error:
                argument, step = error, self._coroutine.throw


class CallTracer:
    """Stands before handlers."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def traced(self, path: str, handler: Handler) -> Handler:
        """The handler of this path, with a span around each call of it."""
        service, _, method = path.lstrip("/").partition("/")
        name = f"{service}/{method}"
        about = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}

        async def traced(call: Call) -> bytes | None:
            # A call that another one makes here belongs below that one, not beside it.
            within = trace.get_current_span().get_span_context().is_valid
            parent = otel_context.get_current() if within else self._tracing.parent(call.metadata)
            span = self._tracing.tracer.start_span(name, parent, SpanKind.SERVER, about)
            if not span.is_recording():
                return await handler(call)
            span.set_attribute("client.address", call.peer)
            own = contextvars.copy_context()
            own.run(otel_context.attach, trace.set_span_in_context(span, parent))
            try:
                return await _Within(own, cast("Coroutine[Any, Any, bytes | None]", handler(call)))
            except errors.BoathouseError as error:
                span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error.detail}"))
                raise
            finally:
                span.set_attribute("boathouse.table", call.table)
                span.end()

        return traced  # type: ignore[return-value]  # it answers as the handler does


class TracedDriver(Driver):
    """Asks shards in the name of a traced call, and tells them of it."""

    def __init__(self, tracing: Tracing, *arguments: Any, **options: Any) -> None:
        """The rest: see Driver."""
        super().__init__(*arguments, **options)
        self._tracing = tracing

    async def ask(self, call: ShardCall) -> frames.Reply:
        if not trace.get_current_span().is_recording():
            return await super().ask(call)
        about = {"boathouse.shard": int(call.shard), "boathouse.table_id": call.table_id}
        with self._tracing.tracer.start_as_current_span(
            f"ask {frames.Method.Name(call.method)}", None, SpanKind.CLIENT, about, record_exception=False
        ) as span:
            call.trace = self._tracing.told()
            reply = await super().ask(call)
            if call.node is not None:
                span.set_attribute("boathouse.replica_node", int(call.node))
            return reply
