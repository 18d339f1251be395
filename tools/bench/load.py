"""The load generator: `python -m tools.bench.load`, a process of its own so that it shares no interpreter
with anything.

Reads one JSON line from standard input ({"endpoints", "tls", "workload", "fill"}), writes JSON lines to standard
output: "filled" while keys are put in, "measuring" when the warm-up is over, "progress" twice a second, and
one "result".

Measured with puts of 256 bytes against the echo server, a call costs it 5 us of CPU with 64 in flight, 4 with 256, and
20 with one, which is a read and a write of the socket for each. The same with grpc.aio took 65 us: five times what the
echo server takes."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import uvloop

from tools.bench import workload as work
from tools.bench.client import MESSAGE_PREFIX_BYTES, Call, Channel, Maker, Request
from tools.bench.latency import Histogram
from tools.client_tls import client_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

FILL_CALLS = 16
"""Transactions in flight while keys are filled in."""
FILL_ATTEMPTS_MAX = 20
FILL_TOLD = 50
"""After so many transactions it is told how far the filling is."""
ERROR_PAUSE_S = 0.05
"""A client whose call failed waits this long: a refusing server must not look fast."""
PROGRESS_S = 0.5


class FillFailed(Exception):
    """A key can't be put in; the message is the last error."""


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


class Client:
    """One of those that send their next request when the last was answered."""

    __slots__ = ("_channel", "_phase", "started")

    def __init__(self, phase: Phase, channel: Channel) -> None:
        self._phase = phase
        self._channel = channel
        self.started = 0.0

    def start(self) -> None:
        """Send a request, if there is one left."""
        request = next(self._phase.requests, None)
        if request is None:
            self._phase.leave()
            return
        self.started = time.perf_counter()
        self._channel.send(request, self)

    def finished(self, error: str | None) -> None:
        """Count the answer, and go on."""
        ended = time.perf_counter()
        phase = self._phase
        if error is None:
            phase.measurement.seconds.append(ended - self.started)
            phase.measurement.done_at.append(ended)
        else:
            phase.measurement.errors[error] += 1
        if ended >= phase.deadline:
            phase.leave()
        elif error is None:
            self.start()
        else:
            asyncio.get_running_loop().call_later(ERROR_PAUSE_S, self.start)


class Phase:
    """All clients, until the time or the requests are over."""

    def __init__(self, requests: Iterator[Request], deadline: float) -> None:
        self.requests = requests
        self.deadline = deadline
        self.measurement = Measurement()
        self._clients = 0
        self._over = asyncio.Event()

    async def run(self, channels: list[Channel], clients: int) -> None:
        """Return when the last client has its last answer."""
        self._clients = clients
        for number in range(clients):
            Client(self, channels[number % len(channels)]).start()
        await self._over.wait()

    def leave(self) -> None:
        """A client is done."""
        self._clients -= 1
        if not self._clients:
            self._over.set()


class Generator:
    """The load of one run, on one event loop."""

    def __init__(self, endpoints: list[str], tls: ssl.SSLContext | None, load: work.Workload) -> None:
        self.load = load
        self.channels = [Channel(endpoint, tls) for endpoint in endpoints]
        self._maker = Maker()

    async def connect(self) -> None:
        """Wait until every endpoint takes a connection."""
        await asyncio.gather(*(channel.connect() for channel in self.channels))

    async def fill(self) -> None:
        """Put every key of every table once. Raises FillFailed if a transaction keeps failing."""
        for table in self.load.tables:
            bodies = work.fill(self.load)
            requests = (self._maker.make(work.PATHS["txn"], body, _metadata(table)) for body in bodies)
            counter = itertools.count(1)
            await asyncio.gather(*(self._fill_client(n, requests, counter) for n in range(FILL_CALLS)))
        say("filled", keys=self.load.key_count, of=self.load.key_count)

    async def _fill_client(self, number: int, requests: Iterator[Request], counter: Iterator[int]) -> None:
        for request in requests:
            for attempt in itertools.count(1):
                call = Call()
                self.channels[(number + attempt) % len(self.channels)].send(request, call)
                error = await call.error
                if error is None:
                    break
                if attempt == FILL_ATTEMPTS_MAX:
                    raise FillFailed(error)
                await asyncio.sleep(0.05 * attempt)
            done = next(counter)
            if done % FILL_TOLD == 0:
                say("filled", keys=done * work.fill_ops(self.load), of=self.load.key_count)

    async def run(self) -> None:
        """Warm up, measure, and say the result."""
        built = [
            self._maker.make(work.PATHS[kind], body, _metadata(table))
            for kind, table, body in work.build(self.load)
        ]
        requests = itertools.cycle(built)
        if self.load.warmup_seconds > 0:
            warmup = Phase(requests, time.perf_counter() + self.load.warmup_seconds)
            await warmup.run(self.channels, self.load.clients)
        say("measuring")
        received = self._received_bytes()
        cpu = time.process_time()
        started = time.perf_counter()
        if self.load.requests is None:
            phase = Phase(requests, started + self.load.seconds)
        else:
            phase = Phase(itertools.islice(requests, self.load.requests), float("inf"))
        ticker = asyncio.create_task(_tell_progress(phase.measurement))
        await phase.run(self.channels, self.load.clients)
        ended = time.perf_counter()
        ticker.cancel()
        measurement = phase.measurement
        prefixes = MESSAGE_PREFIX_BYTES * len(measurement.seconds)
        measurement.received_bytes = self._received_bytes() - received - prefixes
        say("result", **measurement.result(started, ended, time.process_time() - cpu))
        for channel in self.channels:
            channel.close()

    def _received_bytes(self) -> int:
        return sum(channel.received_bytes for channel in self.channels)


async def _tell_progress(measurement: Measurement) -> None:
    while True:
        await asyncio.sleep(PROGRESS_S)
        say("progress", requests=len(measurement.seconds), errors=measurement.errors.total())


def _metadata(table: str) -> dict[str, str]:
    return {} if table == "default" else {"table": table}


async def main() -> None:
    """Do what the line on standard input says."""
    order = json.loads(sys.stdin.readline())
    tls = None if order["tls"] is None else client_context(**order["tls"])
    if tls is not None:
        tls.set_alpn_protocols(["h2"])
    generator = Generator(order["endpoints"], tls, work.Workload.from_json(order["workload"]))
    await generator.connect()
    if order["fill"]:
        await generator.fill()
    await generator.run()


if __name__ == "__main__":
    uvloop.run(main())
