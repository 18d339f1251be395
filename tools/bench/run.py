"""One load on one system: starts the generator, follows it, and reads the processes' CPU and memory beside
it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from tools.bench.latency import Histogram

if TYPE_CHECKING:
    from tools.bench.systems import System
    from tools.bench.workload import Workload


class LoadFailed(Exception):
    """The load generator ended without a result; the message is what it said last."""


class Progress(Protocol):
    """Where a running load tells how far it is."""

    def filled(self, keys: int, of: int) -> None:
        """Keys put in so far."""

    def measured(self, requests: int, errors: int) -> None:
        """Answers so far."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process cost during the measurement."""

    cpu_percent: float
    """Of one core."""
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One measurement of one system."""

    system: str
    requests: int
    seconds: float
    errors: dict[str, int]
    histogram: Histogram
    longest_pause_ms: float
    received_bytes: int
    usage: dict[str, Usage] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        """Successes per second."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def server_cpu_us(self) -> float:
        """CPU that the system itself spent on a request, in microseconds; steadier than the rate on a busy machine."""
        percent = sum(usage.cpu_percent for name, usage in self.usage.items() if name != "client")
        return percent / 100 * 1e6 / self.per_second if self.requests else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values for -o json."""
        return {
            "system": self.system,
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
            "per_second": round(self.per_second, 1),
            **{f"p{p:g}_ms": round(self.histogram.percentile_ms(p), 3) for p in (50, 99, 99.9)},
            "longest_pause_ms": round(self.longest_pause_ms, 1),
            "server_cpu_us_per_request": round(self.server_cpu_us, 1),
            "errors": self.errors,
            "processes": {
                name: {"cpu_percent": round(usage.cpu_percent, 1), "rss_bytes": usage.rss_bytes}
                for name, usage in self.usage.items()
            },
        }


class Meter:
    """CPU and memory of a system's processes between two moments.

    A process that starts or ends in between counts from or to its own time."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.before = {name: _cpu_seconds(process) for name, process in system.processes().items()}

    def read(self, seconds: float) -> dict[str, Usage]:
        """Usage by process name since the meter was made, which was this long ago."""
        usage = {}
        for name, process in self.system.processes().items():
            try:
                spent = _cpu_seconds(process) - self.before.get(name, 0.0)
                usage[name] = Usage(100 * spent / seconds, process.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        return usage


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def measure(system: System, load: Workload, progress: Progress, *, fill: bool) -> Outcome:
    """Put this load on a running system. Raises LoadFailed."""
    with subprocess.Popen(
        [sys.executable, "-m", "tools.bench.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as generator:
        assert generator.stdin is not None
        assert generator.stdout is not None
        order = {
            "endpoints": system.endpoints,
            "tls": system.tls.to_json() if system.tls.given else None,
            "workload": load.to_json(),
            "fill": fill,
        }
        generator.stdin.write(json.dumps(order) + "\n")
        generator.stdin.flush()
        meter: Meter | None = None
        try:
            for line in generator.stdout:
                event = json.loads(line)
                match event["event"]:
                    case "filled":
                        progress.filled(event["keys"], event["of"])
                    case "measuring":
                        meter = Meter(system)
                    case "progress":
                        progress.measured(event["requests"], event["errors"])
                    case "result":
                        assert meter is not None
                        usage = meter.read(event["seconds"])
                        usage["client"] = Usage(
                            100 * event["client_cpu_seconds"] / event["seconds"],
                            psutil.Process(generator.pid).memory_info().rss,
                        )
                        return _outcome(system.name, event, usage)
        except BaseException:
            generator.kill()  # Ctrl-C, or a broken line: it must not go on loading
            raise
    raise LoadFailed(f"the load on {system.name} ended without a result (exit code {generator.returncode})")


def _outcome(name: str, event: dict[str, Any], usage: dict[str, Usage]) -> Outcome:
    return Outcome(
        system=name,
        requests=event["requests"],
        seconds=event["seconds"],
        errors=event["errors"],
        histogram=Histogram(Counter({int(bucket): n for bucket, n in event["buckets"].items()})),
        longest_pause_ms=event["longest_pause_ms"],
        received_bytes=event["received_bytes"],
        usage=usage,
    )
