"""A page on the screen: a heading, rows, and the selected one.

A widget of our own, since all there is changes each second: a row is some segments made from its cells, and only what
is in sight is made at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from tools.tui.page import GAP, Page, aligned, fit
from tools.tui.theme import HEADING, SELECTED, STYLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.style import Style
    from textual import events

    from tools.tui.model import Sort
    from tools.tui.page import Row

HEADING_LINES = 1


class Grid(Widget, can_focus=True):
    """See the module."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home,g", "end(-1)", show=False),
        Binding("end,G", "end(1)", show=False),
        Binding("enter", "open", show=False),
    ]

    class Opened(Message):
        """Enter on the selected row."""

    class Selected(Message):
        """Another row is selected."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    class HeadingClicked(Message):
        """The mouse on the heading of a column."""

        def __init__(self, column: int) -> None:
            super().__init__()
            self.column = column

    def __init__(self) -> None:
        super().__init__()
        self._page = Page("", (), ())
        self._sort: Sort | None = None
        self._selected = 0
        self._top = 0
        self._fitted = fit(self._page, 0)

    def show(self, page: Page, sort: Sort | None, selected: str) -> None:
        """Show this page. selected: key of the selected row; where it is gone, the row in its place."""
        self._page, self._sort = page, sort
        self._fitted = fit(page, self.size.width)
        for position, row in enumerate(page.rows):
            if row.key == selected:
                self._selected = position
                break
        else:
            self._selected = min(self._selected, max(0, len(page.rows) - 1)) if selected else 0
        self._keep_in_sight()
        self.refresh()

    @property
    def row(self) -> Row | None:
        """The selected row."""
        return self._page.rows[self._selected] if self._page.rows else None

    @property
    def columns_shown(self) -> Sequence[int]:
        """Those of the page that there is room for."""
        return self._fitted.columns

    @property
    def at_end(self) -> bool:
        """Whether the last row is selected."""
        return self._selected >= len(self._page.rows) - 1

    # ---- keys and mouse ---------------------------------------------------------------------------------------------

    def action_move(self, step: int) -> None:
        self._select(self._selected + step)

    def action_page(self, step: int) -> None:
        self._select(self._selected + step * max(1, self._room - 1))

    def action_end(self, way: int) -> None:
        self._select(0 if way < 0 else len(self._page.rows) - 1)

    def action_open(self) -> None:
        if self.row is not None:
            self.post_message(self.Opened())

    def on_click(self, event: events.Click) -> None:
        position = self._top + event.y - HEADING_LINES
        if event.y < HEADING_LINES:
            self._click_heading(event.x - self.styles.padding.left)
        elif position < len(self._page.rows):
            if position == self._selected:
                self.action_open()
            self._select(position)

    def _click_heading(self, x: int) -> None:
        if not self._page.rows:
            return
        begin = 0
        for position, width in zip(self._fitted.columns, self._fitted.widths, strict=True):
            if begin <= x < begin + width + GAP:
                self.post_message(self.HeadingClicked(position))
            begin += width + GAP

    def on_mouse_scroll_down(self) -> None:
        self.action_move(1)

    def on_mouse_scroll_up(self) -> None:
        self.action_move(-1)

    def on_resize(self) -> None:
        self._fitted = fit(self._page, self.size.width)
        self._keep_in_sight()

    def _select(self, position: int) -> None:
        if not self._page.rows:
            return
        self._selected = min(max(0, position), len(self._page.rows) - 1)
        self._keep_in_sight()
        self.refresh()
        self.post_message(self.Selected(self._page.rows[self._selected].key))

    @property
    def _room(self) -> int:
        return max(1, self.size.height - HEADING_LINES)

    def _keep_in_sight(self) -> None:
        self._top = min(self._top, self._selected, max(0, len(self._page.rows) - self._room))
        self._top = max(self._top, self._selected - self._room + 1)

    # ---- lines ------------------------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        base = self.rich_style
        if y == 0:
            segments = self._heading(base) if self._page.rows else []
        else:
            position = self._top + y - HEADING_LINES
            if position < len(self._page.rows):
                segments = self._line(self._page.rows[position], width, base, position == self._selected)
            else:
                empty = self._page.empty if y == HEADING_LINES and not self._page.rows else ""
                segments = [Segment(empty, base + STYLES["dim"])]
        return Strip(segments).adjust_cell_length(width, base).crop(0, width)

    def _heading(self, base: Style) -> list[Segment]:
        fitted = self._fitted
        segments = []
        for position, column_width in zip(fitted.columns, fitted.widths, strict=True):
            column = self._page.columns[position]
            title = column.title
            if self._sort is not None and self._sort.column == position:
                title += "▼" if self._sort.is_reversed else "▲"
            segments += [
                Segment(aligned(title, column, column_width), base + HEADING),
                Segment(" " * GAP, base),
            ]
        return segments

    def _line(self, row: Row, width: int, base: Style, is_selected: bool) -> list[Segment]:
        fitted = self._fitted
        marked = SELECTED if is_selected and self.has_focus else None
        segments = []
        for position, column_width in zip(fitted.columns, fitted.widths, strict=True):
            cell, column = row.cells[position], self._page.columns[position]
            style = base + STYLES[cell.style]
            text = aligned(cell.text, column, column_width)
            segments.append(Segment(text, style + marked if marked else style))
            segments.append(Segment(" " * GAP, base + marked if marked else base))
        if marked:
            return list(Strip(segments).adjust_cell_length(width, base + marked))
        return segments
