"""How much memory a system takes, looked at from outside."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Self

import psutil

if TYPE_CHECKING:
    from tools.bench.systems import System

LOOK_EVERY_S: Final = 0.02


def rss_bytes(*systems: System) -> dict[int, int]:
    """Of each process that runs, by its pid."""
    found: dict[int, int] = {}
    for system in systems:
        for process in system.processes().values():
            try:
                found[process.pid] = process.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # it ended just then
    return found


class Growth:
    """By how much the processes of systems grow, looked at again and again until this is left.

    One that starts meanwhile counts from when it is first seen."""

    def __init__(self, *systems: System) -> None:
        self._systems = systems
        self._before: dict[int, int] = {}
        self._most: dict[int, int] = {}
        self._over = threading.Event()
        self._looks = threading.Thread(target=self._look, daemon=True)

    @property
    def largest_mb(self) -> float:
        """Of the one that grew most, in megabytes, once this is left; 0 if nothing is known of any."""
        return max((most - self._before[pid] for pid, most in self._most.items()), default=0) / 1e6

    def __enter__(self) -> Self:
        self._note()
        self._looks.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._looks.join()
        self._note()

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self._note()

    def _note(self) -> None:
        for pid, held in rss_bytes(*self._systems).items():
            self._before.setdefault(pid, held)
            self._most[pid] = max(held, self._most.get(pid, 0))
