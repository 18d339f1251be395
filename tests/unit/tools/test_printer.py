"""Lines for a terminal that may stop, hang up or be full: they never make their writer wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from tools.printer import Printer
with Printer() as printer:
    for number in range({count}):
        printer.say(f"line {{number}}", "red")
sys.stderr.write("done")
"""


def _run(stdout: int, count: int = 3) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(count=count)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        timeout=30,
        check=True,
    )
    return done.stderr.decode()


def test_lines_arrive_in_order_and_without_colour_where_no_terminal_is(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        assert _run(out.fileno()) == "done"
    assert (tmp_path / "out").read_text() == "line 0\nline 1\nline 2\n"


def test_a_pipe_that_nobody_reads_and_one_that_hung_up(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    try:
        assert _run(writer, count=100_000) == "done"
    finally:
        os.close(reader)
    assert _run(writer) == "done"
    os.close(writer)


def test_a_full_disk() -> None:
    with Path("/dev/full").open("wb") as full:
        assert _run(full.fileno()) == "done"
