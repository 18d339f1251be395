"""A process gives back what a burst of large blocks took."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

_PROGRAM: Final = """
import psutil, sys
from config.process.memory import give_back_large_blocks
if sys.argv[1] == "gives":
    give_back_large_blocks()
mib = 1 << 20
bytearray(30 * mib)  # from here on glibc keeps anything smaller
blocks = [bytearray(mib) for _ in range(100)]
small = [bytes(1000) for _ in range(100)]  # and so lies above them
last = bytearray(mib)
del blocks
print(psutil.Process().memory_info().rss // mib)
"""


def rss_mib(what: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, what], capture_output=True, text=True, check=True, timeout=60
    )
    return int(run.stdout)


def test_large_blocks_are_given_back() -> None:
    assert rss_mib("gives") < rss_mib("keeps") - 50
