"""regatta.v1.Tables: codes and texts, where a table goes, and what a coordinator that dies half way leaves behind."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from coordinator.catalog import changes
from coordinator.server import Coordinator
from proto import errors
from proto.catalog import ELSEWHERE, TableEntry, encode_row, row_key
from proto.etcd import rpc_pb2 as etcd
from proto.ids import ShardId
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2 as regatta
from tests.stubs import stub
from tests.unit.coordinator.fake_worker import FakeTable
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

    from tests.unit.coordinator.running import Running

GET = etcd.RangeRequest(key=b"k")
PUT = etcd.PutRequest(key=b"k", value=b"v")


def tables_of(cluster: Running) -> Any:
    return stub(cluster.channel, regatta, "Tables")


def rows_of(cluster: Running) -> dict[bytes, bytes]:
    """The catalog's rows."""
    return {key: value for key, (value, _) in cluster.stores[1].tables[1].rows.items()}


def create(name: str, **config: str | float) -> regatta.CreateTableRequest:
    request = regatta.CreateTableRequest(name=name)
    request.config.update(config)
    return request


def delete(name: str) -> regatta.DeleteTableRequest:
    return regatta.DeleteTableRequest(name=name)


async def names(cluster: Running) -> list[tuple[str, str]]:
    response = await tables_of(cluster).List(regatta.ListTablesRequest())
    return [(table.name, table.id) for table in response.tables]


@in_loop
async def test_a_table_is_made_used_deleted_and_made_again(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        tables = tables_of(cluster)
        assert (await tables.Create(create("users"))).id == "10002"
        assert await names(cluster) == [("default", "10001"), ("users", "10002")]
        assert cluster.stores[1].tables[10_002].name == "users"
        await cluster.etcd.Put(PUT, metadata=(("table", "users"),))
        await tables.Delete(delete("users"))
        assert await names(cluster) == [("default", "10001")]
        assert cluster.stores[1].dead == {10_002}
        assert (await refused(cluster.etcd.Range(GET, metadata=(("table", "users"),))))[0] == "NOT_FOUND"
        assert (await tables.Create(create("users"))).id == "10003"
        assert not (await cluster.etcd.Range(GET, metadata=(("table", "users"),))).kvs
        assert not [key for key in rows_of(cluster) if key.startswith(b"deleted/")], "all is done"


@pytest.mark.parametrize(
    ("method", "request_", "expected"),
    [
        ("Create", create(""), ("INVALID_ARGUMENT", "name must be set")),
        ("Create", create("default"), ("INVALID_ARGUMENT", "table already exists")),
        ("Create", create("_catalog"), ("INVALID_ARGUMENT", "names that begin with _ are reserved")),
        ("Create", create("a/b"), ("INVALID_ARGUMENT", "a table name has no / and no control characters")),
        ("Create", create("a\nb"), ("INVALID_ARGUMENT", "a table name has no / and no control characters")),
        ("Create", create("ä" * 128), ("INVALID_ARGUMENT", "a table name has at most 255 bytes")),
        ("Create", create("x", shard=3), ("INVALID_ARGUMENT", "there is no shard 3; this cluster has")),
        ("Create", create("x", shard=1.5), ("INVALID_ARGUMENT", "there is no shard 1.5")),
        ("Create", create("x", shard="1"), ("INVALID_ARGUMENT", "there is no shard '1'")),
        ("Create", create("x", history=0), ("INVALID_ARGUMENT", "history 0 must be all, none, or")),
        ("Create", create("x", history="some"), ("INVALID_ARGUMENT", "history 'some' must be all")),
        ("Create", create("x", type="both"), ("INVALID_ARGUMENT", "type 'both' must be replicated or local")),
        (
            "Create",
            create("x", compaction="none"),
            ("INVALID_ARGUMENT", "compaction can't be given here: the cluster file"),
        ),
        ("Create", create("x", quota="2GB"), ("INVALID_ARGUMENT", "quota '2GB' must be none, a number of")),
        ("Create", create("x", quota=-1), ("INVALID_ARGUMENT", "quota -1 must be none, a number of bytes")),
        ("Create", create("x", quota=1.5), ("INVALID_ARGUMENT", "quota 1.5 must be none, a number of bytes")),
        ("Create", create("x", owner=7), ("INVALID_ARGUMENT", "owner must be at most 255 characters")),
        ("Delete", delete(""), ("INVALID_ARGUMENT", "name must be set")),
        ("Delete", delete("nobody"), ("INVALID_ARGUMENT", "table not found")),
        ("Delete", delete("_catalog"), ("INVALID_ARGUMENT", "table _catalog is boathouse's own, and stays")),
    ],
)
def test_codes_and_texts(tmp_path: Path, method: str, request_: Any, expected: tuple[str, str]) -> None:
    @in_loop
    async def scenario() -> None:
        async with running(tmp_path, shards=2) as cluster:
            before = rows_of(cluster)
            code, text = await refused(getattr(tables_of(cluster), method)(request_))
            assert code == expected[0]
            assert text.startswith(expected[1])
            assert rows_of(cluster) == before

    scenario()


@in_loop
async def test_a_shard_in_trouble_is_failed_precondition_as_in_regatta(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2) as cluster:
        for worker in cluster.workers.values():
            worker.script[frames.ETCD_RANGE] = lambda _: errors.QueueFull()
        trouble = "system is too busy try again later"
        tables = tables_of(cluster)
        assert await refused(tables.Create(create("x"))) == ("FAILED_PRECONDITION", trouble)
        assert await refused(tables.Delete(delete("x"))) == ("FAILED_PRECONDITION", trouble)
        assert await refused(tables.List(regatta.ListTablesRequest())) == ("UNAVAILABLE", trouble)


@in_loop
async def test_settings_are_kept_and_what_regatta_passes_over_is_passed_over(tmp_path: Path) -> None:
    async with running(tmp_path, shards=3) as cluster:
        request = create(
            "x", shard=2, history=7, type="local", owner="team a", quota="2MiB", compression="lz4"
        )
        await tables_of(cluster).Create(request)
        assert json.loads(rows_of(cluster)[b"tables/x"]) == {
            "id": 10_002, "shard": 2, "history": 7, "type": "local", "owner": "team a",
            "quota": 2 << 20,
        }  # fmt: skip
        assert cluster.stores[2].tables[10_002].history == 7


@in_loop
async def test_a_table_goes_where_there_is_least(tmp_path: Path) -> None:
    async with running(tmp_path, shards=3) as cluster:
        tables = tables_of(cluster)
        for (shard, _), worker in cluster.workers.items():
            worker.status.database_in_use_bytes = {1: 1 << 30, 2: 1 << 20, 3: 2 << 20}[shard]
        # Shard 3 holds `default`; what it has more of data than shard 2 is not worth mentioning.
        for name in ("a", "b", "c"):
            await tables.Create(create(name))
        placed = [json.loads(rows_of(cluster)[b"tables/" + name])["shard"] for name in (b"a", b"b", b"c")]
        assert placed == [2, 2, 3]


@in_loop
async def test_a_copy_is_deleted_where_it_comes_from_and_what_nobody_copies_any_more_here(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as cluster:
        for name, origin in (("copy", 10_077), ("before", ELSEWHERE)):
            entry = TableEntry(name, 20_000 + len(name), ShardId(1), origin=origin)
            catalog, shard = cluster.stores[1].tables[1], cluster.stores[1]
            catalog.rows[row_key(name)] = encode_row(entry), catalog.revision
            shard.tables[entry.id] = FakeTable(name)
        refusal = await refused(tables_of(cluster).Delete(delete("copy")))
        assert refusal == ("UNIMPLEMENTED", "method Delete not implemented for follower")
        await tables_of(cluster).Delete(delete("before"))
        assert "copy" in dict(await names(cluster))
        assert "before" not in dict(await names(cluster))


@in_loop
async def test_a_restart_does_not_bring_back_what_was_deleted_by_hand(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await tables_of(cluster).Delete(delete("default"))
        other = Coordinator(cluster.cluster, cluster.cluster.node("n2"), sockets_of(cluster.cluster, "n2"))
        await other.start()
        await wait_until_async(lambda: other.ready, timeout_s=5, what="the second coordinator")
        await other.stop()
        assert await names(cluster) == []
        assert (await tables_of(cluster).Create(create("default"))).id == "10002"
        assert rows_of(cluster).keys() == {b"next_id", b"tables/default"}


@in_loop
async def test_a_deletion_that_nobody_finished_is_finished_by_who_starts(tmp_path: Path) -> None:
    async with running(tmp_path, leader=None) as cluster:
        catalog = cluster.stores[1].tables[1]
        catalog.rows[b"next_id"] = (b"10002", 2)
        catalog.rows[b"deleted/id/10001"] = (b'{"name":"x","id":10001,"shard":1,"history":"all"}', 2)
        cluster.stores[1].tables[10_001] = FakeTable("x")
        cluster.elect(1, 1, term=1)
        await wait_until_async(
            lambda: b"deleted/id/10001" not in catalog.rows, timeout_s=10, what="the end of the deletion"
        )
        assert 10_001 not in cluster.stores[1].tables
        assert cluster.stores[1].dead == {10_001}


@in_loop
async def test_a_coordinator_that_dies_between_the_steps_leaves_a_deletion_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "CHECK_INTERVAL_S", 0.05)
    async with running(tmp_path) as cluster:
        tables = tables_of(cluster)
        await tables.Create(create("x"))
        for worker in cluster.workers.values():
            worker.script[frames.TABLE_DELETE] = lambda _: None  # as if nobody had asked
        with pytest.raises(grpc.aio.AioRpcError):
            await tables.Delete(delete("x"), timeout=0.3)
        assert b"tables/x" not in rows_of(cluster)
        assert 10_002 in cluster.stores[1].tables
        # The name is not free: what bore it may still be there.
        with pytest.raises(grpc.aio.AioRpcError):
            await tables.Create(create("x"), timeout=0.3)
        for worker in cluster.workers.values():
            worker.script.clear()
        await wait_until_async(
            lambda: b"deleted/id/10002" not in rows_of(cluster), timeout_s=15, what="the end of the deletion"
        )
        assert cluster.stores[1].dead == {10_002}


@in_loop
async def test_a_late_creation_does_not_bring_a_deleted_table_back(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        tables = tables_of(cluster)
        held: list[frames.Request] = []
        for worker in cluster.workers.values():
            worker.script[frames.TABLE_CREATE] = lambda request: held.append(request)
        creation = asyncio.ensure_future(tables.Create(create("x")))
        await wait_until_async(lambda: bool(held), timeout_s=5, what="the second step")
        await tables.Delete(delete("x"))
        for worker in cluster.workers.values():
            worker.script.clear()
        cluster.workers[1, 1].reply_later(held[0])
        assert await refused(creation) == ("INVALID_ARGUMENT", "table not found")
        assert cluster.stores[1].tables.keys() == {1, DEFAULT_TABLE_ID}


@in_loop
async def test_an_id_is_not_given_twice_though_catalog_and_table_are_gone(tmp_path: Path) -> None:
    async with running(tmp_path, leader=None) as cluster:
        cluster.stores[1].dead = {10_001, 10_008}
        cluster.elect(1, 1, term=1)
        await wait_until_async(lambda: cluster.coordinator.ready, timeout_s=10, what="the catalog")
        assert await names(cluster) == [("default", "10009")]


@in_loop
async def test_a_name_that_only_a_replica_which_lags_still_has_is_free(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        tables = tables_of(cluster)
        await tables.Create(create("x"))
        lagging = cluster.workers[1, 3]

        def old_status(_: frames.Request) -> frames.Reply:
            status = frames.ReplicaStatus(shard=1, node=3, leader=1, term=1)
            status.tables.add(id=10_002, name="x", history=-1)
            return frames.Reply(term=1, leader=1, body=status.SerializeToString())

        lagging.script[frames.REPLICA_STATUS] = old_status
        await tables.Delete(delete("x"))
        assert (await tables.Create(create("x"))).id == "10003"


@in_loop
async def test_a_deletion_waits_for_replicas_that_lag_a_little(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        tables = tables_of(cluster)
        await tables.Create(create("x"))
        asked = 0

        def catching_up(request: frames.Request) -> frames.Reply:
            nonlocal asked
            asked += 1
            status = frames.ReplicaStatus(shard=1, node=3, leader=1, term=1)
            if asked < 4:
                status.tables.add(id=10_002, name="x", history=-1)
            return frames.Reply(term=1, leader=1, body=status.SerializeToString())

        cluster.workers[1, 3].script[frames.REPLICA_STATUS] = catching_up
        await tables.Delete(delete("x"))
        assert asked == 4


@in_loop
async def test_a_catalog_that_names_a_dead_id_serves_nothing_under_it(tmp_path: Path) -> None:
    """As after a catalog that was set back: the shard knows better."""
    async with running(tmp_path) as cluster:
        cluster.stores[1].dead = {10_005}
        catalog = cluster.stores[1].tables[1]
        catalog.revision += 1
        catalog.rows[b"tables/x"] = (b'{"id":10005,"shard":1}', catalog.revision)
        code, text = await refused(cluster.etcd.Range(GET, metadata=(("table", "x"),)))
        assert (code, text) == ("NOT_FOUND", "etcdserver: table not found")
        tables = tables_of(cluster)
        await tables.Delete(delete("x"))
        assert (await tables.Create(create("x"))).id == "10006"


@in_loop
async def test_a_catalog_that_names_a_dead_id_keeps_nobody_from_starting(tmp_path: Path) -> None:
    async with running(tmp_path, leader=None) as cluster:
        cluster.stores[1].dead = {10_005}
        catalog = cluster.stores[1].tables[1]
        catalog.rows[b"next_id"] = (b"10006", 2)
        catalog.rows[b"tables/x"] = (b'{"id":10005,"shard":1}', 2)
        cluster.elect(1, 1, term=1)
        await wait_until_async(lambda: cluster.coordinator.ready, timeout_s=10, what="the catalog")


@in_loop
async def test_one_deletion_that_is_stuck_keeps_no_other_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "CHECK_INTERVAL_S", 0.05)
    async with running(tmp_path) as cluster:
        catalog = cluster.stores[1].tables[1]

        def refuse_one(request: frames.Request) -> frames.Reply | errors.BoathouseError:
            spec = frames.TableSpec.FromString(request.body)
            return errors.QueueFull() if spec.id == 10_002 else frames.Reply(term=1, leader=1)

        cluster.workers[1, 1].script[frames.TABLE_DELETE] = refuse_one
        for table_id in (10_002, 10_003):
            row = b'{"name":"x%d","id":%d,"shard":1}' % (table_id, table_id)
            catalog.rows[b"deleted/id/%d" % table_id] = (row, 2)
        await wait_until_async(
            lambda: b"deleted/id/10003" not in catalog.rows, timeout_s=10, what="the end of the other"
        )
        assert b"deleted/id/10002" in catalog.rows


@in_loop
async def test_coordinators_that_make_tables_at_once_give_each_id_once(tmp_path: Path) -> None:
    config = make_config(tmp_path, nodes=3, shards=2)
    async with running(tmp_path, config=config) as cluster:
        other = Coordinator(config, config.node("n2"), sockets_of(config, "n2"))
        await other.start()
        async with grpc.aio.insecure_channel(config.node("n2").client_endpoint) as channel:
            there = stub(channel, regatta, "Tables")
            made = await asyncio.gather(
                *(tables_of(cluster).Create(create(f"a{number}")) for number in range(5)),
                *(there.Create(create(f"b{number}")) for number in range(5)),
            )
        assert len({response.id for response in made}) == 10
        await other.stop()
