"""Makes the pictures of docs/, of clusters made of plain values, so that they change only with the program:
`python -m tests.unit.tui.screenshots docs`, or `make screenshots`."""

from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.unit.tui.clusters import NOW, Attached, degraded, healthy
from tests.waiting import wait_until_async
from tools.tui.app import Top

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.admin.snapshot import Snapshot

SIZE: Final = (110, 20)
LOOKS: Final = 24
"""Enough for a sparkline."""


def busy() -> list[Snapshot]:
    """A healthy cluster, a look a second, with more to do now and then."""
    worked_s, snapshots = 0.0, []
    for look in range(LOOKS):
        worked_s += 0.4 + (look * 7 % 5) / 4
        snapshots.append(replace(healthy(seconds=worked_s), taken_at=NOW + look))
    return snapshots


@dataclass
class Ending(Attached):
    """The look after the last does not come back before the picture is taken."""

    is_asked: threading.Event = field(default_factory=threading.Event)
    """For that look: the last one is drawn."""
    is_taken: threading.Event = field(default_factory=threading.Event)

    def poll(self) -> Snapshot:
        if self.looks >= len(self.snapshots):
            self.is_asked.set()
            self.is_taken.wait(60)
        return super().poll()


async def picture(snapshots: Sequence[Snapshot], keys: Sequence[str]) -> str:
    """The screen after all of these looks and keys, as SVG."""
    attached = Ending(snapshots)
    app = Top(attached, refresh_s=0.02, read_only=False, clock=lambda: snapshots[-1].taken_at)
    async with app.run_test(size=SIZE) as pilot:
        try:
            await wait_until_async(attached.is_asked.is_set, timeout_s=30, what="all looks")
            await pilot.press(*keys)
            await pilot.pause()
            return app.export_screenshot(title="boathouse top", simplify=True)
        finally:
            attached.is_taken.set()


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    pictures = {
        "top-shards.svg": (busy(), ["3"]),
        "top-explained.svg": ([degraded()], ["4", "down", "e"]),
    }
    for name, (snapshots, keys) in pictures.items():
        (folder / name).write_text(asyncio.run(picture(snapshots, keys)) + "\n")


if __name__ == "__main__":
    main()
