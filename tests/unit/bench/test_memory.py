"""What the benchmark sees of the memory of those that it measures."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil

from tests.waiting import wait_until
from tools.bench.memory import Growth, rss_bytes
from tools.bench.systems import Boathouse

if TYPE_CHECKING:
    from pathlib import Path

HAS_A_ZOMBIE = """
import os, sys
child = os.fork()
if not child:
    os._exit(0)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
print(child, flush=True)
sys.stdin.read()
"""


class Held:
    """A system whose processes hold what the test says, in megabytes by pid."""

    def __init__(self, **held_mb: int | None) -> None:
        self.held_mb = {int(name.removeprefix("p")): held for name, held in held_mb.items()}
        """None: it ends before it can be asked."""
        self.looks = 0

    def processes(self) -> dict[str, Any]:
        self.looks += 1
        return {str(pid): SimpleNamespace(pid=pid, memory_info=self._telling(pid)) for pid in self.held_mb}

    def _telling(self, pid: int) -> Any:
        def memory_info() -> Any:
            if (held := self.held_mb[pid]) is None:
                raise psutil.NoSuchProcess(pid)
            return SimpleNamespace(rss=held * 1_000_000)

        return memory_info

    def looked_at(self) -> None:
        """Return once what is held now was seen."""
        before = self.looks
        wait_until(lambda: self.looks > before + 1, timeout_s=10, what="another look")


def test_the_process_that_grew_most_counts_by_its_highest_mark() -> None:
    system: Any = Held(p1=100, p2=10)
    with Growth(system) as growth:
        system.held_mb |= {1: 130, 2: 50}
        system.looked_at()
        system.held_mb |= {1: 90, 2: 20}
    assert growth.largest_mb == 40


def test_one_that_starts_meanwhile_counts_from_when_it_is_seen() -> None:
    system: Any = Held(p1=100)
    with Growth(system) as growth:
        system.held_mb[2] = 500
        system.looked_at()
        system.held_mb |= {1: 101, 2: 507}
    assert growth.largest_mb == 7


def test_nothing_is_told_of_who_is_not_known() -> None:
    system: Any = Held(p1=None)
    with Growth(system) as growth:
        pass
    assert growth.largest_mb == 0


def test_a_process_that_has_just_ended_is_left_out(tmp_path: Path) -> None:
    system = Boathouse(tmp_path, 1, 1, 1, ())
    with subprocess.Popen(
        [sys.executable, "-c", HAS_A_ZOMBIE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        zombie = int(process.stdout.readline())
        assert zombie in {child.pid for child in psutil.Process(process.pid).children()}
        system._process = process
        assert system.processes().keys() == {f"supervisor {process.pid}"}
        assert rss_bytes(system).keys() == {process.pid}
        process.stdin.close()
    assert system.processes() == {}
