"""The processes of nodes whose supervisors are on other hosts, as their coordinators tell of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from config.process.names import ProcessName, kind_named
from tools.admin.snapshot import Process

if TYPE_CHECKING:
    from proto.internal import figures_pb2 as figures


class _Sample(NamedTuple):
    pid: int
    read_at_s: float
    cpu_s: float


class RemoteProcesses:
    """Remembers what each had used, since a share of a core is between two looks."""

    def __init__(self) -> None:
        self._before: dict[ProcessName, _Sample] = {}

    def take(self, told: figures.NodeProcesses, *, now: float) -> dict[ProcessName, Process]:
        """The processes of a node. now: when they were asked for, in Unix seconds."""
        return {process.name: process for one in told.processes if (process := self._one(told, one, now))}

    def _one(self, told: figures.NodeProcesses, one: figures.ProcessFigures, now: float) -> Process | None:
        try:
            kind = kind_named(one.kind)
        except KeyError:
            return None  # of a newer version
        name = ProcessName(told.node, kind, one.number if one.HasField("number") else None)
        return Process(
            name=name,
            state=one.state,
            pid=one.pid or None,
            restarts=one.restarts,
            started_at=one.started_at or None,
            last_error=one.reason,
            cpu_percent=self._cpu_percent(name, _Sample(one.pid, told.read_at_s, one.cpu_s)),
            rss_bytes=one.rss_bytes or None,
            answered_at=now,
            is_here=False,
        )

    def _cpu_percent(self, name: ProcessName, sample: _Sample) -> float | None:
        before = self._before.get(name)
        self._before[name] = sample
        if before is None or not sample.pid or before.pid != sample.pid:
            return None
        seconds = sample.read_at_s - before.read_at_s
        return 100 * (sample.cpu_s - before.cpu_s) / seconds if seconds > 0 else None
