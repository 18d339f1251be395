"""etcdserverpb.KV through a real gRPC server and real ZeroMQ links, over fake replicas."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from proto import errors
from proto.etcd import kv_pb2
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from tests.unit.coordinator.running import DEFAULT_TABLE_ID, in_loop, refused, running
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from pathlib import Path

PUT = etcd.PutRequest(key=b"k", value=b"v")
GET = etcd.RangeRequest(key=b"k")


@in_loop
async def test_put_and_range(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        put = await cluster.etcd.Put(PUT)
        assert put.header.revision == 2
        assert put.header.raft_term == 1
        assert put.header.cluster_id == cluster.cluster.cluster_id
        assert put.header.member_id == cluster.cluster.member_id("n1")
        got = await cluster.etcd.Range(GET)
        assert [(kv.key, kv.value) for kv in got.kvs] == [(b"k", b"v")]
        assert got.header.revision == 2


@in_loop
async def test_each_method_arrives_as_it_came(tmp_path: Path) -> None:
    txn = etcd.TxnRequest()
    txn.success.add().request_put.CopyFrom(PUT)
    read_txn = etcd.TxnRequest()
    read_txn.failure.add().request_range.CopyFrom(GET)
    stale_txn = etcd.TxnRequest()
    stale_txn.success.add().request_range.CopyFrom(etcd.RangeRequest(key=b"k", serializable=True))
    delete = etcd.DeleteRangeRequest(key=b"k", prev_kv=True)
    stale = etcd.RangeRequest(key=b"k", serializable=True)
    compaction = etcd.CompactionRequest(revision=1)
    async with running(tmp_path) as cluster:
        cluster.forget_requests()
        await cluster.etcd.Put(PUT)
        await cluster.etcd.DeleteRange(delete)
        await cluster.etcd.Txn(txn)
        await cluster.etcd.Compact(compaction)
        await cluster.etcd.Range(GET)
        await cluster.etcd.Range(stale)
        await cluster.etcd.Txn(read_txn)
        await cluster.etcd.Txn(stale_txn)
        seen = cluster.workers[1, 1].seen
    assert [
        (request.method, request.body, bool(request.request_id), request.linearizable) for request in seen
    ] == [
        (frames.ETCD_PUT, PUT.SerializeToString(), True, False),
        (frames.ETCD_DELETE_RANGE, delete.SerializeToString(), True, False),
        (frames.ETCD_TXN, txn.SerializeToString(), True, False),
        (frames.ETCD_COMPACT, compaction.SerializeToString(), True, False),
        (frames.ETCD_RANGE, GET.SerializeToString(), False, True),
        (frames.ETCD_RANGE, stale.SerializeToString(), False, False),
        (frames.ETCD_TXN, read_txn.SerializeToString(), False, True),
        (frames.ETCD_TXN, stale_txn.SerializeToString(), False, False),
    ]
    assert {request.table_id for request in seen} == {DEFAULT_TABLE_ID}
    assert len({request.request_id for request in seen[:4]}) == 4


@in_loop
async def test_many_calls_at_once_share_envelopes_and_are_all_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        puts = [cluster.etcd.Put(etcd.PutRequest(key=b"%d" % number, value=b"v")) for number in range(300)]
        revisions = sorted([(await put).header.revision for put in puts])
        assert revisions == list(range(2, 302))


@in_loop
async def test_metadata_names_the_table(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2) as cluster:
        await cluster.etcd.Range(GET, metadata=(("table", "_catalog"),))
        assert cluster.workers[1, 1].requests(frames.ETCD_RANGE)[-1].table_id == 1
        await cluster.etcd.Range(GET)
        assert cluster.workers[2, 1].requests(frames.ETCD_RANGE)[-1].table_id == DEFAULT_TABLE_ID
        unknown = cluster.etcd.Put(PUT, metadata=(("table", "nowhere"),))
        assert await refused(unknown) == ("NOT_FOUND", "etcdserver: table not found")


@in_loop
async def test_the_catalog_is_read_only_for_clients(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        code, text = await refused(cluster.etcd.Put(PUT, metadata=(("table", "_catalog"),)))
        assert code == "INVALID_ARGUMENT"
        assert "_catalog is read-only" in text


@in_loop
async def test_bad_requests_reach_no_replica(tmp_path: Path) -> None:
    async with running(tmp_path, request_bytes_max=4096) as cluster:
        cluster.forget_requests()
        put = cluster.raw("/etcdserverpb.KV/Put")
        code, text = await refused(put(b"\xff\xff"))
        assert code == "INTERNAL"
        assert text.startswith("grpc: error unmarshalling request: ")
        assert await refused(cluster.etcd.Put(etcd.PutRequest())) == (
            "INVALID_ARGUMENT",
            "etcdserver: key is not provided",
        )
        assert await refused(cluster.etcd.Put(etcd.PutRequest(key=b"k", value=bytes(4096)))) == (
            "INVALID_ARGUMENT",
            "etcdserver: request is too large",
        )
        limit = 4096 + (512 << 10)
        assert await refused(put(bytes(limit + 1))) == (
            "RESOURCE_EXHAUSTED",
            f"grpc: received message larger than max ({limit + 1} vs. {limit})",
        )
        # And over the port's own limit gRPC refuses by itself.
        assert (await refused(put(bytes((4 << 20) + 1))))[0] == "RESOURCE_EXHAUSTED"
        assert not cluster.workers[1, 1].seen


@in_loop
async def test_a_client_may_name_its_write_and_repeat_it(tmp_path: Path) -> None:
    named = (("boathouse-request-id", "order-17"),)
    async with running(tmp_path) as cluster:
        first = await cluster.etcd.Put(PUT, metadata=named)
        cluster.elect(1, 2, term=2)
        again = await cluster.etcd.Put(PUT, metadata=named)
        assert again.header.revision == first.header.revision == 2
        other = await cluster.etcd.Put(PUT, metadata=(("boathouse-request-id", "order-18"),))
        assert other.header.revision == 3
        for bad in ("", "x" * 129):
            code, text = await refused(cluster.etcd.Put(PUT, metadata=(("boathouse-request-id", bad),)))
            assert code == "INVALID_ARGUMENT"
            assert str(len(bad)) in text


@in_loop
async def test_a_read_that_may_be_stale_says_what_its_node_has_shown(tmp_path: Path) -> None:
    async with running(tmp_path, leader=2) as cluster:
        cluster.workers[1, 2].script[frames.ETCD_PUT] = lambda _: frames.Reply(revision=9)
        await cluster.etcd.Put(etcd.PutRequest(key=b"k"))
        await cluster.etcd.Range(etcd.RangeRequest(key=b"k", serializable=True))
        assert cluster.workers[1, 1].requests(frames.ETCD_RANGE)[-1].shown_revision == 9
        await cluster.etcd.Range(etcd.RangeRequest(key=b"k"))
        assert cluster.workers[1, 2].requests(frames.ETCD_RANGE)[-1].shown_revision == 0


@in_loop
async def test_reads_that_may_be_stale_wait_no_longer_for_what_was_taken_back(tmp_path: Path) -> None:
    """Nobody watches the table, which would find that out as well."""
    stale = etcd.RangeRequest(key=b"k", serializable=True)
    async with running(tmp_path, leader=2) as cluster:
        near, leader = cluster.workers[1, 1], cluster.workers[1, 2]
        leader.script[frames.ETCD_PUT] = lambda _: frames.Reply(revision=9)
        leader.script[frames.TABLE_STATUS] = lambda _: frames.Reply(revision=7)
        await cluster.etcd.Put(etcd.PutRequest(key=b"k"))
        await cluster.etcd.Range(stale)
        assert near.requests(frames.ETCD_RANGE)[-1].shown_revision == 9

        async def waits_for_less() -> bool:
            await cluster.etcd.Range(stale)
            return near.requests(frames.ETCD_RANGE)[-1].shown_revision == 7

        await wait_until_async(
            waits_for_less, timeout_s=5, what="a read that waits for no more than there is"
        )


@in_loop
async def test_hasleader_is_refused_while_no_leader_is_known(tmp_path: Path) -> None:
    stale = etcd.RangeRequest(key=b"k", serializable=True)
    async with running(tmp_path) as cluster:
        await cluster.etcd.Range(stale, metadata=(("hasleader", "true"),))
        cluster.elect(1, 0, term=2)
        await wait_until_async(
            lambda: not cluster.coordinator.leader_believed(1), timeout_s=5, what="the news to arrive"
        )
        without = cluster.etcd.Range(stale, metadata=(("hasleader", "true"),))
        assert await refused(without) == ("UNAVAILABLE", "etcdserver: no leader")
        await cluster.etcd.Range(stale)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.Compacted(), ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted")),
        (errors.NoSpace("n1"), ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded")),
        (errors.QueueFull("5"), ("RESOURCE_EXHAUSTED", "etcdserver: too many requests")),
        (errors.LeaseNotFound(), ("NOT_FOUND", "etcdserver: requested lease not found")),
        (errors.Corrupt("page 3"), ("DATA_LOSS", "etcdserver: corrupt cluster")),
    ],
)
def test_a_workers_error_arrives_in_etcds_words(
    tmp_path: Path, error: errors.BoathouseError, expected: tuple[str, str]
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            cluster.workers[1, 1].script[frames.ETCD_PUT] = lambda _: error
            assert await refused(cluster.etcd.Put(PUT)) == expected

    asyncio.run(scenario())


@in_loop
async def test_more_calls_than_allowed_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path, pending_requests_max=2) as cluster:
        cluster.workers[1, 1].script[frames.ETCD_PUT] = lambda _: None
        waiting = [cluster.etcd.Put(PUT) for _ in range(2)]
        await wait_until_async(
            lambda: len(cluster.workers[1, 1].requests(frames.ETCD_PUT)) == 2, timeout_s=5, what="two puts"
        )
        assert await refused(cluster.etcd.Put(PUT)) == ("RESOURCE_EXHAUSTED", "etcdserver: too many requests")
        for call in waiting:
            call.cancel()


@in_loop
async def test_the_term_shown_never_goes_down(tmp_path: Path) -> None:
    stale = etcd.RangeRequest(key=b"k", serializable=True)
    async with running(tmp_path) as cluster:
        for worker in cluster.workers.values():
            if worker.node != 1:
                worker.believe(term=5, leader=2)
        await wait_until_async(
            lambda: cluster.coordinator.leader_believed(1) == 2, timeout_s=5, what="the news"
        )
        assert (await cluster.etcd.Range(GET)).header.raft_term == 5
        # The local replica has not heard of term 5 yet.
        assert (await cluster.etcd.Range(stale)).header.raft_term == 5


@in_loop
async def test_a_range_in_parts_has_its_header_in_the_last(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        first = etcd.RangeResponse(kvs=[kv_pb2.KeyValue(key=b"a")]).SerializeToString()
        last = etcd.RangeResponse(kvs=[kv_pb2.KeyValue(key=b"b")], count=2).SerializeToString()
        worker = cluster.workers[1, 1]
        worker.script[frames.ETCD_RANGE_STREAM] = lambda _: frames.Reply(revision=7, body=first, cursor=5)
        worker.script[frames.CURSOR_NEXT] = lambda _: frames.Reply(revision=7, body=last)
        stream = cluster.etcd.RangeStream(etcd.RangeRequest(key=b"a", range_end=b"z"))
        heard = [answer.range_response async for answer in stream]
        assert [(kv.key, one.count) for one in heard for kv in one.kvs] == [(b"a", 0), (b"b", 2)]
        assert [one.header.revision for one in heard] == [0, 7]
        (asked,) = worker.requests(frames.ETCD_RANGE_STREAM)
        assert asked.linearizable
        with pytest.raises(grpc.aio.AioRpcError, match="key is not provided"):
            await cluster.etcd.RangeStream(etcd.RangeRequest()).read()
