"""regatta.v1.KV through a real gRPC server and real ZeroMQ links, over fake replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.internal import frames_pb2 as frames
from proto.regatta import mvcc_pb2 as mvcc
from proto.regatta import regatta_pb2 as regatta
from tests.unit.coordinator.running import DEFAULT_TABLE_ID, in_loop, refused, running
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

PUT = regatta.PutRequest(table=b"default", key=b"k", value=b"v")
ALL = regatta.RangeRequest(table=b"default", key=b"\0", range_end=b"\0")


def part(key: bytes, *, cursor: int = 0) -> frames.Reply:
    body = regatta.RangeResponse(kvs=[mvcc.KeyValue(key=key)], count=1, more=cursor != 0)
    return frames.Reply(term=1, leader=1, body=body.SerializeToString(), cursor=cursor)


@in_loop
async def test_headers_name_shard_replica_and_leader(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2, leader=3) as cluster:
        header = (await cluster.regatta.Put(PUT)).header
        assert (header.shard_id, header.replica_id, header.revision) == (2, 1, 2)
        assert (header.raft_term, header.raft_leader_id) == (1, 3)


@in_loop
async def test_reads_are_serializable_unless_asked_otherwise(tmp_path: Path) -> None:
    one = regatta.RangeRequest(table=b"default", key=b"k")
    linearizable = regatta.RangeRequest(table=b"default", key=b"k", linearizable=True)
    read_txn = regatta.TxnRequest(table=b"default")
    read_txn.success.add().request_range.key = b"k"
    txn = regatta.TxnRequest(table=b"default")
    txn.success.add()  # nothing set: a write
    delete = regatta.DeleteRangeRequest(table=b"default", key=b"k")
    async with running(tmp_path, leader=2) as cluster:
        cluster.forget_requests()
        await cluster.regatta.Range(one)
        await cluster.regatta.Range(linearizable)
        await cluster.regatta.Txn(read_txn)
        await cluster.regatta.Txn(txn)
        await cluster.regatta.DeleteRange(delete)
        local, leader = cluster.workers[1, 1].seen, cluster.workers[1, 2].seen
    assert [(request.method, request.body) for request in local] == [
        (frames.REGATTA_RANGE, one.SerializeToString())
    ]
    assert [
        (request.method, request.body, bool(request.request_id), request.linearizable) for request in leader
    ] == [
        (frames.REGATTA_RANGE, linearizable.SerializeToString(), False, True),
        (frames.REGATTA_TXN, read_txn.SerializeToString(), False, True),
        (frames.REGATTA_TXN, txn.SerializeToString(), True, False),
        (frames.REGATTA_DELETE_RANGE, delete.SerializeToString(), True, False),
    ]


@in_loop
async def test_refusals_come_in_upstreams_order_and_words(tmp_path: Path) -> None:
    long = bytes(1025)
    async with running(tmp_path) as cluster:
        get, put, txn = cluster.regatta.Range, cluster.regatta.Put, cluster.regatta.Txn
        cluster.forget_requests()
        cases: list[tuple[Awaitable[object], str, str]] = [
            (get(regatta.RangeRequest(limit=-1)), "INVALID_ARGUMENT", "limit must be a positive number"),
            (get(regatta.RangeRequest()), "INVALID_ARGUMENT", "table must be set"),
            (get(regatta.RangeRequest(table=b"x")), "INVALID_ARGUMENT", "key must be set"),
            (
                get(regatta.RangeRequest(table=b"x", key=b"k", min_mod_revision=1)),
                "UNIMPLEMENTED",
                "min_mod_revision not implemented",
            ),
            (get(regatta.RangeRequest(table=b"x", key=long)), "NOT_FOUND", "table not found"),
            (get(regatta.RangeRequest(table=b"\xff", key=b"k")), "NOT_FOUND", "table not found"),
            (
                get(regatta.RangeRequest(table=b"default", key=long)),
                "FAILED_PRECONDITION",
                "key length exceeded max allowed value",
            ),
            (
                put(regatta.PutRequest(table=b"default", key=b"k", value=bytes(2_097_153))),
                "FAILED_PRECONDITION",
                "value length exceeded max allowed value",
            ),
            (txn(regatta.TxnRequest(table=b"x")), "NOT_FOUND", "table not found"),
        ]
        for call, code, text in cases:
            assert await refused(call) == (code, text)
        malformed = cluster.raw("/regatta.v1.KV/Put")(b"\x0a\xff")
        assert (await refused(malformed))[0] == "INTERNAL"
        assert not any(request.table_id == DEFAULT_TABLE_ID for request in cluster.workers[1, 1].seen)


@in_loop
async def test_a_put_of_two_mebibytes_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.regatta.Put(regatta.PutRequest(table=b"default", key=b"k", value=bytes(2_097_152)))


@in_loop
async def test_a_stuck_write_times_out_in_regattas_words(tmp_path: Path) -> None:
    async with running(tmp_path, write_timeout_ms=200) as cluster:
        cluster.workers[1, 1].script[frames.REGATTA_PUT] = lambda _: None
        assert await refused(cluster.regatta.Put(PUT)) == ("UNAVAILABLE", "timeout")


@in_loop
async def test_an_iteration_goes_part_by_part_to_the_replica_that_opened_it(tmp_path: Path) -> None:
    async with running(tmp_path, leader=2) as cluster:
        local = cluster.workers[1, 1]
        local.script[frames.REGATTA_ITERATE] = lambda _: part(b"a", cursor=77)
        parts = iter([part(b"b", cursor=77), part(b"c")])
        local.script[frames.CURSOR_NEXT] = lambda _: next(parts)
        messages = [message async for message in cluster.regatta.IterateRange(ALL)]
        assert [message.kvs[0].key for message in messages] == [b"a", b"b", b"c"]
        assert [message.more for message in messages] == [True, True, False]
        assert {message.header.raft_term for message in messages} == {1}
        assert [request.cursor for request in local.requests(frames.CURSOR_NEXT)] == [77, 77]
        assert not local.requests(frames.CURSOR_CLOSE)


@in_loop
async def test_an_iteration_that_its_client_leaves_is_closed(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        local = cluster.workers[1, 1]
        local.script[frames.REGATTA_ITERATE] = lambda _: part(b"a", cursor=5)
        local.script[frames.CURSOR_NEXT] = lambda _: None
        local.script[frames.CURSOR_CLOSE] = lambda _: frames.Reply()
        call = cluster.regatta.IterateRange(ALL)
        assert (await anext(aiter(call))).kvs[0].key == b"a"
        await wait_until_async(lambda: local.requests(frames.CURSOR_NEXT), timeout_s=5, what="the next part")
        call.cancel()
        closed = await wait_until_async(
            lambda: local.requests(frames.CURSOR_CLOSE), timeout_s=5, what="the cursor to be closed"
        )
        assert [request.cursor for request in closed] == [5]


@pytest.mark.parametrize("loss", ["killed", "forgotten"])
def test_an_iteration_whose_view_is_lost_ends_as_unavailable(tmp_path: Path, loss: str) -> None:
    @in_loop
    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            local = cluster.workers[1, 1]
            local.script[frames.REGATTA_ITERATE] = lambda _: part(b"a", cursor=5)
            if loss == "forgotten":
                local.script[frames.CURSOR_NEXT] = lambda _: errors.CursorNotFound()
            else:
                local.script[frames.CURSOR_NEXT] = lambda _: None
            call = cluster.regatta.IterateRange(ALL)
            messages = aiter(call)
            await anext(messages)
            if loss == "killed":
                await wait_until_async(
                    lambda: local.requests(frames.CURSOR_NEXT), timeout_s=5, what="the next part"
                )
                local.stop()
            assert await refused(anext(messages)) == ("UNAVAILABLE", "request aborted")

    scenario()


@in_loop
async def test_an_iteration_is_refused_like_a_range(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        call = cluster.regatta.IterateRange(regatta.RangeRequest(table=b"nowhere", key=b"k"))
        assert await refused(anext(aiter(call))) == ("NOT_FOUND", "table not found")
