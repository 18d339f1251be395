"""How it stood with copies that nobody copies just now, so that whoever goes on with them counts on: pure.

A replicator that is started anew, time and again, would else never see a lag or a standstill of more than its own life.
It takes over what the lease row says of whoever held that before, and says it on until it copies itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.replication.report import last_word
from coordinator.replication.tail import Since

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.replication.report import CopyReport, Rows


class HandedOn:
    """Times are those of Tail."""

    def __init__(self) -> None:
        self._copies: dict[str, tuple[CopyReport, float]] = {}
        """By table, and when it stood so."""

    def take_up(self, rows: Rows, *, now: float, wall_s: float) -> None:
        """The lease as it was found, at this Unix time. What is older than this node's clock says is taken for
        now's."""
        report = last_word(rows)
        if report is not None:
            at = now - max(0.0, wall_s - report.at_s)
            self._copies = {copy.name: (copy, at) for copy in report.copies}

    def put(self, report: CopyReport, now: float) -> None:
        """A copier has ended here."""
        self._copies[report.name] = report, now

    def take(self, name: str) -> Since | None:
        """One begins."""
        if name not in self._copies:
            return None
        report, at = self._copies.pop(name)
        return Since(level_at=at - report.lag_s, progress_at=at - report.stuck_s)

    def clear(self) -> None:
        """All others are copies no longer."""
        self._copies.clear()

    def reports(self, now: float, copied: Iterable[CopyReport] = ()) -> list[CopyReport]:
        """Those that are copied here, as told; the others as they stand by now, nobody having copied them since. A row
        that is taken up again after the lease was held too late tells of the former, too."""
        told = {copy.name: copy for copy in copied}
        left = [copy.aged(now - at) for name, (copy, at) in self._copies.items() if name not in told]
        return [*told.values(), *left]
