"""What a view shows, as values: columns, rows and cells, and how they fit a width. Pure.

Every state is a letter as well as a colour, so nothing is lost where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config.process.names import ProcessName
    from tools.admin.findings import Finding
    from tools.tui.place import Place

GOOD: Final = "good"
WARN: Final = "warn"
BAD: Final = "bad"
DIM: Final = "dim"
LEAD: Final = "lead"
PLAIN: Final = ""

UNKNOWN: Final = "-"
GAP: Final = 2
REST_MIN: Final = 20
"""A column that takes the rest of a line is left out where it would get less, and would have more to say."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure or word."""

    text: str
    style: str = PLAIN
    sort: float | str | None = None
    """By what its column is sorted; None: by the text."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. The lower the rank, the longer it stays when there is little room."""

    title: str
    rank: int = 1
    is_number: bool = False
    """Set to the right, and first sorted with the largest on top."""
    takes_rest: bool = False
    """Of the last column: is cut where the line ends."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line."""

    key: str
    """Names the row from one snapshot to the next."""
    cells: Sequence[Cell]
    opens: Place | None = None
    """Where Enter leads."""
    process: ProcessName | None = None
    """What can be acted on."""
    findings: Sequence[Finding] = ()
    """What is wrong with it, the worst first."""
    reads: str = ""
    """A text that Enter shows in full."""


@dataclass(frozen=True, slots=True)
class Page:
    """One view at one moment."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    empty: str = "nothing here"
    """What stands there without rows."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Which columns are shown, and how wide."""

    columns: Sequence[int]
    widths: Sequence[int]


def fit(page: Page, width: int) -> Fitted:
    """As many columns as the width allows: the highest ranks go first, the last of equals before the others."""
    natural = [
        min(
            max([len(column.title) + 1, *(cell_len(row.cells[position].text) for row in page.rows)]),
            REST_MIN if column.takes_rest else 1_000,
        )
        for position, column in enumerate(page.columns)
    ]
    shown = list(range(len(page.columns)))
    while len(shown) > 1 and sum(natural[position] for position in shown) + GAP * (len(shown) - 1) > width:
        shown.remove(max(shown, key=lambda position: (page.columns[position].rank, position)))
    widths = [natural[position] for position in shown]
    if shown and page.columns[shown[-1]].takes_rest:
        used = sum(widths[:-1]) + GAP * (len(shown) - 1)
        widths[-1] = max(widths[-1], width - used)
    return Fitted(shown, widths)


def aligned(text: str, column: Column, width: int) -> str:
    """The text on exactly this width; what is cut ends in an ellipsis."""
    room = width - cell_len(text)
    if room < 0:
        return set_cell_size(text, width - 1) + "…" if width else ""
    return " " * room + text if column.is_number else text + " " * room


def lines(page: Page, width: int) -> list[str]:
    """The page as plain text."""
    if not page.rows:
        return [page.empty]
    fitted = fit(page, width)
    gap = " " * GAP
    made = [
        gap.join(
            aligned(page.columns[position].title, page.columns[position], column_width)
            for position, column_width in zip(fitted.columns, fitted.widths, strict=True)
        )
    ]
    made += [
        gap.join(
            aligned(row.cells[position].text, page.columns[position], column_width)
            for position, column_width in zip(fitted.columns, fitted.widths, strict=True)
        )
        for row in page.rows
    ]
    return [line.rstrip() for line in made]
