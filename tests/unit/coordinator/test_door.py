"""What the port answers that no service of ours does: unknown methods, reflection, health, our own mistakes."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from coordinator.api import outcomes
from coordinator.door import Api, Door, Route
from coordinator.server import api_services
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from tests.stubs import stub
from tests.unit.coordinator.running import in_loop, refused, running

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from coordinator.door import Metadata


def test_all_services_of_both_apis_are_known() -> None:
    assert api_services() == {
        *(f"etcdserverpb.{name}" for name in ("KV", "Watch", "Lease", "Cluster", "Maintenance", "Auth")),
        "v3lockpb.Lock",
        "v3electionpb.Election",
        *(f"regatta.v1.{name}" for name in ("KV", "Cluster", "Tables")),
        "maintenance.v1.Maintenance",
        *(f"replication.v1.{name}" for name in ("Log", "Metadata", "Snapshot")),
    }


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etcdserverpb.Lease/LeaseGrant", "unknown method LeaseGrant for service etcdserverpb.Lease"),
        ("/etcdserverpb.KV/Nope", "unknown method Nope for service etcdserverpb.KV"),
        ("/regatta.v1.Tables/List", "unknown method List for service regatta.v1.Tables"),
        ("/nope.KV/Range", "unknown service nope.KV"),
    ],
)
def test_a_method_that_is_not_built_says_so(tmp_path: Path, path: str, text: str) -> None:
    @in_loop
    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            assert await refused(cluster.raw(path)(b"")) == ("UNIMPLEMENTED", text)

    scenario()


async def never() -> AsyncIterator[etcd.WatchRequest]:
    await asyncio.Event().wait()
    yield etcd.WatchRequest()


@in_loop
async def test_a_stream_that_is_not_built_is_refused_before_its_first_message(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        watch = stub(cluster.channel, etcd, "Watch").Watch(never())
        async with asyncio.timeout(5):
            assert (await refused(watch.read()))[0] == "UNIMPLEMENTED"


@in_loop
async def test_reflection_lists_the_services_and_shows_their_files(tmp_path: Path) -> None:
    async def questions() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol="regatta.v1.KV")

    async with running(tmp_path) as cluster:
        stub = reflection_pb2_grpc.ServerReflectionStub(cluster.channel)
        listing, file = [answer async for answer in stub.ServerReflectionInfo(questions())]
        listed = {service.name for service in listing.list_services_response.service}
        assert listed >= api_services() | {"grpc.health.v1.Health"}
        described = descriptor_pb2.FileDescriptorProto.FromString(
            file.file_descriptor_response.file_descriptor_proto[0]
        )
        assert "KV" in {service.name for service in described.service}


@in_loop
async def test_health_is_serving(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        stub = health_pb2_grpc.HealthStub(cluster.channel)
        assert (
            await stub.Check(health_pb2.HealthCheckRequest())
        ).status == health_pb2.HealthCheckResponse.SERVING
        assert (await refused(stub.Check(health_pb2.HealthCheckRequest(service="nope"))))[0] == "NOT_FOUND"


@in_loop
async def test_a_bug_of_ours_is_an_internal_error_not_a_riddle(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        # REPLICA_STATUS answered with bytes that are none.
        cluster.workers[1, 1].script[frames.REPLICA_STATUS] = lambda _: frames.Reply(body=b"\xff")
        status = cluster.raw("/etcdserverpb.Maintenance/Status")
        assert await refused(status(etcd.StatusRequest().SerializeToString())) == (
            "INTERNAL",
            "boathouse: internal error: DecodeError",
        )


class LeavingClient:
    """The context of a call whose client goes away while a message is written."""

    def __init__(self, seen_as: BaseException) -> None:
        self._seen_as = seen_as
        self.aborted: list[str] = []

    def time_remaining(self) -> None:
        return None

    async def write(self, _message: bytes) -> None:
        raise self._seen_as

    async def abort(self, code: grpc.StatusCode, _text: str) -> None:
        self.aborted.append(code.name)


async def stream_to(client: LeavingClient) -> bool:
    """Send a stream there; whether it was closed."""
    closed = False

    async def parts(_body: bytes, _metadata: Metadata, _deadline: float) -> AsyncGenerator[bytes, None]:
        nonlocal closed
        try:
            yield b"first"
        finally:
            closed = True

    api = Api(statuses=outcomes.REGATTA, message_bytes_max=10)
    route = Route(path="/a.B/C", api=api, timeout_s=1, streaming=parts)
    door = Door(asyncio.get_running_loop(), [route], known_services=frozenset(), unserved=api)
    handler: Any = door.service(SimpleNamespace(method="/a.B/C", invocation_metadata=()))  # type: ignore[arg-type]
    with contextlib.suppress(asyncio.CancelledError):
        await handler.unary_stream(b"", client)
    return closed


@in_loop
async def test_a_stream_is_closed_at_once_when_its_client_leaves_between_two_messages() -> None:
    assert await stream_to(LeavingClient(asyncio.CancelledError()))


@in_loop
async def test_a_client_that_leaves_within_a_message_is_no_bug_of_ours() -> None:
    # gRPC may notice by a failing write before it cancels the call.
    client = LeavingClient(grpc.aio.InternalError())
    assert await stream_to(client)
    assert client.aborted == ["UNAVAILABLE"]
