"""Progress: on a terminal once it takes long, never into a pipe, and never into what a command prints."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """
import threading
from tools import progress
progress.PATIENCE_S = {patience_s}
with progress.working("looking around") as say:
    threading.Event().wait(0.5)
    say("nearly there")
    print("a line of its own", flush=True)
    threading.Event().wait(0.5)
"""


def _run(patience_s: float, *, on_terminal: bool) -> tuple[str, str]:
    """What stands on its stdout, a pipe, and on its stderr."""
    ours, theirs = pty.openpty() if on_terminal else os.pipe()
    done = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(patience_s=patience_s)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:
        pass  # the other end of the terminal is gone
    os.close(ours)
    printed, _ = done.communicate(timeout=20)
    assert done.returncode == 0
    return printed.decode(), said.decode()


def test_whoever_waits_at_a_terminal_hears_what_goes_on() -> None:
    printed, said = _run(0.1, on_terminal=True)
    assert printed == "a line of its own\n"
    assert "looking around" in said
    assert "nearly there" in said


def test_what_is_done_soon_and_a_pipe_need_no_words() -> None:
    assert _run(60, on_terminal=True) == ("a line of its own\n", "")
    assert _run(0.1, on_terminal=False) == ("a line of its own\n", "")
