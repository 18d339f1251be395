"""Memory of real processes: what a flood of large answers takes, and that it comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import pytest

from config.process.names import processes_of
from proto.etcd import rpc_pb2 as etcd
from tests.integration.cluster import Cluster
from tests.stubs import stub
from tests.unit.front.raw_client import Raw
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

MEGABYTE: Final = 1 << 20
VALUE_BYTES: Final = 1_400_000
KEYS: Final = 20
GETS: Final = 400
RANGES: Final = 10
PEAK_BYTES_MAX: Final = 700 * MEGABYTE
"""Of one process: what may be queued for clients at the most, what is on its way between worker and coordinator, and
what both are without any of it."""
PATIENT: Final = {"read_timeout_ms": 60_000, "write_timeout_ms": 60_000}
"""Nothing here is to be lost because a machine is slow."""
LEFT_BYTES_MAX: Final = 100 * MEGABYTE
"""More than before that allocators may keep."""


def memory_of(pid: int, name: str) -> int:
    """Bytes, from a line of the kernel's."""
    file = "smaps_rollup" if name == "Pss" else "status"
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


async def outcomes_of(calls: Iterable[Awaitable[etcd.RangeResponse]]) -> Counter[str]:
    """How many ended how."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    return Counter(
        answer.code().name if isinstance(answer, grpc.aio.AioRpcError) else type(answer).__name__
        for answer in answers
    )


async def read_much(endpoint: str) -> None:
    """Many large answers at once, promptly read: each comes, or is refused in words."""
    options = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    async with contextlib.AsyncExitStack() as stack:
        kvs = [
            stub(await stack.enter_async_context(grpc.aio.insecure_channel(endpoint, options)), etcd, "KV")
            for _ in range(4)
        ]
        for _ in range(2):
            gets = (
                kvs[number % 4].Range(etcd.RangeRequest(key=b"%d" % (number % KEYS)))
                for number in range(GETS)
            )
            told = await outcomes_of(gets)
            assert told.keys() <= {"RangeResponse", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}, told
            everything = etcd.RangeRequest(key=b"\0", range_end=b"\0")
            told = await outcomes_of(kvs[number % 4].Range(everything) for number in range(RANGES))
            assert told.keys() <= {"RangeResponse", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}, told
            assert told["RangeResponse"], told


async def read_nothing(endpoint: str) -> None:
    """Many large answers at once that nobody reads; writes and small reads go on meanwhile."""
    host, _, port = endpoint.rpartition(":")
    peers = []
    for _ in range(8):
        peer = Raw(*await asyncio.open_connection(host, int(port)))
        peer.flush()
        for number in range(100):
            peer.call(
                "/etcdserverpb.KV/Range", etcd.RangeRequest(key=b"%d" % (number % KEYS)).SerializeToString()
            )
        peers.append(peer)
    async with grpc.aio.insecure_channel(endpoint, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        kv = stub(channel, etcd, "KV")
        for _ in range(100):
            await kv.Put(etcd.PutRequest(key=b"small", value=b"small"), timeout=60)
            answer = await kv.Range(etcd.RangeRequest(key=b"small"), timeout=60)
            assert answer.kvs[0].value == b"small"
    for peer in peers:
        peer.writer.transport.abort()


@pytest.mark.long
def test_memory_has_a_bound_and_comes_back(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=1, shards=1, settings={"limits": PATIENT}) as cluster:
        cluster.wait_leaders()
        with cluster.client(timeout_s=60) as client:
            for number in range(KEYS):
                client.put(etcd.PutRequest(key=b"%d" % number, value=bytes(VALUE_BYTES)))
        pids = {name: cluster.pid(name) for name in processes_of(cluster.config, "n1")}
        before = {name: memory_of(pid, "Pss") for name, pid in pids.items()}
        asyncio.run(read_much(cluster.endpoint("n1")))
        asyncio.run(read_nothing(cluster.endpoint("n1")))
        figures = {
            name: tuple(memory_of(pid, of) // MEGABYTE for of in ("VmHWM", "Pss"))
            for name, pid in pids.items()
        }
        for name, pid in pids.items():
            assert memory_of(pid, "VmHWM") < PEAK_BYTES_MAX, f"{name}: {figures}"
            wait_until(
                lambda name=name, pid=pid: memory_of(pid, "Pss") < before[name] + LEFT_BYTES_MAX,  # type: ignore[misc]
                timeout_s=30,
                what=f"the memory of {name} to come back from {figures}",
            )
