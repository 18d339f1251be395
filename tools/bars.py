"""A bar for each table that is saved or restored, on a terminal; nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from tools.output import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.admin.backup import Progress


@contextlib.contextmanager
def bars(verb: str, unit: str) -> Iterator[Progress]:
    """verb: what is done to each table. unit: of what is counted."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as shown:
        yield _Bars(shown, verb, unit)


class _Silent:
    """Where nobody looks."""

    def begin(self, table: str, total: int) -> None:
        """See Progress."""

    def done(self, count: int, size_bytes: int) -> None:
        """See Progress."""

    def end(self) -> None:
        """See Progress."""


class _Bars:
    """rich's, of one table after the other."""

    def __init__(self, bars: Any, verb: str, unit: str) -> None:
        self._bars = bars
        self._verb = verb
        self._unit = unit
        self._table = ""
        self._task: Any = None
        self._total = 0
        self._began = 0.0

    def begin(self, table: str, total: int) -> None:
        """See Progress."""
        self._began = time.monotonic()
        self._total = max(1, total)
        if table == self._table:
            self._bars.reset(self._task, total=self._total, speed="")
            return
        self._table = table
        self._task = self._bars.add_task(f"{self._verb} {table}", total=self._total, speed="")

    def done(self, count: int, size_bytes: int) -> None:
        """See Progress."""
        per_s = 1 / max(time.monotonic() - self._began, 1e-3)
        speed = f"{human_bytes(int(size_bytes * per_s))}/s"
        if self._unit != "bytes":
            speed = f"{count * per_s:,.0f} {self._unit}/s, {speed}"
        # A transaction of many changes is one revision, so there may be more than was thought, and some to come.
        self._total = max(self._total, count)
        self._bars.update(self._task, total=self._total, completed=count, speed=speed)

    def end(self) -> None:
        """See Progress."""
        self._bars.update(self._task, total=self._total, completed=self._total)
