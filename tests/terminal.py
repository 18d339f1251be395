"""A program on a terminal of its own, that a test reads and types into."""

from __future__ import annotations

import os
import pty
import select
import struct
import subprocess
import termios
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from typing import TYPE_CHECKING

from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[1]
SCREEN_LEFT = b"\x1b[?1049l"
"""A full-screen program gives the terminal back."""


class Terminal:
    """What is in front of it."""

    def __init__(self, program: subprocess.Popen[bytes], end: int) -> None:
        self.program = program
        self.seen = bytearray()
        """All that was written so far."""
        self._end = end

    def type(self, keys: bytes) -> None:
        os.write(self._end, keys)

    def wait_shows(self, text: bytes, what: str) -> None:
        """Until this was written to it."""
        wait_until(lambda: self._shows(text), timeout_s=30, what=what)

    def wait_left(self) -> None:
        """Until the program has given the terminal back, and ended."""
        wait_until(
            lambda: self._shows(SCREEN_LEFT) and self.program.poll() is not None, timeout_s=30, what="its end"
        )

    def _shows(self, text: bytes) -> bool:
        while select.select([self._end], [], [], 0)[0]:
            try:
                self.seen.extend(os.read(self._end, 65_536))
            except OSError:
                break  # the other end is closed
        return text in self.seen


@contextmanager
def on_terminal(
    command: Sequence[str], environment: Mapping[str, str], *, columns: int
) -> Iterator[Terminal]:
    """The program runs until the block ends, in the project's folder, on 24 lines."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    program = subprocess.Popen(
        command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**environment, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(program, ours)
    finally:
        program.kill()
        program.wait()
        os.close(ours)
