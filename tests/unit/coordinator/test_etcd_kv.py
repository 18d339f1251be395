from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proto.etcd import rpc_pb2
from tests.unit.coordinator.running import running

if TYPE_CHECKING:
    from pathlib import Path


def test_put_and_range(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as cluster:
            put = await cluster.etcd.Put(rpc_pb2.PutRequest(key=b"k", value=b"v"))
            assert put.header.revision == 2
            got = await cluster.etcd.Range(rpc_pb2.RangeRequest(key=b"k"))
            assert [(kv.key, kv.value) for kv in got.kvs] == [(b"k", b"v")]

    asyncio.run(scenario())
