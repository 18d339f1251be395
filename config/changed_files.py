"""Files that are read again when they change: whether any has, without reading it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

LOOK_INTERVAL_S: Final = 1.0
"""At most one look in so long."""


class ChangedFiles:
    """Some files as they were when they were last looked at, the first time being now."""

    def __init__(self, paths: Iterable[Path | None], clock: Callable[[], float]) -> None:
        """None stands for a file that there is not. clock: in seconds, of any beginning."""
        self._paths = [path for path in paths if path is not None]
        self._clock = clock
        self._looked_at = clock()
        self._stamps = self._look()

    def changed(self) -> bool:
        """Whether any was written or replaced since the last True."""
        now = self._clock()
        if not self._paths or now - self._looked_at < LOOK_INTERVAL_S:
            return False
        self._looked_at = now
        before, self._stamps = self._stamps, self._look()
        return before != self._stamps

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
