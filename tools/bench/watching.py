"""What `boathouse top` costs who watches a cluster with it, on a terminal, a look a second."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from typing import TYPE_CHECKING, Final

import psutil

from tools.bench.run import LoadFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TERMINAL: Final = struct.pack("HHHH", 50, 160, 0, 0)
SHARDS_VIEW: Final = b"3"
FIRST_LOOKS_S: Final = 6.0
"""Imports, connections, and what is made once."""


class Watcher:
    """`boathouse top` of a cluster file, with somebody who reads what it writes."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self._process = psutil.Process(process.pid)
        self._ended = process.poll
        self._terminal = terminal
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # it has ended
            while os.read(self._terminal, 65_536):
                pass

    def press(self, key: bytes) -> None:
        """As its user would."""
        os.write(self._terminal, key)

    def cpu_percent(self, seconds: float) -> float:
        """Of one core, over the next so many seconds. Raises LoadFailed if it ends meanwhile."""
        before = self._process.cpu_times()
        time.sleep(seconds)
        if self._ended() is not None:
            raise LoadFailed("boathouse top has ended by itself")
        after = self._process.cpu_times()
        return 100 * (after.user - before.user + after.system - before.system) / seconds


@contextlib.contextmanager
def watching(cluster_file: Path, environment: dict[str, str]) -> Iterator[Watcher]:
    """One that shows the shards by now. environment: beside this one's."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, TERMINAL)
    command = [sys.executable, "-m", "tools.cli", "top", str(cluster_file)]
    with subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", **environment},
    ) as process:  # fmt: skip
        os.close(theirs)
        try:
            watcher = Watcher(process, ours)
            time.sleep(FIRST_LOOKS_S / 2)
            watcher.press(SHARDS_VIEW)
            time.sleep(FIRST_LOOKS_S / 2)
            yield watcher
        finally:
            process.kill()
            process.wait()
            os.close(ours)
