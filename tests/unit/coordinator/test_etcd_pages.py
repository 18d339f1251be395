"""The pages that etcd has beside its API, and its gateway, on both ports of a real coordinator over fake workers."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.front.http_pages import Request
from coordinator.services.etcd_pages import EtcdPages
from coordinator.shards.replica_status import ANSWER_TIMEOUT_S
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from tests.unit.coordinator.running import in_loop, make_config, running
from tests.waiting import free_ports, wait_until_async

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from coordinator.api.call import Call


async def ask(url: str, body: bytes | None = None) -> tuple[int, str]:
    def asked() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, body, timeout=10) as page:  # noqa: S310 - an http URL of this test
                return page.status, page.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    return await asyncio.to_thread(asked)


@in_loop
async def test_healthy(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        node = cluster.cluster.node("n1")
        for endpoint in (node.http_endpoint, node.client_endpoint):
            base = f"http://{endpoint}"
            assert await ask(f"{base}/health") == (200, '{"health":"true","reason":""}')
            assert await ask(f"{base}/readyz") == (200, "ok\n")
            assert await ask(f"{base}/livez?verbose") == (200, "[+]serializable_read ok\nok\n")
            assert await ask(f"{base}/readyz/linearizable_read") == (200, "ok\n")
            assert json.loads((await ask(f"{base}/version"))[1])["etcdcluster"].endswith(".0")


@in_loop
async def test_a_full_disk_is_an_alarm_that_can_be_passed_over(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        base = f"http://{cluster.cluster.node('n1').http_endpoint}"
        cluster.workers[1, 2].status.no_space = True
        assert await ask(f"{base}/health") == (503, '{"health":"false","reason":"ALARM NOSPACE"}\n')
        assert (await ask(f"{base}/health?exclude=NOSPACE"))[0] == 200


@in_loop
async def test_a_silent_replica_of_another_node_holds_up_no_probe(tmp_path: Path) -> None:
    """Kubelet waits for a second: one bad disk must not take all nodes out of service."""
    async with running(tmp_path) as cluster:
        base = f"http://{cluster.cluster.node('n1').http_endpoint}"
        cluster.workers[1, 2].status.no_space = True
        cluster.workers[1, 3].script[frames.REPLICA_STATUS] = lambda _: None
        for path, answer in (
            ("/health", (503, '{"health":"false","reason":"ALARM NOSPACE"}\n')),
            ("/health?exclude=NOSPACE", (200, '{"health":"true","reason":""}')),
            ("/readyz", (200, "ok\n")),
        ):
            assert await asyncio.wait_for(ask(base + path), ANSWER_TIMEOUT_S) == answer


class OneTable:
    """As EtcdCalls: one table with these alarms, and no others."""

    def __init__(self, table: str, *alarms: etcd.AlarmType.ValueType) -> None:
        self._table = table
        self._alarms = alarms
        self.metadata: list[Mapping[str, str]] = []

    def _look(self, call: Call) -> None:
        self.metadata.append(call.metadata)
        if call.metadata.get("table", "default") != self._table:
            raise errors.TableNotFound

    async def alarm(self, call: Call, _request: object) -> etcd.AlarmResponse:
        self._look(call)
        return etcd.AlarmResponse(alarms=[etcd.AlarmMember(alarm=alarm) for alarm in self._alarms])

    async def status(self, call: Call) -> etcd.StatusResponse:
        self._look(call)
        return etcd.StatusResponse(leader=1)

    async def range(self, call: Call, _request: object) -> etcd.RangeResponse:
        self._look(call)
        return etcd.RangeResponse()


async def ask_page(calls: Any, path: str, query: str = "", **said: str) -> tuple[int, bytes]:
    headers = {f"grpc-metadata-{name}": value for name, value in said.items()}
    page = EtcdPages(calls, asyncio.get_running_loop()).pages["GET", path]
    response = await page(Request(method="GET", path=path, query=query, headers=headers, body=b""))
    assert isinstance(response.body, bytes)
    return response.status, response.body


@in_loop
async def test_what_is_not_ready_is_listed_as_etcd_lists_it() -> None:
    """As 3.5.35 and 3.7.3, whose order differs from one answer to the next."""
    corrupt = OneTable("default", etcd.CORRUPT)
    corruption = b"[-]data_corruption failed: alarm activated: CORRUPT\n"
    reads = b"[+]serializable_read ok\n[+]linearizable_read ok\n"
    assert await ask_page(corrupt, "/readyz") == (503, corruption + reads + b"[+]non_learner ok\n\n")
    assert await ask_page(corrupt, "/readyz/data_corruption") == (503, corruption + b"\n")
    query = "verbose&exclude=data_corruption&exclude=non_learner"
    assert await ask_page(corrupt, "/readyz", query) == (200, reads + b"ok\n")


@in_loop
async def test_each_table_is_judged_by_itself() -> None:
    """Whoever asks by the port of a table gets that one's health, and no permissions by what else he says."""

    for path in ("/health", "/livez", "/readyz", "/readyz/non_learner"):
        users = OneTable("users")
        assert (await ask_page(users, path, table="users", token="t"))[0] == 200
        assert users.metadata
        assert all(metadata == {"table": "users"} for metadata in users.metadata)
        status, text = await ask_page(users, path)
        assert (status, b"table not found" in text) == (503, True), "there is no table default"
    full = OneTable("users", etcd.NOSPACE)
    assert await ask_page(full, "/health", table="users") == (
        503,
        b'{"health":"false","reason":"ALARM NOSPACE"}\n',
    )


@in_loop
async def test_the_port_of_a_table_tells_how_that_is(tmp_path: Path) -> None:
    config = make_config(tmp_path, nodes=1, shards=2, read_timeout_ms=300)
    port = free_ports(1)[0]
    tables = {"default": {"shard": 1}, "users": {"shard": 2, "client_port": port}}
    config = type(config).model_validate({**config.model_dump(), "tables": tables})
    async with running(tmp_path, config=config) as cluster:
        pages = [f"http://{config.node('n1').client_endpoint}/health", f"http://127.0.0.1:{port}/health"]
        assert [(await ask(page))[0] for page in pages] == [200, 200]
        cluster.elect(2, 0, term=9)
        await wait_until_async(
            lambda: not cluster.coordinator.leader_believed(2), timeout_s=10, what="the leader to be gone"
        )
        assert [(await ask(page))[0] for page in pages] == [200, 503]


@in_loop
async def test_no_leader_is_not_ready_but_alive(tmp_path: Path) -> None:
    async with running(tmp_path, read_timeout_ms=300) as cluster:
        base = f"http://{cluster.cluster.node('n1').http_endpoint}"
        cluster.elect(1, 0, term=9)
        await wait_until_async(
            lambda: not cluster.coordinator.leader_believed(1), timeout_s=10, what="the leader to be gone"
        )
        status, text = await ask(f"{base}/health")
        assert status == 503
        assert "RAFT NO LEADER" in text or "request timed out" in text
        assert (await ask(f"{base}/livez"))[0] == 200


@in_loop
async def test_the_gateway_puts_and_ranges(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        base = f"http://{cluster.cluster.node('n1').client_endpoint}"
        status, text = await ask(f"{base}/v3/kv/put", b'{"key":"Zm9v","value":"YmFy"}')
        assert (status, json.loads(text).keys()) == (200, {"header"})
        status, text = await ask(f"{base}/v3/kv/put", b"{}")
        assert (status, json.loads(text)["error"]) == (400, "etcdserver: key is not provided")
        assert await ask(f"{base}/v3/nothing", b"{}") == (404, "Not Found\n")


@pytest.mark.parametrize("path", ["/health", "/version", "/livez"])
def test_these_pages_are_read_only(path: str, tmp_path: Path) -> None:
    @in_loop
    async def run() -> None:
        async with running(tmp_path) as cluster:
            endpoint = cluster.cluster.node("n1").http_endpoint
            assert (await ask(f"http://{endpoint}{path}", b""))[0] == 405

    run()
