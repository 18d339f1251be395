"""The load generator: `python -m tools.bench.load`, a process of its own so that it shares no interpreter
with anything.

Reads one JSON line from standard input ({"endpoints", "workload", "fill"}), writes JSON lines to standard
output: "filled" while keys are put in, "measuring" when the warm-up is over, "progress" twice a second, and
one "result".

It uses grpc.aio with serialized requests and leaves answers as bytes. Measured against etcd with 64 calls in
flight, a call costs 66 us of client CPU that way; with futures and callbacks of the synchronous API 90 us,
with threads 150 us."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from tools.bench import workload as work
from tools.bench.latency import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CALL_TIMEOUT_S = 30.0
FILL_CALLS = 16
"""Transactions in flight while keys are filled in."""
FILL_ATTEMPTS_MAX = 20
ERROR_PAUSE_S = 0.05
"""A client whose call failed waits this long: a refusing server must not look fast."""
PROGRESS_S = 0.5

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)

Metadata = tuple[tuple[str, str], ...]


def say(event: str, **fields: Any) -> None:
    """One line to whoever started this process."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


@dataclass(slots=True)
class Measurement:
    """What the clients of one run saw."""

    seconds: list[float] = field(default_factory=list)
    """Latency of each success."""
    done_at: list[float] = field(default_factory=list)
    """When each success came back."""
    errors: Counter[str] = field(default_factory=Counter)
    received_bytes: int = 0

    def result(self, started: float, ended: float, cpu_seconds: float) -> dict[str, Any]:
        """The "result" event's fields."""
        done = [started, *sorted(self.done_at), ended]
        pauses = (after - before for before, after in itertools.pairwise(done))
        return {
            "requests": len(self.seconds),
            "seconds": ended - started,
            "errors": dict(self.errors),
            "buckets": dict(Histogram.of(self.seconds).buckets),
            "longest_pause_ms": max(pauses) * 1e3,
            "received_bytes": self.received_bytes,
            "client_cpu_seconds": cpu_seconds,
        }


class Generator:
    """The clients of one run, on one event loop."""

    def __init__(self, endpoints: list[str], load: work.Workload) -> None:
        self.load = load
        self.channels = [grpc.aio.insecure_channel(e, options=CHANNEL_OPTIONS) for e in endpoints]
        self.calls = [
            {path: channel.unary_unary(path, None, None) for path in set(work.PATHS.values())}
            for channel in self.channels
        ]
        self.measurement = Measurement()

    async def fill(self) -> None:
        """Put every key of every table once. Raises the last error if a transaction keeps failing."""
        for table in self.load.tables:
            requests = work.fill(self.load)
            counter = itertools.count(work.FILL_OPS, work.FILL_OPS)
            await asyncio.gather(*(self._fill_client(n, requests, table, counter) for n in range(FILL_CALLS)))
        say("filled", keys=self.load.key_count, of=self.load.key_count)

    async def _fill_client(
        self, number: int, requests: Iterator[bytes], table: str, counter: Iterator[int]
    ) -> None:
        for request in requests:
            for attempt in itertools.count(1):
                call = self.calls[(number + attempt) % len(self.calls)][work.PATHS["txn"]]
                try:
                    await call(request, timeout=CALL_TIMEOUT_S, metadata=_metadata(table))
                    break
                except grpc.aio.AioRpcError:
                    if attempt == FILL_ATTEMPTS_MAX:
                        raise
                    await asyncio.sleep(0.05 * attempt)
            keys = next(counter)
            if keys % (work.FILL_OPS * 50) == 0:
                say("filled", keys=keys, of=self.load.key_count)

    async def run(self) -> None:
        """Warm up, measure, and say the result."""
        built = [(work.PATHS[kind], body, _metadata(table)) for kind, table, body in work.build(self.load)]
        requests = itertools.cycle(built)
        if self.load.warmup_seconds > 0:
            await self._phase(requests, self.load.warmup_seconds)
        say("measuring")
        self.measurement = Measurement()
        ticker = asyncio.create_task(self._tell_progress())
        cpu = time.process_time()
        started = time.perf_counter()
        if self.load.requests is None:
            await self._phase(requests, self.load.seconds)
        else:
            await self._phase(itertools.islice(requests, self.load.requests), float("inf"))
        ended = time.perf_counter()
        ticker.cancel()
        say("result", **self.measurement.result(started, ended, time.process_time() - cpu))
        for channel in self.channels:
            await channel.close(None)

    async def _phase(self, requests: Iterator[tuple[str, bytes, Metadata]], seconds: float) -> None:
        deadline = time.perf_counter() + seconds
        clients = (
            self._client(self.calls[number % len(self.calls)], requests, deadline)
            for number in range(self.load.clients)
        )
        await asyncio.gather(*clients)

    async def _client(
        self,
        calls: Mapping[str, Callable[..., Any]],
        requests: Iterator[tuple[str, bytes, Metadata]],
        deadline: float,
    ) -> None:
        now = time.perf_counter
        measurement = self.measurement
        started = now()
        for path, body, metadata in requests:
            try:
                answer = await calls[path](body, timeout=CALL_TIMEOUT_S, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                measurement.errors[f"{error.code().name}: {error.details()}"] += 1
                ended = now()
                await asyncio.sleep(ERROR_PAUSE_S)
            else:
                ended = now()
                measurement.seconds.append(ended - started)
                measurement.done_at.append(ended)
                measurement.received_bytes += len(answer)
            if ended >= deadline:
                return
            started = now()

    async def _tell_progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            done = len(self.measurement.seconds)
            say("progress", requests=done, errors=self.measurement.errors.total())


def _metadata(table: str) -> Metadata:
    return () if table == "default" else (("table", table),)


async def main() -> None:
    """Do what the line on standard input says."""
    order = json.loads(sys.stdin.readline())
    generator = Generator(order["endpoints"], work.Workload.from_json(order["workload"]))
    if order["fill"]:
        await generator.fill()
    await generator.run()


if __name__ == "__main__":
    asyncio.run(main())
