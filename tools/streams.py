"""The standard streams, whatever the caller has made of them."""

from __future__ import annotations

import contextlib
import os
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, NoReturn

from tools.failure import Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Opened the wrong way round, so that using a stream that was closed fails as it would have, and stays an error.
_STREAMS: Final = (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_RDWR))


def repair() -> None:
    """Occupy descriptors 0 to 2 that were closed (`>&-`), and print names that are no UTF-8 with escapes.

    Otherwise the next file that is opened, a database's lock for instance, becomes the standard output."""
    for number, (name, mode, flags) in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode, closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def give_up_stdout() -> None:
    """After a write that failed: what is still in the buffer goes nowhere, instead of failing again at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def end_now(exit_code: int) -> NoReturn:
    """End the process with what was written, and without the interpreter's own end.

    For one that was interrupted: gRPC waits when its channels are dropped, too (tools/admin/client.py)."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(exit_code)


_given: ContextVar[Callable[[], bytes] | None] = ContextVar("given_stdin", default=None)


@contextlib.contextmanager
def given_stdin(content: Callable[[], bytes]) -> Iterator[None]:
    """Within the block, a command that reads its standard input gets this instead."""
    token = _given.set(content)
    try:
        yield
    finally:
        _given.reset(token)


def read_stdin() -> bytes:
    """All of it. Raises Failed if it can't be read."""
    content = _given.get()
    if content is not None:
        return content()
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise Failed(f"stdin: can't be read: {error.strerror}") from None
