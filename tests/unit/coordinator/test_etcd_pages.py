"""The pages that etcd has beside its API, and its gateway, on both ports of a real coordinator over fake workers."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.unit.coordinator.running import in_loop, running
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from pathlib import Path


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
        assert await ask(f"{base}/v3/nothing", b"{}") == (404, "Not Found")


@pytest.mark.parametrize("path", ["/health", "/version", "/livez"])
def test_these_pages_are_read_only(path: str, tmp_path: Path) -> None:
    @in_loop
    async def run() -> None:
        async with running(tmp_path) as cluster:
            endpoint = cluster.cluster.node("n1").http_endpoint
            assert (await ask(f"http://{endpoint}{path}", b""))[0] == 405

    run()
