"""What watches that never hear of anything cost: memory, and those who put beside them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from proto.etcd import rpc_pb2 as etcd
from tools.bench.memory import Growth
from tools.bench.report import Figure, Report
from tools.bench.run import measure
from tools.bench.setting import Shape, names, running
from tools.bench.watch_streams import watch_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tools.bench.run import Outcome, Progress
    from tools.bench.setting import Setting
    from tools.bench.systems import System
    from tools.bench.workload import Workload

STREAMS: Final = 100
WATCHES: Final = 10_000
CALL_S: Final = 60.0


def idle_watches(setting: Setting, workload: Workload) -> Report:
    """Puts on one node: alone, beside 10,000 idle watches on 100 streams, beside one for each client, alone again."""
    load = replace(workload, mix={"put": 100}, tables=("default",))
    title = (
        f"puts beside {WATCHES:,} idle watches on {STREAMS} streams, and beside one for each client, 1 node"
    )
    report = Report(title, compared="per_second_beside_one_each")
    for _ in range(setting.rounds):
        for name in names(setting, ceiling=False):
            with running(setting, name, Shape(1, 1, 1), load) as system:
                outcomes, figures = asyncio.run(_measure(system, load, setting.progress(name)))
            report.outcomes += outcomes
            report.figures += figures
    return report


async def _measure(system: System, load: Workload, progress: Progress) -> tuple[list[Outcome], list[Figure]]:
    async def put() -> Outcome:
        return await asyncio.to_thread(measure, system, load, progress, fill=False)

    first = await put()
    async with AsyncExitStack() as watches:
        with Growth(system) as growth:
            await watches.enter_async_context(_watching(system, STREAMS, WATCHES // STREAMS))
        beside_many = await put()
    async with _watching(system, load.clients, 1):
        beside_one_each = await put()
    last = await put()
    alone = (first.per_second + last.per_second) / 2
    alone_us = (first.server_cpu_us + last.server_cpu_us) / 2

    def kept(beside: Outcome) -> str:
        rates = f"{beside.per_second:,.0f} of {alone:,.0f} puts/s"
        return f"{rates}; a put takes {beside.server_cpu_us:.0f} us of CPU, alone {alone_us:.0f}"

    many, each = (100 * beside.per_second / alone for beside in (beside_many, beside_one_each))
    return [first, beside_many, beside_one_each, last], [
        Figure(
            system.name,
            "growth",
            growth.largest_mb,
            "MB",
            f"of the process that grew most by {WATCHES:,} watches",
        ),
        Figure(system.name, "kept_beside_many", many, "% of the rate alone", kept(beside_many)),
        Figure(system.name, "kept_beside_one_each", each, "% of the rate alone", kept(beside_one_each)),
        Figure(system.name, "per_second_beside_one_each", beside_one_each.per_second, "/s"),
    ]


@asynccontextmanager
async def _watching(system: System, streams: int, each: int) -> AsyncIterator[None]:
    """So many streams with so many watches of keys that nobody puts."""
    async with AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(watch_stream(system, number)) for number in range(streams)]
        await asyncio.gather(*(_watch(call, number, each) for number, call in enumerate(calls)))
        yield


async def _watch(call: Any, stream: int, count: int) -> None:
    """Returns when all of them are made."""
    async with asyncio.timeout(CALL_S):
        for number in range(count):
            create = etcd.WatchCreateRequest(key=b"idle/%d/%d" % (stream, number))
            await call.write(etcd.WatchRequest(create_request=create))
        for _ in range(count):
            assert (await call.read()).created
