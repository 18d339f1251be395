"""What clients notice of replicas that come, go, pause and change their minds: as little as possible."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from tests.unit.coordinator.running import in_loop, refused, running
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from pathlib import Path

PUT = etcd.PutRequest(key=b"k", value=b"v")
GET = etcd.RangeRequest(key=b"k")
STALE_GET = etcd.RangeRequest(key=b"k", serializable=True)


@in_loop
async def test_a_not_leader_answer_is_followed_to_the_leader(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        deposed, leader = cluster.workers[1, 1], cluster.workers[1, 3]
        # The coordinator has not been told: it learns from the refusal, whose reply carries term and leader.
        deposed.term, deposed.leader = 2, 3
        leader.term, leader.leader = 2, 3
        assert (await cluster.etcd.Put(PUT)).header.raft_term == 2
        [refused_put] = deposed.requests(frames.ETCD_PUT)
        [put] = leader.requests(frames.ETCD_PUT)
        assert put.request_id == refused_put.request_id


@in_loop
async def test_a_killed_leader_fails_no_call_and_doubles_none(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        old, new = cluster.workers[1, 1], cluster.workers[1, 2]
        # It applies every put and dies before it can answer the later half.
        answered = 0

        def half(request: frames.Request) -> frames.Reply | None:
            nonlocal answered
            revision, body = old.store.perform(request)
            answered += 1
            return None if answered > 20 else frames.Reply(revision=revision, body=body, term=1)

        old.script[frames.ETCD_PUT] = half
        puts = [
            asyncio.ensure_future(cluster.etcd.Put(etcd.PutRequest(key=b"%d" % number, value=b"v")))
            for number in range(40)
        ]
        await wait_until_async(lambda: answered == 40, timeout_s=5, what="all puts at the leader")
        old.stop()
        for worker in (new, cluster.workers[1, 3]):
            worker.believe(term=2, leader=2)
        revisions = [(await put).header.revision for put in puts]
        assert sorted(revisions) == list(range(2, 42))
        assert set(old.store.applied.values()) == {1}


@in_loop
async def test_calls_wait_for_an_election(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.workers[1, 1].stop()
        put, get = cluster.etcd.Put(PUT), cluster.etcd.Range(GET)
        calls = asyncio.gather(put, get)
        # Serializable reads need no leader meanwhile.
        await cluster.etcd.Range(STALE_GET)
        assert not put.done()
        for node in (2, 3):
            cluster.workers[1, node].believe(term=2, leader=3)
        await calls


@in_loop
async def test_a_paused_leader_is_left_behind(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        paused = cluster.workers[1, 1]
        paused.silent = True
        put = asyncio.ensure_future(cluster.etcd.Put(PUT))
        await wait_until_async(
            lambda: paused.requests(frames.ETCD_PUT), timeout_s=5, what="the put to arrive"
        )
        for node in (2, 3):
            cluster.workers[1, node].believe(term=2, leader=2)
        assert (await put).header.revision == 2
        # It wakes up and answers after all: nobody waits for that any more, and nothing breaks.
        paused.silent = False
        paused.leader = 1
        paused.reply_later(paused.requests(frames.ETCD_PUT)[0])
        assert (await cluster.etcd.Put(PUT)).header.revision == 3


@in_loop
async def test_a_restarted_replica_is_found_again(tmp_path: Path) -> None:
    async with running(tmp_path, nodes=1) as cluster:
        worker = cluster.workers[1, 1]
        await cluster.etcd.Put(PUT)
        worker.stop()
        put = asyncio.ensure_future(cluster.etcd.Put(PUT))
        worker.start()
        assert (await put).header.revision == 3
        assert worker.hellos >= 2


@in_loop
async def test_an_unknown_fate_ends_in_etcds_timeout_text(tmp_path: Path) -> None:
    async with running(tmp_path, write_timeout_ms=300, read_timeout_ms=300) as cluster:
        cluster.workers[1, 1].script[frames.ETCD_PUT] = lambda _: None
        cluster.workers[1, 1].script[frames.ETCD_RANGE] = lambda _: errors.LeaderLost()
        expected = ("UNAVAILABLE", "etcdserver: request timed out")
        assert await refused(cluster.etcd.Put(PUT)) == expected
        assert await refused(cluster.etcd.Range(GET)) == expected


@in_loop
async def test_without_any_leader_calls_time_out_but_stale_reads_work(tmp_path: Path) -> None:
    async with running(tmp_path, write_timeout_ms=1_000) as cluster:
        cluster.elect(1, 0, term=2)
        write, read = cluster.etcd.Put(PUT), cluster.etcd.Range(GET)
        assert (await cluster.etcd.Range(STALE_GET)).header.raft_term == 2
        expected = ("UNAVAILABLE", "etcdserver: request timed out")
        assert [await refused(write), await refused(read)] == [expected, expected]


@in_loop
async def test_a_shut_down_replica_passes_stale_reads_on(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.workers[1, 1].script[frames.ETCD_RANGE] = lambda _: errors.ShuttingDown()
        await cluster.etcd.Range(STALE_GET)
        # The catalog is read by the same method, by and by.
        asked = [one.body for node in (2, 3) for one in cluster.workers[1, node].requests(frames.ETCD_RANGE)]
        assert asked.count(STALE_GET.SerializeToString()) == 1


@in_loop
async def test_a_stop_lets_calls_end_and_refuses_new_ones(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        leader = cluster.workers[1, 1]
        leader.script[frames.ETCD_PUT] = lambda _: None
        put = asyncio.ensure_future(cluster.etcd.Put(PUT))
        await wait_until_async(
            lambda: leader.requests(frames.ETCD_PUT), timeout_s=5, what="the put to arrive"
        )
        stopping = asyncio.ensure_future(cluster.coordinator.stop())
        await wait_until_async(
            lambda: refused(cluster.etcd.Range(GET)), timeout_s=5, what="a refusal", not_yet=(AssertionError,)
        )
        leader.reply_later(leader.requests(frames.ETCD_PUT)[0])
        assert (await put).header.revision == 2
        await stopping


@in_loop
async def test_a_physical_compaction_is_waited_for_under_one_id(tmp_path: Path) -> None:
    async with running(tmp_path, write_timeout_ms=300, read_timeout_ms=300) as cluster:
        leader = cluster.workers[1, 1]
        leader.script[frames.ETCD_COMPACT] = lambda _: None
        expected = ("UNAVAILABLE", "etcdserver: request timed out")
        assert await refused(cluster.etcd.Compact(etcd.CompactionRequest(revision=1))) == expected
        before = len(leader.requests(frames.ETCD_COMPACT))
        waiting = asyncio.ensure_future(
            cluster.etcd.Compact(etcd.CompactionRequest(revision=1, physical=True))
        )

        def asked() -> list[bytes]:
            return [request.request_id for request in leader.requests(frames.ETCD_COMPACT)[before:]]

        await wait_until_async(lambda: len(asked()) >= 3, timeout_s=5, what="more of the same")
        assert len(set(asked())) == 1
        leader.script[frames.ETCD_COMPACT] = lambda _: frames.Reply(revision=7)
        assert (await waiting).header.revision == 7
