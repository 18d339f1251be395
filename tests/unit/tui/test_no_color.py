"""What goes to the terminal with NO_COLOR in the environment, and without."""

from __future__ import annotations

import os
import re
import sys

import pytest

from tests.terminal import on_terminal

PROGRAM = """
from tests.unit.tui.clusters import NOW, Attached, degraded
from tools.tui.app import Top
Top(Attached([degraded()]), refresh_s=3_600, read_only=False, clock=lambda: NOW + 1).run()
"""
COLOUR = re.compile(rb"\x1b\[(?:[0-9]+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")
"""An escape that sets a colour, of text or behind it."""


def _shown(**environment: str) -> bytes:
    """All that is written until the replicas are seen and the user leaves."""
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    command = [sys.executable, "-c", PROGRAM]
    with on_terminal(command, {**inherited, **environment}, columns=120) as terminal:
        terminal.wait_shows(b"have a leader", "the overview")
        terminal.type(b"4")
        terminal.wait_shows(b"n3/shard-1", "the replicas")
        terminal.type(b"q")
        terminal.wait_left()
        return bytes(terminal.seen)


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}], ids=["colours", "NO_COLOR"])
def test_colours_are_left_out_if_the_user_says_so_and_letters_stay(environment: dict[str, str]) -> None:
    shown = _shown(**environment)
    assert bool(COLOUR.search(shown)) is not bool(environment)
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown)
    assert re.search(rb"X +n3/shard-1", plain)
