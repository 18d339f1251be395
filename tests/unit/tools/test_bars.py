"""Bars of tables that are saved and restored: what a person at a terminal sees of them, and nobody else."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.terminal import ROOT, on_terminal

PROGRAM = """
from tools.bars import bars
with bars("saving", "keys") as progress:
    for done in (5, 10):  # the first try broke off
        progress.begin("again", 10)
        progress.done(done, 100)
    progress.end()
    progress.begin("empty", 0)
    progress.done(0, 0)
    progress.end()
    progress.begin("unchanged", 0)
    progress.end()
    progress.begin("fewer", 10)
    progress.done(9, 100)
    progress.end()
    progress.begin("more", 2)
    progress.done(40, 100)
    progress.end()
    progress.begin("cut-short", 10)
    progress.done(5, 100)
print("all of it")
"""
COMMAND = [sys.executable, "-c", PROGRAM]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_a_table_that_is_done_is_whole_and_has_one_bar() -> None:
    with on_terminal(COMMAND, os.environ, columns=120) as terminal:
        terminal.wait_shows(b"all of it", "the end")
    *lines, _ = CONTROL.sub("", terminal.seen.decode()).splitlines()
    shown = [re.sub(r"^saving (\S+) .*?(\d+%).*$", r"\1 \2", line) for line in lines[-6:]]
    assert shown == ["again 100%", "empty 100%", "unchanged 100%", "fewer 100%", "more 100%", "cut-short 50%"]


def test_into_a_pipe_nothing_is_drawn() -> None:
    done = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"all of it\n", b"")
