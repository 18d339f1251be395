"""Progress: on a terminal once it takes long, never into a pipe, and never into what a command prints."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from tools import progress
progress.PATIENCE_S = {patience_s}
with progress.working("looking around") as say:
    sys.stdin.readline()
    say("nearly there")
    print("a line of its own", flush=True)
    sys.stdin.readline()
"""


def _run(patience_s: float, *, on_terminal: bool, awaited: tuple[str, ...] = ()) -> tuple[str, str]:
    """What stands on its stdout, a pipe, and on its stderr. It takes its next step once each awaited text was seen."""
    ours, theirs = pty.openpty() if on_terminal else os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(patience_s=patience_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm"},
    ) as child:
        os.close(theirs)
        assert child.stdin is not None
        assert child.stdout is not None
        said = ""
        for text in awaited:
            while text not in said:
                said += os.read(ours, 4096).decode()
            child.stdin.write(b"\n")
            child.stdin.flush()
        child.stdin.close()
        with contextlib.suppress(OSError):  # the other end of the terminal is gone
            while piece := os.read(ours, 4096):
                said += piece.decode()
        os.close(ours)
        printed = child.stdout.read().decode()
    assert child.returncode == 0
    return printed, said


def test_whoever_waits_at_a_terminal_hears_what_goes_on() -> None:
    printed, _ = _run(0.1, on_terminal=True, awaited=("looking around", "nearly there"))
    assert printed == "a line of its own\n"


def test_what_is_done_soon_and_a_pipe_need_no_words() -> None:
    assert _run(60, on_terminal=True) == ("a line of its own\n", "")
    assert _run(0, on_terminal=False) == ("a line of its own\n", "")
