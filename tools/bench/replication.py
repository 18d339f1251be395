"""How fast a follower cluster follows: a leader and a follower cluster of one node each, both started here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
import psutil

from config import loading
from proto.etcd import rpc_pb2 as etcd
from proto.regatta import regatta_pb2 as regatta
from tools.bench import systems
from tools.bench.report import OURS, Figure, Report
from tools.bench.run import LoadFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tools.bench.scenarios import Setting
    from tools.bench.workload import Workload

PUTS_PER_S: Final = 1_000
FORWARDED_PUTS: Final = 200
SINGLE_PUTS: Final = 10
NEW_TABLES: Final = 10
SNAPSHOT_KEYS: Final = 200_000
TXN_PUTS: Final = 100
PATIENCE_S: Final = 120.0
QUIET_S: Final = 1.0
"""Before a single put, so that nothing else is under way."""
OPTIONS: Final = (("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1))
TABLE: Final = (("table", "default"),)


def replication(setting: Setting, workload: Workload) -> Report:
    """Lag, writes through the follower, new tables, and catching up by snapshot."""
    report = Report("a follower cluster beside its leader cluster, 1 node each")
    folder = setting.folder / "replication"
    leader = systems.Boathouse(
        folder / "leader",
        1,
        1,
        1,
        ("default",),
        settings={"cluster": "harbour", "replication": {"keep_bytes": 0}},
    )
    try:
        leader.start()
        follows = {"cluster": "harbour", "endpoints": list(leader.endpoints)}
        follower = systems.Boathouse(
            folder / "follower", 1, 1, 1, (), settings={"cluster": "island", "follows": follows}
        )
        try:
            follower.start()
            report.figures += asyncio.run(_measured(leader, follower, workload))
        finally:
            follower.stop()
    finally:
        leader.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _figure(metric: str, value: float, unit: str, note: str = "") -> Figure:
    return Figure(OURS, metric, value, unit, note)


def _shares(metric: str, seconds: Sequence[float], note: str = "") -> list[Figure]:
    ordered = sorted(1000 * each for each in seconds)
    picked = {
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
    }
    return [_figure(f"{metric} {name}", value, "ms", note) for name, value in picked.items()]


async def _measured(
    leader: systems.Boathouse, follower: systems.Boathouse, workload: Workload
) -> list[Figure]:
    figures = await _following(leader, follower, workload)
    return figures + await _catching_up(leader, follower, workload)


# ---- following ------------------------------------------------------------------------------------------------------


class _Cluster:
    """Calls to one coordinator."""

    def __init__(self, system: systems.Boathouse) -> None:
        self._channel: Any = grpc.aio.insecure_channel(system.endpoints[0], options=OPTIONS)

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
        """The keys that change from now on; first an empty list, once it watches."""
        call: Any = self._channel.stream_stream("/etcdserverpb.Watch/Watch")
        stream = call(metadata=TABLE)
        asked = etcd.WatchRequest(create_request=etcd.WatchCreateRequest(key=b"\0", range_end=b"\0"))
        await stream.write(asked.SerializeToString())
        async for answer in stream:
            yield [event.kv.key for event in etcd.WatchResponse.FromString(answer).events]


class _Arrivals:
    """When keys were seen in the follower cluster."""

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster = cluster
        self._seen: dict[bytes, asyncio.Future[float]] = {}
        self._watches = asyncio.Event()
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async for keys in self._cluster.watch():
            now = time.monotonic()
            self._watches.set()
            for key in keys:
                self._future(key).set_result(now)

    def _future(self, key: bytes) -> asyncio.Future[float]:
        return self._seen.setdefault(key, asyncio.get_running_loop().create_future())

    async def ready(self) -> None:
        await asyncio.wait_for(self._watches.wait(), PATIENCE_S)

    async def of(self, key: bytes) -> float:
        try:
            return await asyncio.wait_for(self._future(key), PATIENCE_S)
        except TimeoutError:
            raise LoadFailed(f"{key!r} never came to the follower cluster") from None

    def stop(self) -> None:
        self._task.cancel()


async def _following(
    leader: systems.Boathouse, follower: systems.Boathouse, workload: Workload
) -> list[Figure]:
    here, there = _Cluster(follower), _Cluster(leader)
    value = bytes(workload.value_bytes)
    await _until_it_has(here, "default")
    arrivals = _Arrivals(here)
    try:
        await arrivals.ready()
        found = await _lags(there, arrivals, value, workload.seconds)
        note = f"at {PUTS_PER_S:,} puts/s, from its answer to an event of a watch there"
        figures = _shares("lag", found, note)
        single = []
        for number in range(SINGLE_PUTS):
            await asyncio.sleep(QUIET_S)
            single.append(await _lag(there, arrivals, b"single-%d" % number, value))
        figures.append(_figure("a single put, slowest", 1000 * max(single), "ms", f"of {SINGLE_PUTS}"))
        forwarded = []
        for number in range(FORWARDED_PUTS):
            began = time.monotonic()
            await here.put(b"through-%d" % number, value)
            forwarded.append(time.monotonic() - began)
        figures += _shares("a put through the follower", forwarded, "one after the other")
        made = []
        for number in range(NEW_TABLES):
            await there.create(f"new-{number}")
            began = time.monotonic()
            await _until_it_has(here, f"new-{number}")
            made.append(time.monotonic() - began)
        figures.append(_figure("a new table, slowest", 1000 * max(made), "ms", f"of {NEW_TABLES}"))
    finally:
        arrivals.stop()
        await here.close()
        await there.close()
    return figures


async def _until_it_has(cluster: _Cluster, table: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not await cluster.has(table):
        if time.monotonic() > deadline:
            raise LoadFailed(f"table {table} never came to the follower cluster")
        await asyncio.sleep(0.01)


async def _lag(there: _Cluster, arrivals: _Arrivals, key: bytes, value: bytes) -> float:
    await there.put(key, value)
    answered = time.monotonic()
    return max(0.0, await arrivals.of(key) - answered)


async def _lags(there: _Cluster, arrivals: _Arrivals, value: bytes, seconds: float) -> list[float]:
    """Of puts at an even pace, however long each takes."""
    began = time.monotonic()
    puts: list[asyncio.Task[float]] = []
    for number in range(int(PUTS_PER_S * seconds)):
        await asyncio.sleep(max(0.0, began + number / PUTS_PER_S - time.monotonic()))
        puts.append(asyncio.create_task(_lag(there, arrivals, b"paced-%d" % number, value)))
    return await asyncio.gather(*puts)


# ---- catching up ----------------------------------------------------------------------------------------------------


async def _catching_up(
    leader: systems.Boathouse, follower: systems.Boathouse, workload: Workload
) -> list[Figure]:
    """The follower cluster is away while the table is filled and compacted, and takes a snapshot."""
    await asyncio.to_thread(follower.stop)
    revision = await _fill(leader, bytes(workload.value_bytes))
    await asyncio.to_thread(follower.start)
    before = _rss_bytes(leader, follower)
    log = loading.load(follower.cluster_file).node_dir("n1") / "logs" / "replicator.log"
    grown = 0
    deadline = time.monotonic() + PATIENCE_S
    while (span_s := _snapshot_span_s(log, revision)) is None:
        if time.monotonic() > deadline:
            raise LoadFailed("the follower cluster did not catch up by a snapshot")
        for pid, rss_bytes in _rss_bytes(leader, follower).items():
            grown = max(grown, rss_bytes - before.setdefault(pid, rss_bytes))
        await asyncio.sleep(0.1)
    note = f"{SNAPSHOT_KEYS:,} keys of {workload.value_bytes} B"
    return [
        _figure("catching up by snapshot", SNAPSHOT_KEYS / span_s, "keys/s", note),
        _figure("growth of a process meanwhile, most", grown / 1e6, "MB"),
    ]


def _rss_bytes(*clusters: systems.Boathouse) -> dict[int, int]:
    found: dict[int, int] = {}
    for cluster in clusters:
        with contextlib.suppress(psutil.Error):  # a process that ended just then
            found |= {process.pid: process.memory_info().rss for process in cluster.processes().values()}
    return found


async def _fill(leader: systems.Boathouse, value: bytes) -> int:
    """Put all keys, compact what was before, and say where the table is."""
    channel: Any
    async with grpc.aio.insecure_channel(leader.endpoints[0], options=OPTIONS) as channel:
        txn: Any = channel.unary_unary(
            "/etcdserverpb.KV/Txn", response_deserializer=etcd.TxnResponse.FromString
        )
        revision = 0

        async def put_from(first: int) -> None:
            nonlocal revision
            request = etcd.TxnRequest()
            for number in range(first, first + TXN_PUTS):
                request.success.add(request_put=etcd.PutRequest(key=b"filled-%09d" % number, value=value))
            answer = await txn(request.SerializeToString(), metadata=TABLE, timeout=30)
            revision = max(revision, answer.header.revision)

        firsts = range(0, SNAPSHOT_KEYS, TXN_PUTS)
        for start in range(0, len(firsts), 16):
            await asyncio.gather(*map(put_from, firsts[start : start + 16]))
        compact: Any = channel.unary_unary("/etcdserverpb.KV/Compact")
        request = etcd.CompactionRequest(revision=revision, physical=True).SerializeToString()
        await compact(request, metadata=TABLE, timeout=30)
        return revision


def _snapshot_span_s(log: Path, revision: int) -> float | None:
    """From the beginning to the end of the snapshot of that revision, by the replicator's own clock."""
    began: dict[str, str] = {}
    for line in log.read_text().splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if said.get("event") == "a copy is replaced by a snapshot":
            began[said["table"]] = said["timestamp"]
        elif said.get("event") == "a copy was replaced by a snapshot" and said["revision"] >= revision:
            ended = datetime.fromisoformat(said["timestamp"])
            return max(1e-3, (ended - datetime.fromisoformat(began[said["table"]])).total_seconds())
    return None
