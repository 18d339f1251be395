"""Free pages go back to the disk a few at a time, and whoever asked is answered when they are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.replica.defragment import STEP_PAGES
from tests.unit.shardworker.bench import everything_deleted

if TYPE_CHECKING:
    from tests.unit.shardworker.bench import Bench


def free_much(bench: Bench) -> None:
    """Four values of a megabyte are deleted, and their history with them."""
    bench.write(frames.ETCD_DELETE_RANGE, everything_deleted())
    compaction = etcd.CompactionRequest(revision=bench.answer(bench.ask(frames.TABLE_STATUS)).revision)
    bench.write(frames.ETCD_COMPACT, compaction.SerializeToString())
    for _ in range(10):
        bench.tick()
        bench.work()


def test_the_file_gets_shorter_in_steps(alone: Bench) -> None:
    free_much(alone)
    free, pages = alone.store.free_pages(), alone.store.connection.pragma("page_count")
    assert free > 8 * STEP_PAGES
    first = alone.ask(frames.DEFRAGMENT, work=False)
    assert 0 < free - alone.store.free_pages() <= STEP_PAGES
    second = alone.ask(frames.DEFRAGMENT, work=False)
    assert first not in alone.replies
    assert alone.replica.status().statistics["defragments_waiting"] == 2
    alone.work()
    for call in (first, second):
        assert alone.answer(call).body == b""
    assert alone.replica.status().statistics["defragments_waiting"] == 0
    assert alone.store.free_pages() < STEP_PAGES
    assert alone.store.connection.pragma("page_count") <= pages - free + STEP_PAGES


def test_what_holds_no_free_pages_is_done_at_once(alone: Bench) -> None:
    free_much(alone)
    alone.answer(alone.ask(frames.DEFRAGMENT))
    assert alone.answer(alone.ask(frames.DEFRAGMENT)).body == b""


def test_everything_is_still_there(alone: Bench) -> None:
    alone.write(frames.ETCD_PUT, etcd.PutRequest(key=b"kept", value=b"v").SerializeToString())
    alone.write(frames.ETCD_DELETE_RANGE, etcd.DeleteRangeRequest(key=b"0").SerializeToString())
    free_much(alone)
    alone.write(frames.ETCD_PUT, etcd.PutRequest(key=b"kept", value=b"w").SerializeToString())
    alone.answer(alone.ask(frames.DEFRAGMENT))
    body = etcd.RangeRequest(key=b"kept").SerializeToString()
    (kv,) = etcd.RangeResponse.FromString(alone.answer(alone.ask(frames.ETCD_RANGE, body)).body).kvs
    assert kv.value == b"w"
    assert alone.store.connection.execute("PRAGMA integrity_check").get == "ok"
