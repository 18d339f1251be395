"""What the styles of cells look like. The 16 colours of a terminal's own palette, so they suit it."""

from __future__ import annotations

from typing import Final

from rich.style import Style

from tools.tui.page import BAD, DIM, GOOD, LEAD, PLAIN, WARN

STYLES: Final = {
    PLAIN: Style(),
    GOOD: Style(color="green"),
    WARN: Style(color="yellow"),
    BAD: Style(color="red", bold=True),
    DIM: Style(color="bright_black"),
    LEAD: Style(color="cyan", bold=True),
}
HEADING: Final = Style(bold=True, underline=True)
SELECTED: Final = Style(reverse=True)
