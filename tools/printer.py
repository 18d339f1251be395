"""Lines on the standard output of a program that must never wait for it."""

from __future__ import annotations

import os
import queue
import threading
from typing import Final, Self

LINES_WAITING_MAX: Final = 1_000
FAREWELL_S: Final = 1.0
_STDOUT: Final = 1
_STYLES: Final = {"": "", "red": "\x1b[31m", "green": "\x1b[32m", "yellow": "\x1b[33m"}
_PLAIN: Final = "\x1b[0m"


class Printer:
    """Writes from a thread, straight to the descriptor. Use as a context manager.

    A terminal that was stopped with Ctrl-S or closed, a pipe that nobody reads or has hung up, a full disk: none of
    them makes say() wait or fail. What can't be written is lost."""

    def __init__(self) -> None:
        self._lines: queue.Queue[bytes | None] = queue.Queue(LINES_WAITING_MAX)
        self._is_coloured = os.isatty(_STDOUT) and not os.environ.get("NO_COLOR")
        # A daemon: one that is stuck in a write does not keep the process from ending.
        self._thread = threading.Thread(target=self._write_all, name="printer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._put(None)
        self._thread.join(FAREWELL_S)

    def say(self, text: str, style: str = "") -> None:
        """One line; `style` is a colour, for terminals."""
        if style and self._is_coloured:
            text = f"{_STYLES[style]}{text}{_PLAIN}"
        self._put(f"{text}\n".encode(errors="backslashreplace"))

    def _put(self, line: bytes | None) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            pass

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                while line:
                    line = line[os.write(_STDOUT, line) :]
            except OSError:
                continue
