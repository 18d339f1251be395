"""How late many leases end that run out together, on three nodes; and whether they make an election slower."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from config import loading
from config.process.names import ProcessName
from proto.etcd import rpc_pb2 as etcd
from tools.admin.cluster_source import ClusterSource
from tools.bench.client import Call, Channel, Maker
from tools.bench.report import OURS, Figure, Report
from tools.bench.run import LoadFailed, measure
from tools.bench.setting import Shape, names, running
from tools.bench.systems import Boathouse
from tools.bench.watch_streams import watch_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tools.bench.run import Outcome, Progress
    from tools.bench.setting import Setting
    from tools.bench.systems import System
    from tools.bench.workload import Workload

LEASES: Final = 100_000
TTL_S: Final = 60
LONG_TTL_S: Final = 3_600
"""Of those that are there while leaders are killed."""
CLIENTS: Final = 64
"""Calls under way while leases are granted."""
PATIENCE_S: Final = 60.0
"""After the last lease should have ended."""
KILLS: Final = 3
KILL_AFTER_S: Final = 2.0
KILL_LOAD_S: Final = 8.0
"""Of puts around each kill, which leaves the killed process time to come back."""
STATUS_S: Final = 5.0
KEY, KEY_END = b"lease/", b"lease0"
GRANT: Final = "/etcdserverpb.Lease/LeaseGrant"
PUT: Final = "/etcdserverpb.KV/Put"


@dataclass(slots=True)
class _Ends:
    """When each lease was asked for, granted, and gone, by its number."""

    asked_s: dict[int, float] = field(default_factory=dict)
    granted_s: dict[int, float] = field(default_factory=dict)
    gone_s: dict[int, float] = field(default_factory=dict)

    def late_s(self) -> list[float]:
        """In ascending order; from the answer that granted it, so none is called late for a slow answer."""
        return sorted(gone - self.granted_s[number] - TTL_S for number, gone in self.gone_s.items())

    def early(self) -> int:
        """How many ended before their time."""
        return sum(gone - self.asked_s[number] < TTL_S for number, gone in self.gone_s.items())


def leases(setting: Setting, workload: Workload) -> Report:
    """100,000 leases of 60 s, each with a key, that run out; and kills of the leader, with and without so many."""
    report = Report(f"{LEASES:,} leases of {TTL_S} s that run out, 3 nodes", compared="late_p99")
    load = replace(workload, mix={"put": 100}, tables=("default",), requests=None, seconds=KILL_LOAD_S)
    for _ in range(setting.rounds):
        for name in names(setting, ceiling=False):
            progress = setting.progress(name)
            with running(setting, name, Shape(3, 1, 3), load) as system:
                without = _kills(system, load, progress) if isinstance(system, Boathouse) else []
                report.figures += asyncio.run(_run_out(system))
                if isinstance(system, Boathouse):
                    asyncio.run(_grant_long(system))
                    beside = _kills(system, load, progress)
                    report.outcomes += [*without, *beside]
                    note = (
                        f"after kill -9 of the leader: {_pauses(beside)}; without leases {_pauses(without)}"
                    )
                    longest_ms = max(outcome.longest_pause_ms for outcome in beside)
                    report.figures.append(Figure(name, "longest_pause", longest_ms, "ms", note))
    return report


def _pauses(outcomes: list[Outcome]) -> str:
    return ", ".join(f"{outcome.longest_pause_ms:.0f}" for outcome in outcomes)


# ---- running out ----------------------------------------------------------------------------------------------------


async def _run_out(system: System) -> list[Figure]:
    """Raises LoadFailed if not all of them end."""
    ends = _Ends()
    began_s = time.monotonic()
    async with _watching(system, ends) as reader:
        await _grant(system, LEASES, TTL_S, ends)
        granted_s = time.monotonic() - began_s
        deadline_s = time.monotonic() + TTL_S + PATIENCE_S
        while len(ends.gone_s) < LEASES:
            if reader.done():
                reader.result()
            if time.monotonic() > deadline_s:
                raise LoadFailed(f"{LEASES - len(ends.gone_s):,} leases of {system.name} never ended")
            await asyncio.sleep(0.1)
    late_s = ends.late_s()
    note = f"granted in {granted_s:.0f} s; latest {late_s[-1]:.2f} s; {ends.early()} before their time"
    return [
        Figure(system.name, "late_p50", 1_000 * late_s[LEASES // 2], "ms"),
        Figure(system.name, "late_p99", 1_000 * late_s[LEASES * 99 // 100], "ms", note),
    ]


@asynccontextmanager
async def _watching(system: System, ends: _Ends) -> AsyncIterator[asyncio.Task[None]]:
    """Notes the deletions of leases' keys, until what is yielded ends, which has failed then."""
    async with watch_stream(system) as call:
        no_puts = [etcd.WatchCreateRequest.NOPUT]
        create = etcd.WatchCreateRequest(key=KEY, range_end=KEY_END, filters=no_puts)
        await call.write(etcd.WatchRequest(create_request=create))
        assert (await call.read()).created
        reader = asyncio.create_task(_note(call, ends))
        try:
            yield reader
        finally:
            reader.cancel()


async def _note(call: Any, ends: _Ends) -> None:
    while answer := await call.read():  # what stands for the end is false
        now_s = time.monotonic()
        for event in answer.events:
            ends.gone_s[int(event.kv.key[len(KEY) :])] = now_s
    raise LoadFailed("the watch of the leases' keys has ended")


async def _grant(system: System, count: int, ttl_s: int, ends: _Ends) -> None:
    """Grant so many leases, with a key each. Raises LoadFailed."""
    tls = None
    if system.tls.given:
        tls = system.tls.context()
        tls.set_alpn_protocols(["h2"])
    channels = [Channel(endpoint, tls) for endpoint in system.endpoints]
    try:
        await asyncio.gather(*(channel.connect() for channel in channels))
        numbers = iter(range(count))
        async with asyncio.TaskGroup() as clients:
            for channel in itertools.islice(itertools.cycle(channels), CLIENTS):
                clients.create_task(_grant_each(channel, numbers, ttl_s, ends))
    except* LoadFailed as failed:
        raise failed.exceptions[0] from None
    finally:
        for channel in channels:
            channel.close()


async def _grant_each(channel: Channel, numbers: Iterator[int], ttl_s: int, ends: _Ends) -> None:
    maker = Maker()
    for number in numbers:
        lease = (ttl_s << 32) + number + 1  # its own for each time to live
        ends.asked_s[number] = time.monotonic()
        await _call(channel, maker, GRANT, etcd.LeaseGrantRequest(ID=lease, TTL=ttl_s))
        ends.granted_s[number] = time.monotonic()
        await _call(channel, maker, PUT, etcd.PutRequest(key=KEY + b"%d" % number, lease=lease))


async def _call(channel: Channel, maker: Maker, path: str, request: Any) -> None:
    call = Call()
    channel.send(maker.make(path, request.SerializeToString(), {}), call)
    if (error := await call.error) is not None:
        raise LoadFailed(f"{path}: {error}")


async def _grant_long(system: System) -> None:
    await _grant(system, LEASES, LONG_TTL_S, _Ends())


# ---- elections ------------------------------------------------------------------------------------------------------


def _kills(system: Boathouse, load: Workload, progress: Progress) -> list[Outcome]:
    """What clients see around each kill of the leader. Raises LoadFailed."""
    found = []
    with ThreadPoolExecutor(1) as pool:
        for _ in range(KILLS):
            kill = pool.submit(_kill_leader, system, load.warmup_seconds + KILL_AFTER_S)
            found.append(measure(system, load, progress, fill=False))
            kill.result()
    return found


def _kill_leader(system: Boathouse, after_s: float) -> None:
    time.sleep(after_s)
    with ClusterSource(loading.load(system.cluster_file), supervisor_timeout_s=STATUS_S) as source:
        snapshot = source.poll()
    leader = snapshot.shards[0].leader
    process = None if leader is None else snapshot.process(ProcessName.replica(leader, 1))
    if process is None or process.pid is None:
        raise LoadFailed(f"nobody knows who leads {OURS}'s shard")
    os.kill(process.pid, signal.SIGKILL)
