"""Tells whoever waits at a terminal what a command is at, once it takes longer than a second. A pipe hears nothing."""

from __future__ import annotations

import contextlib
import sys
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S: Final = 1.0
"""What is done by then needs no words."""
_is_shown: ContextVar[bool] = ContextVar("is_shown", default=False)


@contextlib.contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Within the block, a line at the bottom of the terminal says what goes on; call what you get to say something
    else. It is on stderr, and gone in the end. A block within another has nothing to add."""
    if not sys.stderr.isatty() or _is_shown.get():
        yield lambda text: None
        return
    display = _Display(what)
    token = _is_shown.set(True)
    try:
        yield display.say
    finally:
        _is_shown.reset(token)
        display.close()


class _Display:
    def __init__(self, text: str) -> None:
        self._text = text
        self._lock = threading.Lock()
        self._status: _Spinning | None = None
        self._timer = threading.Timer(PATIENCE_S, self._show)
        self._timer.daemon = True
        self._timer.start()

    def say(self, text: str) -> None:
        with self._lock:
            self._text = text
            if self._status is not None:
                self._status.say(text)

    def close(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._text = ""
            if self._status is not None:
                self._status.close()

    def _show(self) -> None:
        with self._lock:
            if self._text:
                self._status = _Spinning(self._text)


class _Spinning:
    """The line. Lines that the command prints meanwhile go above it, if they go to the terminal too."""

    def __init__(self, text: str) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        self._spinner = Spinner("dots", text)
        self._live = Live(
            self._spinner,
            console=Console(stderr=True),
            refresh_per_second=8,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._live.start()

    def say(self, text: str) -> None:
        self._spinner.update(text=text)

    def close(self) -> None:
        self._live.stop()
