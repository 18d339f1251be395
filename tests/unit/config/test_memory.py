"""A process gives back what a burst of answers took, and takes nothing from the system to pass on a long one."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

_BURST: Final = """
import psutil, sys
from config.process.memory import FreeMemory
memory = FreeMemory()
memory.give_back()
mib = 1 << 20
blocks = [bytearray(mib) for _ in range(100)]
small = [bytes(1000) for _ in range(100)]  # and so lies above them
last = bytearray(mib)
del blocks
if sys.argv[1] == "gives":
    memory.give_back()
print(psutil.Process().memory_info().rss // mib)
"""

_PARTS: Final = """
import resource
from config.process.memory import FreeMemory
memory = FreeMemory()
def pass_on():
    part = bytes(1_200_000)
    copies = [bytearray(part) for _ in range(8)]
pass_on()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    pass_on()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

_NO_DESCRIPTOR: Final = """
import os, resource
from config.process.memory import FreeMemory
memory = FreeMemory()
resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(0), 4096))
memory.give_back()
print(1)
"""


def told_by(program: str, *arguments: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return int(run.stdout)


def test_what_a_burst_took_is_given_back() -> None:
    assert told_by(_BURST, "gives") < told_by(_BURST, "keeps") - 50


def test_copies_of_parts_are_made_where_earlier_ones_were() -> None:
    assert told_by(_PARTS) < 1_000  # of the 230,000 pages that they have


def test_who_can_open_no_file_goes_on() -> None:
    assert told_by(_NO_DESCRIPTOR) == 1
