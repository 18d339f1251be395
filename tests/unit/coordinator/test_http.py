"""The pages of the HTTP port, over fake workers."""

from __future__ import annotations

import asyncio
import gzip
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from config.process.names import ProcessName
from coordinator.metrics.siblings import Siblings
from proto.etcd import rpc_pb2
from proto.internal import figures_pb2 as figures
from proto.regatta import regatta_pb2
from tests.unit.coordinator.running import in_loop, running
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.coordinator.running import Running


async def get(endpoint: str, path: str) -> tuple[int, str]:
    """Status and body of a page."""

    def read() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{endpoint}{path}", timeout=10) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode()

    return await asyncio.to_thread(read)


async def post(url: str, body: bytes) -> int:
    """The status of an answer."""

    def read() -> int:
        try:
            with urllib.request.urlopen(url, body, timeout=10) as page:  # noqa: S310 - an http URL of this test
                return int(page.status)
        except urllib.error.HTTPError as refusal:
            refusal.close()
            return refusal.code

    return await asyncio.to_thread(read)


async def scrape(cluster: Running) -> dict[tuple[str, ...], float]:
    """All samples by name and label values, in the order of the labels' names."""
    status, text = await get(cluster.cluster.node("n1").http_endpoint, "/metrics")
    assert status == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@in_loop
async def test_metrics_say_how_this_nodes_replicas_are(tmp_path: Path) -> None:
    async with running(tmp_path, shards=2) as cluster:
        cluster.workers[2, 1].status.applied_index = 8
        cluster.workers[2, 1].status.statistics["cursors_open"] = 3
        before = await scrape(cluster)
        assert before["boathouse_replica_up", "1"] == before["boathouse_replica_up", "2"] == 1
        assert before["boathouse_replica_is_leader", "2"] == before["boathouse_replica_has_leader", "2"] == 1
        assert before["boathouse_replica_fault", "2"] == before["boathouse_replica_no_space", "2"] == 0
        assert before["boathouse_replica_applied_index", "2"] == 8
        assert before["boathouse_replica_cursors_open", "2"] == 3
        assert ("boathouse_replica_cursors_open", "1") not in before, "only what a replica counts"
        assert before["process_resident_memory_bytes",] > 0

        cluster.workers[2, 1].status.fault = "differs from the majority"
        cluster.workers[2, 1].status.no_space = True
        cluster.workers[2, 2].status.fault = "another node's"
        after = await scrape(cluster)
        assert after["boathouse_replica_fault", "2"] == after["boathouse_replica_no_space", "2"] == 1
        assert after["boathouse_replica_fault", "1"] == 0


@in_loop
async def test_a_replica_that_is_gone_is_down(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        cluster.workers[1, 1].stop()

        async def seen_down() -> bool:
            samples = await scrape(cluster)
            return (
                samples["boathouse_replica_up", "1"] == 0 and ("boathouse_replica_fault", "1") not in samples
            )

        await wait_until_async(seen_down, timeout_s=10, what="the replica to count as down")


@in_loop
async def test_alive_and_lost(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        endpoint = cluster.cluster.node("n1").http_endpoint
        assert await get(endpoint, "/healthz") == (200, "")
        status, text = await get(endpoint, "/")
        assert status == 404
        assert text.startswith("no such page; there are /metrics, /metrics/figures, /metrics/processes, ")


@in_loop
async def test_a_scrape_may_choose_and_compress(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        endpoint = cluster.cluster.node("n1").http_endpoint
        status, text = await get(endpoint, "/metrics?name[]=boathouse_replica_up")
        assert status == 200
        assert [line for line in text.splitlines() if not line.startswith("#")] == [
            'boathouse_replica_up{shard="1"} 1.0'
        ]

        def read() -> tuple[str | None, bytes]:
            request = urllib.request.Request(
                f"http://{endpoint}/metrics", headers={"Accept-Encoding": "gzip"}
            )
            with urllib.request.urlopen(request, timeout=10) as page:  # noqa: S310 - an http URL of this test
                return page.headers["Content-Encoding"], page.read()

        encoding, body = await asyncio.to_thread(read)
        assert encoding == "gzip"
        assert b"boathouse_replica_up" in gzip.decompress(body)


@in_loop
async def test_calls_are_counted_however_they_come_and_end(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        await cluster.etcd.Put(rpc_pb2.PutRequest(key=b"k", value=b"v"))
        with pytest.raises(grpc.aio.AioRpcError):
            await cluster.etcd.Put(rpc_pb2.PutRequest(value=b"v"))
        with pytest.raises(grpc.aio.AioRpcError):
            await cluster.etcd.Put(rpc_pb2.PutRequest(key=b"k"), metadata=(("table", "unheard-of"),))
        await cluster.regatta.Put(regatta_pb2.PutRequest(table=b"default", key=b"k", value=b"v"))
        endpoint = cluster.cluster.node("n1").http_endpoint
        assert await post(f"http://{endpoint}/v3/kv/put", b'{"key": "aw==", "value": "dg=="}') == 200
        assert await post(f"http://{endpoint}/v3/kv/put", b'{"value": "dg=="}') == 400

        samples = await scrape(cluster)
        put = ("Put", "etcdserverpb.KV", "unary", "coordinator")
        assert samples["grpc_server_started_total", *put] == 5
        assert samples["grpc_server_handled_total", "OK", *put] == 2
        assert samples["grpc_server_handled_total", "InvalidArgument", *put] == 2
        assert samples["grpc_server_handled_total", "NotFound", *put] == 1
        assert samples["grpc_server_handling_seconds_count", *put] == 5
        assert samples["boathouse_call_duration_seconds_count", *put, "default"] == 2
        # Not by a name that anybody may make up.
        assert samples["boathouse_call_duration_seconds_count", *put, ""] == 3
        regatta_put = ("Put", "regatta.v1.KV", "unary", "coordinator")
        assert samples["boathouse_call_duration_seconds_count", *regatta_put, "default"] == 1
        assert samples["etcd_network_client_grpc_received_bytes_total", "coordinator"] > 100
        assert samples["etcd_network_client_grpc_sent_bytes_total", "coordinator"] > 100
        assert samples["boathouse_coordinator_connections", "coordinator"] == 1


@in_loop
async def test_the_coordinators_of_a_node_answer_together(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        nodes = dict(cluster.cluster.nodes)
        nodes["n1"] = nodes["n1"].model_copy(update={"coordinators": 2})
        config = cluster.cluster.model_copy(update={"nodes": nodes})
        told = [
            Siblings(
                config,
                ProcessName.coordinator("n1", number),
                lambda number=number: figures.CoordinatorFigures(pid=number),  # type: ignore[misc]
            )
            for number in (1, 2)
        ]
        try:
            assert [answer.pid for answer in await told[0].ask()] == [1], "the other has not begun"
            for each in told:
                await each.start()
            assert [answer.pid for answer in await told[0].ask()] == [1, 2]
            assert [answer.pid for answer in await told[1].ask()] == [2, 1]
            successor = Siblings(
                config, ProcessName.coordinator("n1", 2), lambda: figures.CoordinatorFigures(pid=3)
            )
            await successor.start()
            told[1].close()
            assert [answer.pid for answer in await told[0].ask()] == [1, 3]
        finally:
            for each in (*told, successor):
                each.close()
