"""Lock and Election through a real gRPC server and real ZeroMQ links, over fake replicas: how long somebody waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from coordinator.services.contention import leave_unless_first
from proto.etcd import election_pb2 as election
from proto.etcd import kv_pb2 as kv
from proto.etcd import lock_pb2 as lock
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from tests.stubs import stub
from tests.unit.coordinator.running import in_loop, make_config, running
from tests.unit.machine.shard import Shard
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

INSISTS = (("hasleader", "true"),)
NAMED = (("boathouse-request-id", "a name of my own"),)
NO_LEADER = ("UNAVAILABLE", "etcdserver: no leader")
REVISION = 5
HOLDER = kv.KeyValue(key=b"name/1", create_revision=3, mod_revision=3)


def _changes(request: frames.Request) -> frames.Reply | None:
    """Nothing happens in the table."""
    if frames.ChangesRequest.FromString(request.body).wait_ms:
        return None
    told = frames.TableChanges(first=REVISION + 1, through=REVISION)
    return frames.Reply(call=request.call, revision=REVISION, term=1, body=told.SerializeToString())


def _held(request: frames.Request) -> frames.Reply:
    """Somebody else came first."""
    body = etcd.RangeResponse(kvs=[HOLDER], count=1).SerializeToString()
    return frames.Reply(call=request.call, revision=REVISION, term=1, body=body)


def _entered(request: frames.Request) -> frames.Reply:
    body = etcd.TxnResponse(
        succeeded=True,
        responses=[
            etcd.ResponseOp(response_put=etcd.PutResponse()),
            etcd.ResponseOp(response_range=etcd.RangeResponse(kvs=[HOLDER])),
        ],
    )
    return frames.Reply(call=request.call, revision=REVISION, term=1, body=body.SerializeToString())


@in_loop
async def test_who_waits_and_insists_on_a_leader_is_told_that_there_is_none(tmp_path: Path) -> None:
    config = make_config(tmp_path, nodes=3, shards=2)
    raft = config.raft.model_copy(update={"tick_ms": 10})
    async with running(tmp_path, config=config.model_copy(update={"raft": raft})) as cluster:
        leader = cluster.workers[2, 1]
        leader.script |= {
            frames.TABLE_CHANGES: _changes,
            frames.TABLE_STATUS: lambda request: frames.Reply(call=request.call, revision=REVISION, term=1),
            frames.ETCD_RANGE: _held,
            frames.ETCD_TXN: _entered,
        }
        locks, elections = stub(cluster.channel, lock, "Lock"), stub(cluster.channel, election, "Election")
        waiting = [
            asyncio.ensure_future(locks.Lock(lock.LockRequest(name=b"name", lease=number), metadata=metadata))
            for number, metadata in ((7, INSISTS), (8, ()))
        ]
        observing = [
            elections.Observe(election.LeaderRequest(name=b"name"), metadata=metadata)
            for metadata in (INSISTS, ())
        ]
        for stream in observing:
            assert (await stream.read()).kv == HOLDER
        await wait_until_async(
            lambda: len(leader.requests(frames.ETCD_TXN)) == 2 and leader.requests(frames.TABLE_CHANGES),
            timeout_s=10,
            what="both to wait in line",
        )
        cluster.elect(2, 0, term=4)
        for ends in (waiting[0], asyncio.ensure_future(observing[0].read())):
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await ends
            assert (ended.value.code().name, ended.value.details()) == NO_LEADER
        assert not waiting[1].done()
        cluster.elect(2, 1, term=5)
        await wait_until_async(
            lambda: leader.requests(frames.ETCD_DELETE_RANGE),
            timeout_s=10,
            what="the key of who waits no longer to be taken back",
        )
        (left,) = leader.requests(frames.ETCD_DELETE_RANGE)
        assert etcd.DeleteRangeRequest.FromString(left.body).key == b"name/7"
        waiting[1].cancel()
        observing[1].cancel()


def _granted(request: frames.Request) -> frames.Reply:
    body = etcd.LeaseGrantResponse(ID=7, TTL=60).SerializeToString()
    return frames.Reply(call=request.call, revision=REVISION, term=1, body=body)


@in_loop
async def test_each_write_of_a_call_under_a_clients_own_id_has_an_id_and_the_same_when_it_is_repeated(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as cluster:
        leader = cluster.workers[1, 1]
        leader.script |= {
            frames.TABLE_CHANGES: _changes,
            frames.TABLE_STATUS: lambda request: frames.Reply(call=request.call, revision=REVISION, term=1),
            frames.LEASE_GRANT: _granted,
            frames.ETCD_RANGE: _held,
            frames.ETCD_TXN: _entered,
        }
        locks, elections = stub(cluster.channel, lock, "Lock"), stub(cluster.channel, election, "Election")

        async def tried(ask: Callable[[], Awaitable[object]]) -> list[bytes]:
            """The ids of what it wrote until its client has gone and it has left the line."""
            leader.seen.clear()
            waiting = asyncio.ensure_future(ask())
            await wait_until_async(
                lambda: leader.requests(frames.TABLE_CHANGES), timeout_s=10, what="it to wait in line"
            )
            waiting.cancel()
            await wait_until_async(lambda: len(_written(leader.seen)) == 3, timeout_s=10, what="it to leave")
            return _written(leader.seen)

        for ask in (
            lambda: locks.Lock(lock.LockRequest(name=b"name"), metadata=NAMED),
            lambda: elections.Campaign(election.CampaignRequest(name=b"name"), metadata=NAMED),
        ):
            first = await tried(ask)
            assert len(set(first)) == 3
            leaving = etcd.TxnRequest.FromString(leader.requests(frames.ETCD_TXN)[-1].body)
            assert (leaving.compare[0].key, leaving.compare[0].range_end) == (b"name/", b"name0")
            assert await tried(ask) == first


def test_who_may_have_been_told_that_he_is_first_is_not_taken_out_of_the_line() -> None:
    """A call that gives up may have been repeated, through a coordinator that saw him come to its head."""
    shard = Shard()
    first, _ = shard.put(b"name/1")
    second, _ = shard.put(b"name/2")

    def leave(key: bytes, revision: int) -> list[bytes]:
        delete = etcd.RequestOp(request_delete_range=etcd.DeleteRangeRequest(key=key))
        shard.run(leave_unless_first(b"name/", revision, delete))
        return [pair.key for pair in shard.range(b"name/", b"name0")[1].kvs]

    assert leave(b"name/1", first) == [b"name/1", b"name/2"]
    assert leave(b"name/2", second) == [b"name/1"]


OWN = kv.KeyValue(key=b"name/7", create_revision=REVISION, mod_revision=REVISION)


def _entered_first(request: frames.Request) -> frames.Reply:
    """What the write came to when it was made; to a repeat it is said again, whatever has become of the key."""
    body = etcd.TxnResponse(
        succeeded=True,
        responses=[
            etcd.ResponseOp(response_put=etcd.PutResponse()),
            etcd.ResponseOp(response_range=etcd.RangeResponse(kvs=[OWN])),
        ],
    )
    return frames.Reply(call=request.call, revision=REVISION, term=1, body=body.SerializeToString())


@pytest.mark.parametrize("now", [OWN, None, kv.KeyValue(key=OWN.key, create_revision=REVISION + 1)])
@in_loop
async def test_who_repeats_a_call_hears_that_he_is_first_only_if_he_still_is(
    now: kv.KeyValue | None, tmp_path: Path
) -> None:
    def found(request: frames.Request) -> frames.Reply:
        older_only = etcd.RangeRequest.FromString(request.body).max_create_revision
        kvs = [] if now is None or older_only else [now]
        body = etcd.RangeResponse(kvs=kvs, count=len(kvs)).SerializeToString()
        return frames.Reply(call=request.call, revision=REVISION, term=1, body=body)

    async with running(tmp_path) as cluster:
        cluster.workers[1, 1].script |= {frames.ETCD_RANGE: found, frames.ETCD_TXN: _entered_first}
        locks, elections = stub(cluster.channel, lock, "Lock"), stub(cluster.channel, election, "Election")
        asked = lock.LockRequest(name=b"name", lease=7)
        assert (await locks.Lock(asked)).key == OWN.key
        campaign = election.CampaignRequest(name=b"name", lease=7)
        if now is OWN:
            assert (await locks.Lock(asked, metadata=NAMED)).key == OWN.key
            assert (await elections.Campaign(campaign, metadata=NAMED)).leader.rev == REVISION
            return
        with pytest.raises(grpc.aio.AioRpcError, match="mutex: session is expired"):
            await locks.Lock(asked, metadata=NAMED)
        with pytest.raises(grpc.aio.AioRpcError, match="election: not leader"):
            await elections.Campaign(campaign, metadata=NAMED)


def _written(requests: Sequence[frames.Request]) -> list[bytes]:
    return [request.request_id for request in requests if request.request_id]
