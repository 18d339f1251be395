"""The streams of watches that the benchmark holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc

from proto.etcd import rpc_pb2 as etcd
from tests.unit.coordinator.running import in_loop
from tests.unit.tools.serving import serving
from tests.waiting import free_ports
from tools.bench.watch_streams import watch_stream
from tools.tls_options import NONE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


class Watched(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Answers each request of a watch with who its client is."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        assert details.method == "/etcdserverpb.Watch/Watch"

        def serve(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            for _ in requests:
                yield etcd.WatchResponse(created=True, cancel_reason=context.peer()).SerializeToString()

        return grpc.stream_stream_rpc_method_handler(serve)


async def peer(call: Any) -> str:
    await call.write(etcd.WatchRequest(create_request=etcd.WatchCreateRequest(key=b"k")))
    return str((await call.read()).cancel_reason)


@in_loop
async def test_each_stream_has_a_connection_of_its_own() -> None:
    with serving(Watched()) as endpoints:
        system: Any = SimpleNamespace(endpoints=endpoints, tls=NONE)
        async with watch_stream(system) as one, watch_stream(system, 1) as other:
            assert await peer(one) != await peer(other)


def test_a_proxy_for_the_world_outside_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_ports(1)[0]}")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    test_each_stream_has_a_connection_of_its_own()
