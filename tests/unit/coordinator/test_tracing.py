"""Calls that are traced, over fake workers and with spans kept in memory."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from pydantic import ValidationError

from config import ClusterConfig
from config.process.spec import ProcessSpec
from config.process.tracing import Tracing, TracingUnavailable, start_tracing
from coordinator.api.local_call import LocalCall
from coordinator.tracing import CallTracer
from proto import errors
from tests.unit.coordinator.running import in_loop, make_config

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.api.call import Call

PATH = "/etcdserverpb.KV/Put"
SAMPLED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


class Spans:
    """A tracer whose spans stay here."""

    def __init__(self, ratio: float) -> None:
        provider = TracerProvider(sampler=ParentBasedTraceIdRatio(ratio))
        self.exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = CallTracer(Tracing(provider))

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.exporter.get_finished_spans()]


def call(metadata: dict[str, str]) -> LocalCall:
    return LocalCall((b"",), metadata=metadata, deadline=math.inf, peer="test")


@in_loop
async def test_handlers_side_by_side_see_their_own_span_and_the_loop_none() -> None:
    spans = Spans(1.0)
    seen: list[int] = []

    async def handler(call: Call) -> bytes:
        before = trace.get_current_span().get_span_context().span_id
        for _ in range(5):
            await asyncio.sleep(0)
        assert trace.get_current_span().get_span_context().span_id == before
        seen.append(before)
        return b""

    traced = spans.tracer.traced(PATH, handler)
    await asyncio.gather(*(traced(call(SAMPLED)) for _ in range(3)))
    assert len(set(seen)) == 3
    assert 0 not in seen
    assert not trace.get_current_span().is_recording()
    assert spans.names == ["etcdserverpb.KV/Put"] * 3


@in_loop
async def test_without_a_client_that_records_the_sampler_decides() -> None:
    async def handler(call: Call) -> bytes:
        return b""

    for ratio, expected in ((0.0, 0), (1.0, 1)):
        spans = Spans(ratio)
        assert await spans.tracer.traced(PATH, handler)(call({})) == b""
        assert len(spans.names) == expected
    spans = Spans(1.0)
    unsampled = {"traceparent": SAMPLED["traceparent"][:-1] + "0"}
    await spans.tracer.traced(PATH, handler)(call(unsampled))
    assert spans.names == [], "its client has decided"


@in_loop
async def test_a_call_that_fails_or_is_cancelled_ends_its_span() -> None:
    spans = Spans(1.0)

    async def fails(call: Call) -> bytes:
        await asyncio.sleep(0)
        raise errors.TableNotFound("users")

    with pytest.raises(errors.TableNotFound):
        await spans.tracer.traced(PATH, fails)(call({}))
    (span,) = spans.exporter.get_finished_spans()
    assert span.status.description == "TableNotFound: users"

    begun, never = asyncio.Event(), asyncio.Event()

    async def waits(call: Call) -> bytes:
        begun.set()
        await never.wait()
        return b""

    async def run() -> bytes | None:
        return await spans.tracer.traced(PATH, waits)(call({}))

    task = asyncio.create_task(run())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(spans.names) == 2


@in_loop
async def test_a_call_within_a_call_is_below_it() -> None:
    spans = Spans(1.0)

    async def inner(call: Call) -> bytes:
        return b""

    async def outer(call: Call) -> bytes:
        answer = await spans.tracer.traced("/etcdserverpb.KV/Txn", inner)(call)
        assert isinstance(answer, bytes)
        return answer

    await spans.tracer.traced("/v3lockpb.Lock/Lock", outer)(call(SAMPLED))
    below, above = spans.exporter.get_finished_spans()
    assert below.parent is not None
    assert below.parent.span_id == above.context.span_id


def spec(folder: Path, **tracing: object) -> ProcessSpec:
    config = make_config(folder, nodes=1, shards=1)
    document = config.model_dump() | {"tracing": tracing or None}
    cluster = ClusterConfig.model_validate(document)
    return ProcessSpec(cluster=cluster, kind="coordinator", node="n1")


def test_nothing_is_loaded_unless_the_file_asks_for_it(tmp_path: Path) -> None:
    assert start_tracing(spec(tmp_path)) is None
    entries = ("coordinator.entry", "shardworker.entry")
    program = f"import sys, {', '.join(entries)}; print([m for m in sys.modules if 'telemetry' in m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    assert done.stdout == b"[]\n"


def test_an_extra_that_is_missing_is_said_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(TracingUnavailable, match=r"pip install 'boathouse\[tracing\]'"):
        start_tracing(spec(tmp_path, endpoint="http://127.0.0.1:4318"))


@pytest.mark.parametrize(
    "wrong", [{"endpoint": "127.0.0.1:4318"}, {"endpoint": "http://h", "sample_ratio": 2}]
)
def test_a_tracing_section_that_means_nothing_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        spec(tmp_path, **wrong)
