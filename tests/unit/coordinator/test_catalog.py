"""The catalog's first start, its refresh, and tables that one half of the cluster has not heard of."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING

from config import TableConfig
from coordinator.catalog.bootstrap import LOST_TRIES_MAX
from coordinator.server import Coordinator
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2 as regatta
from tests.unit.coordinator.fake_worker import FakeTable
from tests.unit.coordinator.running import (
    DEFAULT_TABLE_ID,
    in_loop,
    make_config,
    refused,
    running,
    sockets_of,
)
from tests.unit.coordinator.test_etcd_pages import ask
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.unit.coordinator.running import Running

GET = etcd.RangeRequest(key=b"k")


def add_entry(cluster: Running, name: str, value: bytes) -> None:
    catalog = cluster.stores[1].tables[1]
    catalog.revision += 1
    catalog.rows[b"tables/" + name.encode()] = (value, catalog.revision)


def refreshes(cluster: Running) -> int:
    """Linearizable reads of the whole catalog so far."""
    return sum(
        etcd.RangeRequest.FromString(request.body).key == b"tables/"
        for request in cluster.workers[1, 1].requests(frames.ETCD_RANGE)
        if request.table_id == 1
    )


@in_loop
async def test_the_files_tables_are_made_once(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2) as cluster:
        rows = cluster.stores[1].tables[1].rows
        assert json.loads(rows[b"tables/default"][0]) == {
            "id": DEFAULT_TABLE_ID,
            "shard": 2,
            "history": "all",
        }
        assert rows[b"next_id"][0] == b"10002"
        [created] = cluster.workers[2, 1].requests(frames.TABLE_CREATE)
        spec = frames.TableSpec.FromString(created.body)
        assert (spec.id, spec.name, spec.history) == (DEFAULT_TABLE_ID, "default", -1)
        # A second coordinator of the same cluster finds them and changes nothing.
        before = dict(rows)
        other = Coordinator(cluster.cluster, cluster.cluster.node("n2"), sockets_of(cluster.cluster, "n2"))
        await other.start()
        await wait_until_async(lambda: other.ready, timeout_s=5, what="the second coordinator")
        await other.stop()
        assert rows == before
        assert len(cluster.workers[2, 1].requests(frames.TABLE_CREATE)) == 1


@in_loop
async def test_clients_are_taken_once_the_tables_are_known(tmp_path: Path) -> None:
    async with running(tmp_path, leader=None) as cluster:
        node = cluster.cluster.node("n2")
        other = Coordinator(cluster.cluster, node, sockets_of(cluster.cluster, "n2"))
        try:
            asked = asyncio.create_task(ask(f"http://{node.http_endpoint}/healthz"))
            starting = asyncio.create_task(other.start())
            await wait_until_async(
                lambda: cluster.workers[1, 2].requests(frames.ETCD_RANGE),
                timeout_s=5,
                what="a look at the catalog",
            )
            assert not starting.done()
            assert not asked.done()
            cluster.elect(1, 1, term=1)
            await asyncio.wait_for(starting, 10)
            assert other.ready
            assert (await asyncio.wait_for(asked, 10))[0] == 200
        finally:
            await other.stop()


@in_loop
async def test_coordinators_that_start_together_agree(tmp_path: Path) -> None:
    async with running(tmp_path, leader=None) as cluster:
        others = [
            Coordinator(cluster.cluster, cluster.cluster.node(name), sockets_of(cluster.cluster, name))
            for name in ("n2", "n3")
        ]
        for other in others:
            await other.start(catalog_s=0)
        cluster.elect(1, 1, term=1)
        await wait_until_async(
            lambda: all(coordinator.ready for coordinator in (cluster.coordinator, *others)),
            timeout_s=10,
            what="all three",
        )
        for other in others:
            await other.stop()
        assert set(cluster.stores[1].tables) == {1, DEFAULT_TABLE_ID}
        assert cluster.stores[1].tables[1].rows[b"next_id"][0] == b"10002"


@in_loop
async def test_tables_without_a_shard_of_their_own_are_spread(tmp_path: Path) -> None:
    config = make_config(tmp_path, nodes=1, shards=3)
    tables: dict[str, object] = {name: {} for name in ("a", "b", "c", "d")} | {
        "fixed": {"shard": 2, "history": 5}
    }
    config = type(config).model_validate({**config.model_dump(), "tables": tables})
    async with running(tmp_path, config=config) as cluster:
        rows = cluster.stores[1].tables[1].rows
        entries = {key[7:].decode(): json.loads(value) for key, (value, _) in rows.items() if b"/" in key}
        # The catalog itself counts for shard 1.
        assert {name: entry["shard"] for name, entry in entries.items()} == {
            "fixed": 2, "a": 3, "b": 1, "c": 2, "d": 3,
        }  # fmt: skip
        assert entries["fixed"]["history"] == 5


@in_loop
async def test_many_tables_are_made_without_a_complaint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path, nodes=1, shards=1)
    tables = {f"t{number}": TableConfig() for number in range(LOST_TRIES_MAX + 1)}
    async with running(tmp_path, config=config.model_copy(update={"tables": tables})) as cluster:
        assert len(cluster.stores[1].tables) == 1 + len(tables)
    assert "kept changing the catalog" not in capsys.readouterr().out


@in_loop
async def test_a_table_made_elsewhere_is_found_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.stores[1].tables[10_002] = FakeTable("new", 0)
        add_entry(cluster, "new", b'{"id":10002,"shard":1,"history":"none"}')
        await cluster.etcd.Range(GET, metadata=(("table", "new"),))
        assert cluster.workers[1, 1].requests(frames.ETCD_RANGE)[-1].table_id == 10_002


@in_loop
async def test_a_table_in_the_catalog_only_is_made_by_whoever_needs_it(tmp_path: Path) -> None:
    async with running(tmp_path, leader=2) as cluster:
        add_entry(cluster, "half", b'{"id":10002,"shard":1,"history":7}')
        put = etcd.PutRequest(key=b"k", value=b"v")
        await cluster.etcd.Put(put, metadata=(("table", "half"), ("boathouse-request-id", "a")))
        leader = cluster.workers[1, 2]
        assert frames.TableSpec.FromString(leader.requests(frames.TABLE_CREATE)[-1].body).history == 7
        # It was there before it was written to.
        assert len(leader.requests(frames.ETCD_PUT)) == 1
        assert cluster.stores[1].tables[10_002].rows[b"k"][0] == b"v"


@in_loop
async def test_a_lagging_replica_without_the_table_passes_the_read_on(tmp_path: Path) -> None:
    async with running(tmp_path, leader=2) as cluster:
        cluster.workers[1, 1].script[frames.ETCD_RANGE] = lambda _: errors.TableNotFound()
        await cluster.etcd.Range(etcd.RangeRequest(key=b"k", serializable=True))
        assert cluster.workers[1, 2].requests(frames.ETCD_RANGE)[-1].linearizable


@in_loop
async def test_many_unknown_names_cost_few_reads(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        before = refreshes(cluster)
        calls = [cluster.etcd.Range(GET, metadata=(("table", f"t{number}"),)) for number in range(50)]
        for call in calls:
            assert (await refused(call))[0] == "NOT_FOUND"
        assert refreshes(cluster) - before <= 3


@in_loop
async def test_unreadable_entries_hide_no_others(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        for name, value in {
            "junk": b"no json",
            "list": b"[]",
            "far": b'{"id":10003,"shard":99}',
            "low": b'{"id":1,"shard":1}',
        }.items():
            add_entry(cluster, name, value)
        add_entry(cluster, "good", b'{"id":10002,"shard":1}')
        await cluster.etcd.Range(GET, metadata=(("table", "good"),))
        for name in ("junk", "list", "far", "low"):
            assert (await refused(cluster.etcd.Range(GET, metadata=(("table", name),))))[0] == "NOT_FOUND"


@in_loop
async def test_a_table_that_is_about_to_be_made_is_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path, leader=None) as cluster:
        get = asyncio.ensure_future(cluster.etcd.Range(GET, wait_for_ready=True))
        await wait_until_async(lambda: cluster.workers[1, 1].hellos, timeout_s=5, what="the links")
        cluster.elect(1, 1, term=1)
        await get


@in_loop
async def test_calls_that_wait_for_a_name_count_as_waiting(tmp_path: Path) -> None:
    async with running(tmp_path, leader=None, pending_bytes_max=2_000, read_timeout_ms=1_000) as cluster:
        gets = [
            cluster.etcd.Range(etcd.RangeRequest(key=bytes(600)), metadata=(("table", f"t{number}"),))
            for number in range(4)
        ]
        found = Counter([await refused(get) for get in gets])
        assert found == {
            ("UNAVAILABLE", "etcdserver: request timed out"): 3,
            ("RESOURCE_EXHAUSTED", "etcdserver: too many requests"): 1,
        }
        cluster.elect(1, 1, term=1)
        await wait_until_async(lambda: cluster.coordinator.ready, timeout_s=5, what="the catalog")
        assert (await refused(cluster.etcd.Range(GET, metadata=(("table", "t"),))))[0] == "NOT_FOUND"


@in_loop
async def test_a_name_with_another_table_is_read_and_written_there(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2) as cluster:
        put = etcd.PutRequest(key=b"k", value=b"v")
        await cluster.etcd.Put(put)
        # Deleted, and made anew on the other shard, by somebody else.
        del cluster.stores[2].tables[DEFAULT_TABLE_ID]
        cluster.stores[1].tables[10_002] = FakeTable("default")
        add_entry(cluster, "default", b'{"id":10002,"shard":1}')
        for worker in (cluster.workers[1, 1], cluster.workers[1, 2], cluster.workers[1, 3]):
            worker.believe(term=9, leader=1)
        answer = await cluster.etcd.Put(put, metadata=(("boathouse-request-id", "a"),))
        assert (answer.header.revision, answer.header.raft_term) == (2, 9)
        # Said again, it is the same write, though it goes straight to the new table.
        again = await cluster.etcd.Put(put, metadata=(("boathouse-request-id", "a"),))
        assert again.header.revision == 2
        assert 10_001 not in cluster.stores[2].tables
        assert not cluster.workers[2, 1].requests(frames.TABLE_CREATE)[1:]


@in_loop
async def test_an_iteration_of_a_name_with_another_table_goes_on_where_it_began(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2) as cluster:
        del cluster.stores[2].tables[DEFAULT_TABLE_ID]
        cluster.stores[1].tables[10_002] = FakeTable("default")
        add_entry(cluster, "default", b'{"id":10002,"shard":1}')
        new = cluster.workers[1, 1]
        body = regatta.RangeResponse(count=1).SerializeToString()
        new.script[frames.REGATTA_ITERATE] = lambda _: frames.Reply(body=body, term=1, cursor=3)
        new.script[frames.CURSOR_NEXT] = lambda _: frames.Reply(body=body, term=1)
        everything = regatta.RangeRequest(table=b"default", key=b"\0", range_end=b"\0")
        parts = [part async for part in cluster.regatta.IterateRange(everything)]
        assert [part.header.shard_id for part in parts] == [1, 1]
        [following] = new.requests(frames.CURSOR_NEXT)
        assert (following.table_id, following.cursor) == (10_002, 3)


def rows_of(cluster: Running) -> dict[str, dict[str, object]]:
    """The catalog's tables by name."""
    rows = cluster.stores[1].tables[1].rows
    return {key[7:].decode(): json.loads(value) for key, (value, _) in rows.items() if b"/" in key}


async def elect_all(cluster: Running) -> None:
    for shard in cluster.stores:
        cluster.elect(shard, 1, term=1)
    await wait_until_async(lambda: cluster.coordinator.ready, timeout_s=10, what="the catalog")


@in_loop
async def test_a_lost_catalog_is_restored_from_what_the_shards_hold(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2, leader=None) as cluster:
        cluster.stores[2].tables = {10_007: FakeTable("default"), 10_003: FakeTable("made later", 5)}
        await elect_all(cluster)
        assert rows_of(cluster) == {
            "default": {"id": 10_007, "shard": 2, "history": "all"},
            "made later": {"id": 10_003, "shard": 2, "history": 5},
        }
        assert cluster.stores[1].tables[1].rows[b"next_id"][0] == b"10008"
        assert not cluster.workers[2, 1].requests(frames.TABLE_CREATE)
        await cluster.etcd.Range(GET)


@in_loop
async def test_an_id_is_not_given_twice_though_the_catalog_is_old(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2, leader=None) as cluster:
        add_entry(cluster, "x", b'{"id":10001,"shard":1}')
        cluster.stores[1].tables[1].rows[b"next_id"] = (b"10002", 2)
        cluster.stores[1].tables[10_001] = FakeTable("x")
        cluster.stores[1].tables[10_004] = FakeTable("forgotten")
        await elect_all(cluster)
        assert rows_of(cluster)["default"]["id"] == 10_005
        assert cluster.stores[1].tables[1].rows[b"next_id"][0] == b"10006"


@in_loop
async def test_a_name_that_some_shard_has_already_is_not_made_again(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2, leader=None) as cluster:
        cluster.stores[1].tables[1].rows[b"next_id"] = (b"10002", 2)
        cluster.stores[1].tables[10_004] = FakeTable("default")
        await elect_all(cluster)
        assert rows_of(cluster) == {}
        assert (await refused(cluster.etcd.Range(GET)))[0] == "NOT_FOUND"


@in_loop
async def test_a_table_that_is_another_in_its_shard_is_not_served(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2, leader=None) as cluster:
        for name, table_id in {"a": 10_001, "b": 10_002, "c": 10_003}.items():
            add_entry(cluster, name, b'{"id":%d,"shard":1}' % table_id)
        cluster.stores[1].tables[1].rows[b"next_id"] = (b"10010", 2)
        cluster.stores[1].tables |= {
            10_001: FakeTable("b"),
            10_002: FakeTable("b", 3),
            10_003: FakeTable("c"),
        }
        await elect_all(cluster)
        for name in ("a", "b"):
            code, text = await refused(cluster.etcd.Range(GET, metadata=(("table", name),)))
            assert code == "DATA_LOSS"
            assert f"the catalog says that table {name!r} has id" in text
        await cluster.etcd.Range(GET, metadata=(("table", "c"),))
