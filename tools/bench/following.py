"""How far a follower cluster is behind its leader cluster: at an even pace, for a single put, under all the load that
the latter takes; and how long a write through it and a new table take to be there."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from proto.etcd import rpc_pb2 as etcd
from proto.regatta import regatta_pb2 as regatta
from tools.admin.client import channel_options
from tools.bench.report import OURS, Figure
from tools.bench.run import LoadFailed, measure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tools.bench.run import Progress
    from tools.bench.systems import Boathouse
    from tools.bench.workload import Workload

PUTS_PER_S: Final = 1_000
FORWARDED_PUTS: Final = 200
SINGLE_PUTS: Final = 10
NEW_TABLES: Final = 10
PROBES_PER_S: Final = 20
"""Puts whose way is followed under full load."""
PATIENCE_S: Final = 120.0
QUIET_S: Final = 1.0
"""Before a single put, so that nothing else is under way."""
TABLE: Final = (("table", "default"),)
PROBE, PROBE_END = b"probe/", b"probe0"
"""The range of keys that are watched for in the follower cluster; the load's are not among them."""


def _figure(metric: str, value: float, unit: str, note: str = "") -> Figure:
    return Figure(OURS, metric, value, unit, note)


def _shares(metric: str, seconds: Sequence[float], note: str = "") -> list[Figure]:
    ordered = sorted(1000 * each for each in seconds)
    picked = {
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
    }
    return [_figure(f"{metric} {name}", value, "ms", note) for name, value in picked.items()]


class _Cluster:
    """Calls to one coordinator."""

    def __init__(self, system: Boathouse) -> None:
        endpoint = system.endpoints[0]
        self._channel: Any = grpc.aio.insecure_channel(endpoint, options=channel_options(endpoint))

    async def close(self) -> None:
        await self._channel.close(None)

    async def put(self, key: bytes, value: bytes) -> None:
        put = etcd.PutRequest(key=key, value=value).SerializeToString()
        call: Any = self._channel.unary_unary("/etcdserverpb.KV/Put")
        await call(put, metadata=TABLE, timeout=10)

    async def create(self, table: str) -> None:
        call: Any = self._channel.unary_unary("/regatta.v1.Tables/Create")
        await call(regatta.CreateTableRequest(name=table).SerializeToString(), timeout=10)

    async def has(self, table: str) -> bool:
        """Whether it can be read here."""
        call: Any = self._channel.unary_unary("/etcdserverpb.KV/Range")
        read = etcd.RangeRequest(key=b"k", serializable=True).SerializeToString()
        try:
            await call(read, metadata=(("table", table),), timeout=10)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def watch(self) -> AsyncIterator[list[bytes]]:
        """The probes that are put from now on; first an empty list, once it watches."""
        call: Any = self._channel.stream_stream("/etcdserverpb.Watch/Watch")
        stream = call(metadata=TABLE)
        asked = etcd.WatchRequest(create_request=etcd.WatchCreateRequest(key=PROBE, range_end=PROBE_END))
        await stream.write(asked.SerializeToString())
        async for answer in stream:
            yield [event.kv.key for event in etcd.WatchResponse.FromString(answer).events]


class _Probes:
    """Puts in the leader cluster, each followed until a watch in the follower cluster tells of it."""

    def __init__(self, there: _Cluster, here: _Cluster, value: bytes) -> None:
        self.value = value
        self._there = there
        self._here = here
        self._numbers = itertools.count()
        self._seen: dict[bytes, asyncio.Future[float]] = {}
        self._watches = asyncio.Event()
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async for keys in self._here.watch():
            now = time.monotonic()
            self._watches.set()
            for key in keys:
                self._future(key).set_result(now)

    def _future(self, key: bytes) -> asyncio.Future[float]:
        return self._seen.setdefault(key, asyncio.get_running_loop().create_future())

    async def ready(self) -> None:
        await asyncio.wait_for(self._watches.wait(), PATIENCE_S)

    async def lag(self) -> float:
        """Seconds from the answer to a put to its event. Raises LoadFailed."""
        key = PROBE + b"%d" % next(self._numbers)
        await self._there.put(key, self.value)
        answered = time.monotonic()
        try:
            seen = await asyncio.wait_for(self._future(key), PATIENCE_S)
        except TimeoutError:
            raise LoadFailed(f"{key!r} never came to the follower cluster") from None
        return max(0.0, seen - answered)

    def stop(self) -> None:
        self._task.cancel()


async def follow(
    leader: Boathouse, follower: Boathouse, workload: Workload, progress: Progress
) -> list[Figure]:
    """All that can be seen while the follower cluster follows. Raises LoadFailed."""
    here, there = _Cluster(follower), _Cluster(leader)
    await _until_it_has(here, "default")
    probes = _Probes(there, here, bytes(workload.value_bytes))
    try:
        await probes.ready()
        return [
            *await _at_a_pace(probes, workload.seconds),
            *await _one_by_one(probes),
            *await _through_the_follower(here, probes.value),
            *await _new_tables(there, here),
            *await _under_full_load(leader, probes, workload, progress),
        ]
    finally:
        probes.stop()
        await here.close()
        await there.close()


async def _at_a_pace(probes: _Probes, seconds: float) -> list[Figure]:
    """Puts at an even pace, however long each takes."""
    lags = await _paced(probes, PUTS_PER_S, int(PUTS_PER_S * seconds))
    return _shares("lag", lags, f"at {PUTS_PER_S:,} puts/s, from its answer to an event of a watch there")


async def _one_by_one(probes: _Probes) -> list[Figure]:
    single = []
    for _ in range(SINGLE_PUTS):
        await asyncio.sleep(QUIET_S)
        single.append(await probes.lag())
    return [_figure("a single put, slowest", 1000 * max(single), "ms", f"of {SINGLE_PUTS}")]


async def _through_the_follower(here: _Cluster, value: bytes) -> list[Figure]:
    forwarded = []
    for number in range(FORWARDED_PUTS):
        began = time.monotonic()
        await here.put(b"through-%d" % number, value)
        forwarded.append(time.monotonic() - began)
    return _shares("a put through the follower", forwarded, "one after the other")


async def _new_tables(there: _Cluster, here: _Cluster) -> list[Figure]:
    made = []
    for number in range(NEW_TABLES):
        await there.create(f"new-{number}")
        began = time.monotonic()
        await _until_it_has(here, f"new-{number}")
        made.append(time.monotonic() - began)
    return [_figure("a new table, slowest", 1000 * max(made), "ms", f"of {NEW_TABLES}")]


async def _under_full_load(
    leader: Boathouse, probes: _Probes, workload: Workload, progress: Progress
) -> list[Figure]:
    """The lag of probes among as many puts as the leader cluster takes: were it to grow, the second half would tell."""
    load = replace(workload, mix={"put": 100}, tables=("default",), requests=None)
    seconds = load.warmup_seconds + load.seconds
    flood = asyncio.create_task(asyncio.to_thread(measure, leader, load, progress, fill=False))
    lags = await _paced(probes, PROBES_PER_S, int(PROBES_PER_S * seconds))
    outcome = await flood
    first, second = lags[: len(lags) // 2], lags[len(lags) // 2 :]
    note = f"at {outcome.per_second:,.0f} puts/s of {load.clients} clients for {seconds:.0f} s"
    return [
        *_shares("lag under full load, first half", first, note),
        *_shares("lag under full load, second half", second, note),
    ]


async def _paced(probes: _Probes, per_second: int, count: int) -> list[float]:
    """Lags of probes, in the order in which they were begun."""
    began = time.monotonic()
    lags: list[asyncio.Task[float]] = []
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
        lags.append(asyncio.create_task(probes.lag()))
    return await asyncio.gather(*lags)


async def _until_it_has(cluster: _Cluster, table: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not await cluster.has(table):
        if time.monotonic() > deadline:
            raise LoadFailed(f"table {table} never came to the follower cluster")
        await asyncio.sleep(0.01)
