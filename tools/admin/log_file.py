"""A process's log file, read as it is written."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINE_BYTES_MAX: Final = 1 << 20


class LogFile:
    """One log file, which its supervisor may truncate and others may remove while it is read. Every method raises
    OSError if it is there and can't be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0
        self._inode: int | None = None

    def last_lines(self, count: int) -> list[bytes]:
        """The last lines of it as it is now."""
        return list(deque(self._read(), maxlen=count))

    def new_lines(self) -> list[bytes]:
        """What was written since, whole lines only; none if it is not there at the moment."""
        return list(self._read())

    def _read(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._position:
                    self._position = 0  # another file, or shorter than before: its content was moved aside
                self._inode = found.st_ino
                file.seek(self._position)
                while line := file.readline(LINE_BYTES_MAX):
                    if not line.endswith(b"\n") and len(line) < LINE_BYTES_MAX:
                        return  # its writer is in the middle of it
                    self._position += len(line)
                    yield line.rstrip(b"\n")
        except FileNotFoundError:
            self._position = 0
