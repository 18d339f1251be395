"""The background's threads in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
END_TIMEOUT_S: Final = 30

FAILS: Final = """
from shardworker.background import BackgroundThreads
from shardworker.transport import Transport

transport = Transport(binds=("tcp://127.0.0.1:*",), peers={2: "tcp://127.0.0.1:1"}, group=1)
BackgroundThreads(threads=2, wake=transport.wake)
raise SystemExit("something else cannot be built")
"""


def test_a_worker_that_fails_while_it_is_built_ends() -> None:
    process = subprocess.run(
        [sys.executable, "-c", FAILS], cwd=ROOT, timeout=END_TIMEOUT_S, capture_output=True, text=True
    )
    assert (process.returncode, process.stderr) == (1, "something else cannot be built\n")
