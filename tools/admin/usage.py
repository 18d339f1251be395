"""What processes of this machine take: CPU and memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

import psutil

if TYPE_CHECKING:
    from collections.abc import Collection

SAMPLE_S: Final = 0.2
"""CPU is a share of some time: of a process that is new to us, at least of so much."""


class Used(NamedTuple):
    """Of one process."""

    cpu_percent: float
    """Of one core, since it was last looked at."""
    rss_bytes: int


class Usage:
    """Looks at processes again and again."""

    def __init__(self) -> None:
        self._processes: dict[int, psutil.Process] = {}
        self._sampled_at_s = 0.0

    def watch(self, pids: Collection[int]) -> None:
        """From now on these. Who is new is sampled from here."""
        self._processes = {pid: process for pid, process in self._processes.items() if pid in pids}
        for pid in pids:
            if pid not in self._processes:
                try:
                    process = psutil.Process(pid)
                    process.cpu_percent(None)  # the first call starts the clock
                except psutil.Error:
                    continue
                self._processes[pid] = process
                self._sampled_at_s = time.monotonic()

    def measured(self) -> dict[int, Used]:
        """By process id. Waits until the newest of them has been sampled for SAMPLE_S."""
        time.sleep(max(0.0, SAMPLE_S - (time.monotonic() - self._sampled_at_s)))
        found = {}
        for pid, process in self._processes.items():
            try:
                found[pid] = Used(process.cpu_percent(None), process.memory_info().rss)
            except psutil.Error:
                continue
        return found
