"""Traces of calls, by OpenTelemetry.

An extra: `pip install 'boathouse[tracing]'`. A process whose cluster file asks for no traces imports nothing of it, and
what traces a call stands around what serves it, so that a call costs the same as if there were no tracing."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

    from config.process.spec import ProcessSpec

TRACEPARENT: Final = "traceparent"
"""Of W3C's Trace Context: in a client's metadata, and what crosses from process to process."""
EXPORT_INTERVAL_MS: Final = 1_000
COMPLAINT_INTERVAL_S: Final = 60.0
"""A collector that is away is told of so often, and not with each batch."""

log = structlog.get_logger()


class TracingUnavailable(Exception):
    """The cluster file asks for traces, and what makes them is not installed."""


class Tracing:
    """The tracer of one process."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.tracer: Tracer = provider.get_tracer("boathouse")
        self._provider = provider
        self._propagator = TraceContextTextMapPropagator()

    def parent(self, carrier: Mapping[str, str]) -> Context:
        """The trace that a caller has begun, as his metadata says; else none."""
        return self._propagator.extract(carrier)

    def told(self) -> str:
        """The current span, as a callee is told of it."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier[TRACEPARENT]

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def start_tracing(spec: ProcessSpec) -> Tracing | None:
    """None if the cluster file asks for no traces. Raises TracingUnavailable."""
    config = spec.cluster.tracing
    if config is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ImportError as error:
        raise TracingUnavailable(
            f"the cluster file asks for traces (tracing), and {error.name} is not installed: "
            "pip install 'boathouse[tracing]', or take the key out"
        ) from None
    _complain_seldom()
    whose = {
        "service.name": "boathouse",
        "service.namespace": spec.cluster.cluster,
        "service.instance.id": str(spec.name),
        "boathouse.node": spec.node,
    }
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(config.sample_ratio), resource=Resource.create(whose)
    )
    exporter = OTLPSpanExporter(endpoint=f"{config.endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_INTERVAL_MS))
    return Tracing(provider)


class _Seldom(logging.Handler):
    """What OpenTelemetry logs, as a line of our log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._not_before = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now >= self._not_before:
            self._not_before = now + COMPLAINT_INTERVAL_S
            log.warning("traces are not sent", reason=record.getMessage())


def _complain_seldom() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(_Seldom())
    logger.propagate = False
