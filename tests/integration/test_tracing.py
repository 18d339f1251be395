"""Traces across processes, as a collector on this machine receives them."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar, Final

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from proto.etcd import rpc_pb2 as rpc
from tests.integration.cluster import Cluster
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
CALLER: Final = "b7ad6b7169203331"


class Collector(BaseHTTPRequestHandler):
    """Takes OTLP over HTTP."""

    spans: ClassVar[list[tuple[str, Span]]] = []
    """With the process that has made each."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            whose = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans.extend((whose["service.instance.id"], span) for span in scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, collector: str) -> Iterator[Cluster]:
    tracing = {"tracing": {"endpoint": collector, "sample_ratio": 0.0}}
    with Cluster(tmp_path_factory.mktemp("tracing"), nodes=1, shards=1, settings=tracing) as running:
        running.wait_leaders()
        yield running


def put(cluster: Cluster, **metadata: str) -> None:
    with grpc.insecure_channel(cluster.config.node("n1").client_endpoint) as channel:
        call: grpc.UnaryUnaryMultiCallable[rpc.PutRequest, rpc.PutResponse] = channel.unary_unary(
            "/etcdserverpb.KV/Put", rpc.PutRequest.SerializeToString, rpc.PutResponse.FromString
        )
        call(rpc.PutRequest(key=b"k", value=b"v"), timeout=10, metadata=tuple(metadata.items()))


def test_one_trace_from_the_client_to_the_replica(cluster: Cluster) -> None:
    put(cluster)  # of no trace, and the sampler takes none
    put(cluster, traceparent=f"00-{TRACE}-{CALLER}-00")  # its client does not record it
    put(cluster, traceparent=f"00-{TRACE}-{CALLER}-01")
    wait_until(lambda: len(Collector.spans) >= 3, timeout_s=20, what="three spans to arrive")
    by_name = {span.name: (process, span) for process, span in Collector.spans}
    assert set(by_name) == {"etcdserverpb.KV/Put", "ask ETCD_PUT", "serve ETCD_PUT"}
    assert len(Collector.spans) == 3
    (front, call), (asker, asked), (replica, served) = (
        by_name[name] for name in ("etcdserverpb.KV/Put", "ask ETCD_PUT", "serve ETCD_PUT")
    )
    assert (front, asker, replica) == ("n1/coordinator", "n1/coordinator", "n1/shard-1")
    assert {span.trace_id.hex() for span in (call, asked, served)} == {TRACE}
    assert call.parent_span_id.hex() == CALLER
    assert asked.parent_span_id == call.span_id
    assert served.parent_span_id == asked.span_id
    assert call.start_time_unix_nano <= asked.start_time_unix_nano <= served.start_time_unix_nano
    assert served.end_time_unix_nano <= asked.end_time_unix_nano <= call.end_time_unix_nano
    about = {each.key: each.value.string_value for each in call.attributes}
    assert about["boathouse.table"] == "default"
