"""The log of a process. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tools.log_lines import readable
from tools.tui.page import BAD, PLAIN, WARN, Cell, Column, Page, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

LINES_KEPT: Final = 1_000

COLUMNS: Final = (Column("LINE", takes_rest=True),)


def log(process: str, lines: Sequence[tuple[int, str]]) -> Page:
    """The last lines, each with its number since it is looked at."""
    rows = [
        Row(
            key=str(number),
            cells=(Cell(readable(line).partition("\n")[0], _style(line), sort=float(number)),),
            reads=readable(line),
        )
        for number, line in lines
    ]
    return Page(f"log of {process}", COLUMNS, rows, "no line yet, or the log is on another machine")


def _style(line: str) -> str:
    if '"level": "error"' in line or '"level": "critical"' in line or "Traceback" in line:
        return BAD
    return WARN if '"level": "warning"' in line else PLAIN
