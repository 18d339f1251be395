"""What goes to the terminal with NO_COLOR in the environment, and without."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
PROGRAM = """
from tests.unit.tui.clusters import NOW, Attached, degraded
from tools.tui.app import Top
Top(Attached([degraded()]), refresh_s=3_600, read_only=False, clock=lambda: NOW + 1).run()
"""
COLOUR = re.compile(rb"\x1b\[(?:[0-9]+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")
"""An escape that sets a colour, of text or behind it."""


def _shown(**environment: str) -> bytes:
    """All that is written until the replicas are seen and the user leaves."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**inherited, "TERM": "xterm-256color", **environment},
    )  # fmt: skip
    os.close(theirs)
    seen = bytearray()

    def shows(text: bytes) -> bool:
        while select.select([ours], [], [], 0)[0]:
            try:
                seen.extend(os.read(ours, 65_536))
            except OSError:
                break  # the other end is closed
        return text in seen

    try:
        wait_until(lambda: shows(b"have a leader"), timeout_s=30, what="the overview")
        os.write(ours, b"4")
        wait_until(lambda: shows(b"n3/shard-1"), timeout_s=30, what="the replicas")
        os.write(ours, b"q")
        wait_until(lambda: shows(b"\x1b[?1049l") and program.poll() is not None, timeout_s=30, what="its end")
    finally:
        program.kill()
        program.wait()
        os.close(ours)
    return bytes(seen)


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}], ids=["colours", "NO_COLOR"])
def test_colours_are_left_out_if_the_user_says_so_and_letters_stay(environment: dict[str, str]) -> None:
    shown = _shown(**environment)
    assert bool(COLOUR.search(shown)) is not bool(environment)
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown)
    assert re.search(rb"X +n3/shard-1", plain)
