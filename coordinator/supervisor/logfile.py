"""A process's log file, kept below a size.

The process writes to the file itself, through an O_APPEND descriptor that is its stderr: no line passes
through the supervisor, and none is lost when the supervisor dies. That is why rotation copies and truncates
instead of renaming: the writer's descriptor stays good, and appends go to the new end. A line written between
the two steps is lost."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TAIL_BYTES_MAX = 16 << 10


class LogFile:
    """`path`, with older parts beside it as path.1, path.2, ... (.1 is the newest)."""

    def __init__(self, path: Path, *, bytes_max: int, files_max: int) -> None:
        self.path = path
        self._bytes_max = bytes_max
        self._files_max = files_max
        self._mark = 0

    def open(self) -> int:
        """A descriptor for a new process to append to; the caller closes it. Marks where that process
        begins."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.maybe_rotate()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._mark = os.fstat(descriptor).st_size
        return descriptor

    def maybe_rotate(self) -> bool:
        """Move the content aside if it has reached the limit; whether it did.

        What can't be moved, to a full disk for instance, stays for the next try: a log too long is no reason not to
        run its process."""
        try:
            if self.path.stat().st_size < self._bytes_max:
                return False
            self._move_aside()
        except OSError:
            return False
        self._mark = 0
        return True

    def _move_aside(self) -> None:
        if self._files_max > 1:
            # The copy first, which may fail; the older parts make way only for a whole one.
            copy = self.path.with_name(f"{self.path.name}.new")
            try:
                shutil.copyfile(self.path, copy)
            except OSError:
                copy.unlink(missing_ok=True)
                raise
            for number in range(self._files_max - 1, 1, -1):
                older = self._numbered(number - 1)
                if older.exists():
                    older.replace(self._numbered(number))
            copy.replace(self._numbered(1))
        os.truncate(self.path, 0)

    def last_lines(self, count: int) -> list[str]:
        """The last lines that the newest process wrote, at most TAIL_BYTES_MAX of them; empty if it wrote
        none."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(min(self._mark, size), size - TAIL_BYTES_MAX))
                text = file.read(TAIL_BYTES_MAX).decode(errors="replace")
        except FileNotFoundError:
            return []
        return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
