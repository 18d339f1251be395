"""etcdserverpb.Lease through a real gRPC server and real ZeroMQ links, over fake replicas."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from coordinator.front.grpc_wire import PREFIX_BYTES
from coordinator.front.incoming import MESSAGE_OBJECT_BYTES
from coordinator.services.etcd_lease import KEEP_ALIVES_MAX
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from tests.stubs import stub
from tests.unit.coordinator.running import Running, in_loop, make_config, refused, running
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

NO_LEADER = ("UNAVAILABLE", "etcdserver: no leader")
TTL_S = 9
FIRST_LEASE = 8


def lease(cluster: Running) -> Any:
    return stub(cluster.channel, etcd, "Lease")


def renewed(request: frames.Request) -> frames.Reply:
    """A lease lives if its id is even."""
    lease_id = etcd.LeaseKeepAliveRequest.FromString(request.body).ID
    answer = etcd.LeaseKeepAliveResponse(ID=lease_id, TTL=0 if lease_id % 2 else TTL_S)
    return frames.Reply(call=request.call, revision=7, term=3, body=answer.SerializeToString())


def keep_alives(ids: Iterable[int]) -> list[etcd.LeaseKeepAliveRequest]:
    return [etcd.LeaseKeepAliveRequest(ID=lease_id) for lease_id in ids]


@in_loop
async def test_writes_carry_the_least_time_to_live_and_a_request_id(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.forget_requests()
        await lease(cluster).LeaseGrant(etcd.LeaseGrantRequest(TTL=-5, ID=7))
        await lease(cluster).LeaseGrant(etcd.LeaseGrantRequest(TTL=100))
        await lease(cluster).LeaseRevoke(etcd.LeaseRevokeRequest(ID=7))
        seen = cluster.workers[1, 1].seen
        least = cluster.cluster.raft.lease_ttl_s_min
    assert least == 2
    assert [(request.method, len(request.request_id)) for request in seen] == [
        (frames.LEASE_GRANT, 16),
        (frames.LEASE_GRANT, 16),
        (frames.LEASE_REVOKE, 16),
    ]
    granted = [etcd.LeaseGrantRequest.FromString(request.body) for request in seen[:2]]
    assert [(request.ID, request.TTL) for request in granted] == [(7, least), (0, 100)]


@in_loop
async def test_reads_go_to_a_leader_that_proves_itself(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.forget_requests()
        await lease(cluster).LeaseTimeToLive(etcd.LeaseTimeToLiveRequest(ID=7, keys=True))
        await lease(cluster).LeaseLeases(etcd.LeaseLeasesRequest())
        seen = cluster.workers[1, 1].seen
    assert [(request.method, request.linearizable) for request in seen] == [
        (frames.LEASE_TIME_TO_LIVE, True),
        (frames.LEASE_LEASES, True),
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.LeaseNotFound(), ("NOT_FOUND", "etcdserver: requested lease not found")),
        (errors.LeaseExists(), ("FAILED_PRECONDITION", "etcdserver: lease already exists")),
        (errors.LeaseTTLTooLarge(), ("OUT_OF_RANGE", "etcdserver: too large lease TTL")),
    ],
)
@in_loop
async def test_errors_leave_as_etcds_do(
    tmp_path: Path, error: errors.BoathouseError, status: tuple[str, str]
) -> None:
    async with running(tmp_path) as cluster:
        cluster.workers[1, 1].script[frames.LEASE_GRANT] = lambda _: error
        assert await refused(lease(cluster).LeaseGrant(etcd.LeaseGrantRequest(TTL=5))) == status


@in_loop
async def test_a_stream_answers_each_request_and_ends_with_its_client(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.workers[1, 1].script[frames.LEASE_KEEP_ALIVE] = renewed
        ids = [*range(3 * KEEP_ALIVES_MAX), 4, 4]
        answers = [answer async for answer in lease(cluster).LeaseKeepAlive(iter(keep_alives(ids)))]
        assert [answer.ID for answer in answers] == ids
        assert all(answer.TTL == (0 if answer.ID % 2 else TTL_S) for answer in answers)
        assert all((answer.header.revision, answer.header.raft_term) == (7, 3) for answer in answers)
        assert [answer async for answer in lease(cluster).LeaseKeepAlive(iter([]))] == []


async def asked_together(cluster: Running, ids: Iterable[int]) -> Any:
    """A stream whose first renewal was answered once all others had come, too."""
    worker = cluster.workers[1, 1]
    worker.script[frames.LEASE_KEEP_ALIVE] = lambda _: None
    requests = keep_alives([FIRST_LEASE, *ids])
    stream = lease(cluster).LeaseKeepAlive(iter(requests))
    waiting_bytes = sum(PREFIX_BYTES + request.ByteSize() + MESSAGE_OBJECT_BYTES for request in requests[1:])
    await wait_until_async(
        lambda: len(renewals(cluster)) == 1 and cluster.coordinator._front.request_bytes == waiting_bytes,
        timeout_s=5,
        what="all requests",
    )
    worker.answer(renewed(renewals(cluster)[0]))
    return stream


def renewals(cluster: Running) -> list[frames.Request]:
    """Those that a replica was asked for."""
    return cluster.workers[1, 1].requests(frames.LEASE_KEEP_ALIVE)


@in_loop
async def test_answers_keep_the_order_of_the_requests(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        stream = await asked_together(cluster, [2, 4, 6])
        await wait_until_async(lambda: len(renewals(cluster)) == 4, timeout_s=5, what="all renewals")
        for request in reversed(renewals(cluster)[1:]):
            cluster.workers[1, 1].answer(renewed(request))
        assert [answer.ID async for answer in stream] == [FIRST_LEASE, 2, 4, 6]


@in_loop
async def test_what_was_renewed_ahead_of_a_refusal_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        worker = cluster.workers[1, 1]
        stream = await asked_together(cluster, [2, 4, 6])
        await wait_until_async(lambda: len(renewals(cluster)) == 4, timeout_s=5, what="all renewals")
        _, second, third, fourth = renewals(cluster)
        refusal = errors.PermissionDenied()
        worker.answer(frames.Reply(call=third.call, error=refusal.frame_code))
        worker.answer(renewed(second))
        worker.answer(renewed(fourth))
        assert [(await stream.read()).ID for _ in range(2)] == [FIRST_LEASE, 2]
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stream.read()
        assert ended.value.code() is grpc.StatusCode.PERMISSION_DENIED


@in_loop
async def test_a_stream_has_so_many_renewals_under_way_and_no_more(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        stream = await asked_together(cluster, [2] * 2 * KEEP_ALIVES_MAX)
        await wait_until_async(
            lambda: len(renewals(cluster)) > KEEP_ALIVES_MAX, timeout_s=5, what="many renewals"
        )
        await cluster.etcd.Put(etcd.PutRequest(key=b"k"))
        assert len(renewals(cluster)) == 1 + KEEP_ALIVES_MAX
        stream.cancel()


@in_loop
async def test_without_a_leader_a_stream_ends_and_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, read_timeout_ms=500) as cluster:
        cluster.elect(1, 0, term=2)

        async def said() -> AsyncIterator[etcd.LeaseKeepAliveRequest]:
            for request in keep_alives([2, 4]):
                yield request
            await asyncio.Event().wait()

        stream = lease(cluster).LeaseKeepAlive(said())
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await anext(aiter(stream))
        assert (ended.value.code().name, ended.value.details()) == NO_LEADER
        time_to_live = lease(cluster).LeaseTimeToLive(etcd.LeaseTimeToLiveRequest(ID=7))
        assert await refused(time_to_live) == NO_LEADER


@in_loop
async def test_an_idle_stream_that_insists_on_a_leader_ends_without_one(tmp_path: Path) -> None:
    config = make_config(tmp_path, nodes=3, shards=1)
    raft = config.raft.model_copy(update={"tick_ms": 10})
    async with running(tmp_path, config=config.model_copy(update={"raft": raft})) as cluster:
        cluster.workers[1, 1].script[frames.LEASE_KEEP_ALIVE] = renewed
        insists, stays = (
            lease(cluster).LeaseKeepAlive(metadata=metadata) for metadata in ((("hasleader", "true"),), ())
        )
        for stream in (insists, stays):
            await stream.write(etcd.LeaseKeepAliveRequest(ID=2))
            assert (await stream.read()).TTL == TTL_S
        cluster.elect(1, 0, term=4)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await insists.read()
        assert (ended.value.code().name, ended.value.details()) == NO_LEADER
        cluster.elect(1, 1, term=5)
        await stays.write(etcd.LeaseKeepAliveRequest(ID=4))
        assert (await stays.read()).TTL == TTL_S
        stays.cancel()


@in_loop
async def test_the_gateway_has_both_forms_of_each_path(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.workers[1, 1].script[frames.LEASE_KEEP_ALIVE] = renewed
        for path in (
            "/v3/lease/grant", "/v3/lease/revoke", "/v3/kv/lease/revoke", "/v3/lease/timetolive",
            "/v3/kv/lease/timetolive", "/v3/lease/leases", "/v3/kv/lease/leases",
        ):  # fmt: skip
            await posted(cluster, path, b'{"ID":"7"}')
        lines = await posted(cluster, "/v3/lease/keepalive", b'{"ID":"2"}{"ID":3}')
    results = [json.loads(line)["result"] for line in lines.splitlines()]
    assert [(result["ID"], result.get("TTL")) for result in results] == [("2", "9"), ("3", None)]


async def posted(cluster: Running, path: str, body: bytes) -> bytes:
    """The answer of the JSON gateway."""
    url = f"http://{cluster.cluster.node('n1').client_endpoint}{path}"

    def post() -> bytes:
        with urllib.request.urlopen(url, data=body, timeout=10) as page:
            answer: bytes = page.read()
            return answer

    return await asyncio.to_thread(post)
