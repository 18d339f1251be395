"""A span for each traced request of a coordinator, from its arrival to its answer.

It stands at the sockets: what is between them, batches, syncs and a majority's word, is what the span lasts for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanKind, Status, StatusCode

from config.process.tracing import TRACEPARENT
from proto.internal import frames_pb2 as frames
from shardworker.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.trace import Span

    from config.process.tracing import Tracing

SPANS_MAX: Final = 10_000
"""Requests that are traced at a time; over it the oldest counts as never answered."""


class TracedTransport(Transport):
    """Knows which requests are traced."""

    def __init__(self, tracing: Tracing, shard: int, **options: Any) -> None:
        """options: see Transport."""
        super().__init__(**options)
        self._tracing = tracing
        self._shard = shard
        self._spans: dict[tuple[bytes, int], Span] = {}

    def receive(self, timeout_s: float, *, pace_until: float = 0.0) -> list[tuple[bytes, frames.Envelope]]:
        received = super().receive(timeout_s, pace_until=pace_until)
        for identity, envelope in received:
            for request in envelope.requests:
                if request.trace:
                    self._begin(identity, request)
        return received

    def _begin(self, identity: bytes, request: frames.Request) -> None:
        about = {"boathouse.shard": self._shard, "boathouse.table_id": request.table_id}
        parent = self._tracing.parent({TRACEPARENT: request.trace})
        name = f"serve {frames.Method.Name(request.method)}"
        self._spans[identity, request.call] = self._tracing.tracer.start_span(
            name, parent, SpanKind.SERVER, about
        )
        if len(self._spans) > SPANS_MAX:
            self._spans.pop(next(iter(self._spans))).end()

    def send_client(
        self, identity: bytes, envelope: frames.Envelope, attachments: Sequence[bytes] = ()
    ) -> None:
        if self._spans:
            for reply in envelope.replies:
                span = self._spans.pop((identity, reply.call), None)
                if span is not None:
                    _end(span, reply)
        super().send_client(identity, envelope, attachments)


def _end(span: Span, reply: frames.Reply) -> None:
    span.set_attribute("boathouse.term", reply.term)
    if reply.error:
        span.set_status(Status(StatusCode.ERROR, f"error {reply.error}: {reply.detail}"))
    span.end()
