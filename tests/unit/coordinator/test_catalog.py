"""The catalog's first start, its refresh, and tables that one half of the cluster has not heard of."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from config import TableConfig
from coordinator.catalog.cache import CREATE_ATTEMPTS_MAX
from coordinator.server import Coordinator
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from tests.unit.coordinator.running import (
    DEFAULT_TABLE_ID,
    in_loop,
    make_config,
    refused,
    running,
    sockets_of,
)
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
async def test_coordinators_that_start_together_agree(tmp_path: Path) -> None:
    async with running(tmp_path, leader=None) as cluster:
        others = [
            Coordinator(cluster.cluster, cluster.cluster.node(name), sockets_of(cluster.cluster, name))
            for name in ("n2", "n3")
        ]
        for other in others:
            await other.start()
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
    tables = {f"t{number}": TableConfig() for number in range(CREATE_ATTEMPTS_MAX + 1)}
    async with running(tmp_path, config=config.model_copy(update={"tables": tables})) as cluster:
        assert len(cluster.stores[1].tables) == 1 + len(tables)
    assert "kept changing the catalog" not in capsys.readouterr().out


@in_loop
async def test_a_table_made_elsewhere_is_found_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.stores[1].perform(frames.Request(method=frames.TABLE_CREATE, table_id=10_002))
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
        first, second = (request.request_id for request in leader.requests(frames.ETCD_PUT))
        assert first != second
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
        add_entry(cluster, "good", b'{"id":10001,"shard":1}')
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
