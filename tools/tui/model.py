"""What the user has done: where he is, what he filters and sorts by, what is selected. Pure.

An event changes the model, page() makes what is shown of it, and nothing else is kept: a new snapshot makes a new page
of the same place."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tools.tui.page import Page, Row
from tools.tui.place import Place, View
from tools.tui.scene import Scene, Trend
from tools.tui.views.calls import calls
from tools.tui.views.findings import findings
from tools.tui.views.keys import history, keys
from tools.tui.views.log import log
from tools.tui.views.nodes import overview
from tools.tui.views.processes import processes
from tools.tui.views.replicas import replicas
from tools.tui.views.replication import replication
from tools.tui.views.shards import shards
from tools.tui.views.tables import tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.admin.keys import KeyPage, KeyRow
    from tools.admin.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Sort:
    """By a column of the page."""

    column: int
    is_reversed: bool


@dataclass(slots=True)
class Level:
    """One place on the way to where the user is."""

    place: Place
    filter: str = ""
    sort: Sort | None = None
    selected: str = ""
    """Key of the selected row; "" for the first."""


@dataclass(slots=True)
class Details:
    """What was fetched for the place where the user is, beside the snapshot."""

    keys: KeyPage | None = None
    history: Sequence[KeyRow] | None = None
    lines: Sequence[tuple[int, str]] = ()
    problem: str = ""
    """Why there is nothing, or nothing newer."""


@dataclass(slots=True)
class Model:
    """See the module."""

    file: str = ""
    """The cluster file as remedies name it."""
    levels: list[Level] = field(default_factory=lambda: [Level(Place(View.OVERVIEW))])
    snapshot: Snapshot | None = None
    trend: Trend = field(default_factory=Trend)
    details: Details = field(default_factory=Details)

    @property
    def here(self) -> Level:
        """Where the user is."""
        return self.levels[-1]

    # ---- events -----------------------------------------------------------------------------------------------------

    def observe(self, snapshot: Snapshot) -> None:
        """A new look at the cluster."""
        self.trend.observe(self.snapshot, snapshot)
        self.snapshot = snapshot

    def open(self, place: Place) -> None:
        """Go further."""
        self.levels.append(Level(place))
        self.details = Details()

    def jump(self, view: View) -> None:
        """Go to a view of the whole cluster, and forget the way."""
        self.levels = [Level(Place(View.OVERVIEW))]
        if view is not View.OVERVIEW:
            self.open(Place(view))
        self.details = Details()

    def back(self) -> bool:
        """Take the filter away, or go back where the user came from. False if there is nothing to go back to."""
        if self.here.filter:
            self.here.filter = ""
            return True
        if len(self.levels) == 1:
            return False
        self.levels.pop()
        self.details = Details()
        return True

    def filter_by(self, text: str) -> None:
        """Show only rows that have this text in them, in whatever case."""
        self.here.filter = text

    def sort_next(self, page: Page, shown: Sequence[int]) -> None:
        """Sort by the next column that is shown; after the last in the order of the cluster again."""
        at = -1 if self.here.sort is None else self.here.sort.column
        column = next((column for column in shown if column > at), None)
        self.here.sort = None
        if column is not None:
            self.sort_by(page, column)

    def sort_by(self, page: Page, column: int) -> None:
        """Sort by this column; by the same again: the other end first."""
        if self.here.sort is not None and self.here.sort.column == column:
            self.sort_other_way()
        else:
            self.here.sort = Sort(column, is_reversed=page.columns[column].is_number)

    def sort_other_way(self) -> None:
        """The other end first."""
        if self.here.sort is not None:
            self.here.sort = replace(self.here.sort, is_reversed=not self.here.sort.is_reversed)

    # ---- what is shown ----------------------------------------------------------------------------------------------

    def scene(self, now: float) -> Scene | None:
        """What the views are made of; None before the first snapshot."""
        if self.snapshot is None:
            return None
        return Scene.of(self.snapshot, self.trend, now=now, file=self.file)

    def page(self, scene: Scene) -> Page:
        """The view where the user is, filtered and sorted."""
        whole = _whole(scene, self.here.place, self.details)
        rows = [row for row in whole.rows if _matches(row, self.here.filter)]
        if self.here.sort is not None:
            column = self.here.sort.column
            rows.sort(key=lambda row: _sort_key(row, column), reverse=self.here.sort.is_reversed)
        empty = whole.empty if not self.here.filter else f"no row has {self.here.filter!r}"
        return replace(whole, rows=rows, empty=empty)


def _whole(scene: Scene, place: Place, details: Details) -> Page:
    match place.view:
        case View.OVERVIEW:
            return overview(scene)
        case View.PROCESSES:
            return processes(scene, place.subject)
        case View.SHARDS:
            return shards(scene)
        case View.REPLICAS:
            return replicas(scene, place.subject)
        case View.TABLES:
            return tables(scene)
        case View.FINDINGS:
            return findings(scene)
        case View.CALLS:
            return calls(scene)
        case View.REPLICATION:
            return replication(scene)
        case View.LOG:
            return _or_problem(log(scene, place.subject, details.lines), details)
        case View.KEYS:
            made = keys(place.subject, details.keys) if details.keys is not None else _waiting(place)
            return _or_problem(made, details)
        case View.HISTORY:
            rows = details.history
            made = history(place.subject, place.key, rows) if rows is not None else _waiting(place)
            return _or_problem(made, details)


def _waiting(place: Place) -> Page:
    return Page(f"{place.view} of {place.subject}", (), (), "looking …")


def _or_problem(page: Page, details: Details) -> Page:
    return replace(page, empty=details.problem) if details.problem else page


def _matches(row: Row, text: str) -> bool:
    wanted = text.lower()
    return not wanted or any(wanted in cell.text.lower() for cell in row.cells)


def _sort_key(row: Row, column: int) -> tuple[int, float, str]:
    cell = row.cells[column]
    if isinstance(cell.sort, float):
        return 0, cell.sort, ""
    return 1, 0.0, cell.sort if isinstance(cell.sort, str) else cell.text.lower()
