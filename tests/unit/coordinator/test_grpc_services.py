"""Health and reflection: as functions, without any transport, and once through the port."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from coordinator.api.call import ANYBODY, Identity
from coordinator.apis import API_FILES, GRPC_FILES, GRPC_SERVICES
from coordinator.services.health import Health
from coordinator.services.reflection import Reflection
from proto import errors
from proto.catalog import FIRST_TABLE_ID, TableEntry
from proto.codes import Code
from proto.ids import ShardId
from tests.unit.coordinator.running import in_loop, refused, running
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

Question = reflection_pb2.ServerReflectionRequest
Answer = reflection_pb2.ServerReflectionResponse


@dataclass
class DirectCall:
    """A call that no transport carries."""

    body: bytes = b""
    requests: tuple[bytes, ...] = ()
    sent: list[bytes] = field(default_factory=list)
    metadata: Mapping[str, str] = field(default_factory=dict)
    deadline: float = math.inf
    peer: str = "test"
    identity: Identity = ANYBODY
    table: str = ""

    async def messages(self) -> AsyncIterator[bytes]:
        while batch := await self.take_messages(1):
            yield batch[0]

    async def take_messages(self, count_max: int) -> Sequence[bytes]:
        taken, self.requests = self.requests[:count_max], self.requests[count_max:]
        return taken

    def add_header(self, name: str, value: str) -> None:
        raise AssertionError("nobody asked for it")

    add_trailer = add_header

    async def send(self, message: bytes) -> None:
        self.sent.append(message)

    async def send_all(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            await self.send(message)

    def send_now(self, messages: Sequence[bytes]) -> bool:
        return False


# ---- health ----------------------------------------------------------------------------------------------------


def asking(service: str) -> DirectCall:
    return DirectCall(body=health_pb2.HealthCheckRequest(service=service).SerializeToString())


def status_in(message: bytes) -> int:
    return int(health_pb2.HealthCheckResponse.FromString(message).status)


class Tables:
    """One table, `t`, unless nobody can say."""

    def __init__(self) -> None:
        self.has_leader = True
        self.is_silent = False

    async def find(self, name: str) -> TableEntry | None:
        if self.is_silent:
            raise errors.ReadTimedOut
        return TableEntry(name, FIRST_TABLE_ID, ShardId(2)) if name == "t" else None

    def is_led(self, table: TableEntry) -> bool:
        assert table.shard == 2
        return self.has_leader


@in_loop
async def test_a_table_is_as_well_as_its_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.services.health.LOOK_INTERVAL_S", 0.01)
    tables = Tables()
    health = Health({"a.A"}, tables)
    assert status_in(await health.check(asking("t"))) == SERVING
    watched, service = asking("t"), asking("a.A")
    watches = [asyncio.create_task(health.watch(call)) for call in (watched, service)]

    async def told(*expected: int) -> None:
        await wait_until_async(
            lambda: [status_in(message) for message in watched.sent] == list(expected),
            timeout_s=5,
            what="the watch to tell",
        )

    await told(SERVING)
    tables.has_leader = False
    assert status_in(await health.check(asking("t"))) == NOT_SERVING
    await told(SERVING, NOT_SERVING)
    tables.has_leader = True
    await told(SERVING, NOT_SERVING, SERVING)
    tables.is_silent = True
    await told(SERVING, NOT_SERVING, SERVING, NOT_SERVING)
    assert [status_in(message) for message in service.sent] == [SERVING], "the node is well"
    tables.is_silent = False
    await told(SERVING, NOT_SERVING, SERVING, NOT_SERVING, SERVING)
    health.close()
    assert status_in(await health.check(asking("t"))) == NOT_SERVING
    ends = await asyncio.gather(*watches, return_exceptions=True)
    assert [type(end) for end in ends] == [errors.ShuttingDown] * 2
    assert status_in(watched.sent[-1]) == NOT_SERVING


@in_loop
async def test_a_table_is_looked_at_once_however_many_watch_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.services.health.LOOK_INTERVAL_S", 0.01)
    looked = 0

    class Counted(Tables):
        async def find(self, name: str) -> TableEntry | None:
            nonlocal looked
            looked += 1
            return await super().find(name)

    tables = Counted()
    health = Health({}, tables)
    calls = [asking("t") for _ in range(100)]
    watches = [asyncio.create_task(health.watch(call)) for call in calls]
    await wait_until_async(lambda: all(call.sent for call in calls), timeout_s=5, what="the first answers")
    looked = 0
    await wait_until_async(lambda: looked >= 5, timeout_s=5, what="looks")
    assert looked < 50
    tables.has_leader = False
    for watch in watches[1:50]:
        watch.cancel()
    left = [calls[0], *calls[50:]]
    await wait_until_async(
        lambda: all(status_in(call.sent[-1]) == NOT_SERVING for call in left), timeout_s=5, what="the news"
    )
    for watch in watches:
        watch.cancel()
    await asyncio.gather(*watches, return_exceptions=True)
    await wait_until_async(
        lambda: not any("_keep_looking" in repr(task) for task in asyncio.all_tasks()),
        timeout_s=5,
        what="nobody to look any more",
    )
    again = asking("t")
    watch = asyncio.create_task(health.watch(again))
    await wait_until_async(lambda: bool(again.sent), timeout_s=5, what="the first answer")
    tables.has_leader = True
    await wait_until_async(lambda: len(again.sent) == 2, timeout_s=5, what="the news")
    health.close()
    with pytest.raises(errors.ShuttingDown):
        await watch
    assert status_in(again.sent[-1]) == NOT_SERVING


@in_loop
async def test_a_table_of_a_real_coordinator_loses_its_leader(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2) as cluster:
        stub = health_pb2_grpc.HealthStub(cluster.channel)
        request = health_pb2.HealthCheckRequest(service="default")
        assert (await stub.Check(request)).status == SERVING
        watch = stub.Watch(request)
        assert (await watch.read()).status == SERVING
        cluster.elect(2, 0, term=5)
        assert (await watch.read()).status == NOT_SERVING
        assert (await stub.Check(request)).status == NOT_SERVING
        whole = health_pb2.HealthCheckRequest()
        assert (await stub.Check(whole)).status == SERVING
        cluster.elect(2, 1, term=6)
        assert (await watch.read()).status == SERVING
        watch.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.Check(health_pb2.HealthCheckRequest(service="unheard-of"))
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


@in_loop
async def test_a_check_tells_of_one_service() -> None:
    health = Health({"a.A"}, Tables())
    for service in ("", "a.A"):
        assert status_in(await health.check(asking(service))) == SERVING
    with pytest.raises(errors.Absent, match="unknown service"):
        await health.check(asking("b.B"))
    with pytest.raises(errors.MalformedRequest):
        await health.check(DirectCall(body=b"\xff"))
    health.close()
    for service in ("", "a.A"):
        assert status_in(await health.check(asking(service))) == NOT_SERVING


@in_loop
async def test_a_watch_tells_of_the_end_and_ends() -> None:
    health = Health({"a.A"}, Tables())
    calls = {service: asking(service) for service in ("", "a.A", "b.B")}
    watches = [asyncio.create_task(health.watch(call)) for call in calls.values()]
    await wait_until_async(
        lambda: all(call.sent for call in calls.values()), timeout_s=5, what="first answers"
    )
    assert not any(watch.done() for watch in watches)
    health.close()
    ends = await asyncio.gather(*watches, return_exceptions=True)
    assert [type(end) for end in ends] == [errors.ShuttingDown] * 3
    told = {service: [status_in(message) for message in call.sent] for service, call in calls.items()}
    assert told == {"": [SERVING, NOT_SERVING], "a.A": [SERVING, NOT_SERVING], "b.B": [SERVICE_UNKNOWN]}

    late = asking("a.A")
    with pytest.raises(errors.ShuttingDown):
        await health.watch(late)
    assert [status_in(message) for message in late.sent] == [NOT_SERVING]


# ---- reflection ------------------------------------------------------------------------------------------------


def ask(*questions: reflection_pb2.ServerReflectionRequest) -> list[reflection_pb2.ServerReflectionResponse]:
    call = DirectCall(requests=tuple(question.SerializeToString() for question in questions))
    asyncio.run(Reflection({"a.A", *GRPC_SERVICES}, (*API_FILES, *GRPC_FILES)).answer_all(call))
    return [Answer.FromString(message) for message in call.sent]


def files_in(answer: reflection_pb2.ServerReflectionResponse) -> list[descriptor_pb2.FileDescriptorProto]:
    serialized = answer.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(file) for file in serialized]


def test_services_are_listed() -> None:
    (answer,) = ask(Question(host="h", list_services="*"))
    assert [service.name for service in answer.list_services_response.service] == [
        "a.A",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]
    assert answer.valid_host == "h"
    assert answer.original_request == Question(host="h", list_services="*")


@pytest.mark.parametrize(
    "symbol",
    [
        "etcdserverpb.KV",
        "etcdserverpb.KV.Range",
        "etcdserverpb.WatchCreateRequest.FilterType",
        "mvccpb.KeyValue",
        "mvccpb.KeyValue.key",
        "v3lockpb.Lock",
        "regatta.v1.Tables",
        "replication.v1.Log",
        "grpc.health.v1.HealthCheckResponse.ServingStatus",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflectionRequest",
    ],
)
def test_the_file_of_a_symbol_comes_with_all_that_it_needs(symbol: str) -> None:
    (answer,) = ask(Question(file_containing_symbol=symbol))
    files = files_in(answer)
    pool = descriptor_pool.DescriptorPool()
    for file in (*files[1:], files[0]):
        pool.AddSerializedFile(file.SerializeToString())
    # What is there of it is complete, or the pool would have refused it.
    assert pool.FindFileByName(files[0].name).package == files[0].package
    assert symbol.startswith(f"{files[0].package}.")


def test_a_client_gets_what_it_has_not_got() -> None:
    first, second, again = (
        [file.name for file in files_in(answer)]
        for answer in ask(
            Question(file_containing_symbol="etcdserverpb.KV"),
            Question(file_containing_symbol="v3lockpb.Lock"),
            Question(file_by_filename="proto/etcd/rpc.proto"),
        )
    )
    assert first[0] == "proto/etcd/rpc.proto"
    assert "proto/etcd/kv.proto" in first
    assert second == ["proto/etcd/lock.proto"]
    assert again == ["proto/etcd/rpc.proto"]


def test_extensions() -> None:
    numbers, extension = ask(
        Question(all_extension_numbers_of_type="etcdserverpb.PutRequest"),
        Question(
            file_containing_extension=reflection_pb2.ExtensionRequest(
                containing_type="etcdserverpb.PutRequest", extension_number=7
            )
        ),
    )
    assert numbers.all_extension_numbers_response.base_type_name == "etcdserverpb.PutRequest"
    assert list(numbers.all_extension_numbers_response.extension_number) == []
    assert extension.error_response.error_code == Code.NOT_FOUND


@pytest.mark.parametrize(
    ("question", "code"),
    [
        (Question(file_by_filename="nope.proto"), Code.NOT_FOUND),
        (Question(file_by_filename="proto/internal/frames.proto"), Code.NOT_FOUND),
        (Question(file_containing_symbol="nope.Nope"), Code.NOT_FOUND),
        (Question(file_containing_symbol=""), Code.NOT_FOUND),
        (Question(all_extension_numbers_of_type="nope.Nope"), Code.NOT_FOUND),
        (Question(), Code.INVALID_ARGUMENT),
    ],
)
def test_what_is_not_there_is_an_answer_and_the_stream_goes_on(
    question: reflection_pb2.ServerReflectionRequest, code: Code
) -> None:
    refusal, listing = ask(question, Question(list_services=""))
    assert refusal.error_response.error_code == code
    assert refusal.error_response.error_message
    assert listing.list_services_response.service


# ---- through the port ------------------------------------------------------------------------------------------


@in_loop
async def test_both_are_served(tmp_path: Path) -> None:
    async def question() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield Question(list_services="")

    async with running(tmp_path) as cluster:
        health = health_pb2_grpc.HealthStub(cluster.channel)
        for service in ("", "etcdserverpb.KV", "regatta.v1.KV", "grpc.health.v1.Health"):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=service))).status == SERVING
        answer = await refused(health.Check(health_pb2.HealthCheckRequest(service="nope")))
        assert answer == ("NOT_FOUND", "unknown service")
        for version in ("v1", "v1alpha"):
            path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            call = cluster.channel.stream_stream(path, Question.SerializeToString, Answer.FromString)
            (listing,) = [answer async for answer in call(question())]
            listed = {service.name for service in listing.list_services_response.service}
            assert {"etcdserverpb.KV", "regatta.v1.KV", *GRPC_SERVICES} <= listed
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        stopping = asyncio.create_task(cluster.coordinator.stop())
        assert (await watch.read()).status == NOT_SERVING
        assert (await refused(watch.read())) == ("UNAVAILABLE", "the server is stopping")
        await stopping


def test_a_coordinator_does_without_grpcio() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import coordinator.entry, sys; print('grpc' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "False\n"
