"""What a child process does to talk with its supervisor. The other end is coordinator/supervisor/life.py.

The child's stdin carries one line of JSON, its ProcessSpec, and then stays open: its end means that the supervisor
is gone. The child's stdout carries its events (config/process/events.py); its stderr is its log.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO, cast

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from config.process.events import EXIT_FAILED, EXIT_RESTART
from config.process.spec import ProcessSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

_REPORT_FD: Final = 1


def read_spec(kind: str) -> ProcessSpec:
    """The spec on stdin. Reads just the first line, unbuffered. Exits with a sentence if this is not a child."""
    line = _first_line(sys.stdin.fileno())
    if not line:
        fail(f"{kind} is started by `boathouse up`, which writes its settings to standard input")
    spec = ProcessSpec.model_validate_json(line)
    _about_us.update({"node": spec.node} | ({"shard": spec.shard} if spec.shard is not None else {}))
    return spec


def _first_line(fd: int) -> bytes:
    """Up to the first newline, and not a byte more: what follows is for whoever watches the descriptor."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            break
        line += byte
    return line


def emit(event: str, details: Mapping[str, object] | None = None) -> None:
    """Tell the supervisor something. Never waits and never fails.

    A supervisor that has gone is not an error here: the loop notices on stdin. One that reads nothing for an hour, in a
    debugger for instance, fills the pipe with beats; what no longer fits is lost, and the work goes on."""
    line = json.dumps({"event": event, **(details or {})}).encode() + b"\n"
    with contextlib.suppress(OSError):
        os.set_blocking(_REPORT_FD, False)
        while line:
            line = line[os.write(_REPORT_FD, line) :]


def fail(reason: str) -> NoReturn:
    """Report that this process cannot run, and end it."""
    _end("failed", reason, EXIT_FAILED)


def ask_restart(reason: str) -> NoReturn:
    """End this process, to be started again at once. Not a failure, and never counted as one."""
    _end("restart", reason, EXIT_RESTART)


def _end(event: str, reason: str, code: int) -> NoReturn:
    emit(event, {"reason": reason})
    print(reason, file=sys.stderr, flush=True)  # noqa: T201 - the log's last line is what an operator reads
    raise SystemExit(code)


def refuse_optimized() -> None:
    """Assertions state invariants that data depends on: without them this program does not run."""
    if not __debug__:
        fail("boathouse does not run under python -O, which removes the checks that protect data")


_about_us: dict[str, object] = {}
"""What every line of the log says of the process that writes it, once it is known."""
_changing: dict[str, Callable[[], object]] = {}
"""The same, asked for with each line."""


def tell_in_log(name: str, value: Callable[[], object]) -> None:
    """Have each line of the log say this too, as it is when the line is written."""
    _changing[name] = value


def _say_who(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.update(_about_us)
    for name, value in _changing.items():
        event.setdefault(name, value())
    return event


class _Lossy:
    """A log that may be lost: a full disk, where logs usually lie too, is no reason for a process to die."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def set_up_logging() -> None:
    """One JSON object a line on stderr, which says whose it is; quiet below info."""
    structlog.configure(
        processors=[
            _say_who,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Without the variables of each frame: they hold what clients store.
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Lossy(sys.stderr))),
        cache_logger_on_first_use=True,
    )
