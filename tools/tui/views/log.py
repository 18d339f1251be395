"""The log of a process. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tools.log_lines import readable
from tools.tui.page import BAD, PLAIN, WARN, Cell, Column, Page, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.tui.scene import Scene

LINES_KEPT: Final = 1_000

COLUMNS: Final = (Column("LINE", takes_rest=True),)


def log(scene: Scene, subject: str, lines: Sequence[tuple[int, str]]) -> Page:
    """The last lines of a process's log, each with its number since it is looked at."""
    rows = [
        Row(
            key=str(number),
            cells=(Cell(readable(line).partition("\n")[0], _style(line), sort=float(number)),),
            reads=readable(line),
        )
        for number, line in lines
    ]
    elsewhere = any(str(one.name) == subject and not one.is_here for one in scene.snapshot.processes)
    there = f"it is on the host of {subject.partition('/')[0]}; there: boathouse logs {subject} {scene.file}"
    return Page(f"log of {subject}", COLUMNS, rows, there.rstrip() if elsewhere else "no line yet")


def _style(line: str) -> str:
    if '"level": "error"' in line or '"level": "critical"' in line or "Traceback" in line:
        return BAD
    return WARN if '"level": "warning"' in line else PLAIN
