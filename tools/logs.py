"""`boathouse logs`."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import typer

from tools.failure import Failed
from tools.target import targeted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from config import ClusterConfig

FOLLOW_INTERVAL_S: Final = 0.2
READ_BYTES_MAX: Final = 1 << 20


def logs(cluster: ClusterConfig, target: str, lines: int, follow: bool) -> None:
    """Print the last lines of the logs of what a TARGET names; with several, each line says whose it is.

    With `follow` it goes on until it is interrupted, which is how it ends. Raises Failed if there is no log."""
    names = targeted(cluster, target)
    found = [
        _Log(
            cluster.node_dir(name.node) / "logs" / f"{name.local}.log", f"{name}: " if len(names) > 1 else ""
        )
        for name in names
    ]
    present = [log for log in found if log.path.exists()]
    if not present:
        raise Failed(f"no log yet: {', '.join(str(log.path) for log in found)}")
    try:
        for log in present:
            _show(log, log.last_lines(lines))
        while follow:
            time.sleep(FOLLOW_INTERVAL_S)
            for log in found:  # also those that did not exist at first
                _show(log, log.new_lines())
    except KeyboardInterrupt:
        pass


def _show(log: _Log, lines: list[bytes]) -> None:
    for line in lines:
        typer.echo(log.prefix + line.decode(errors="replace"))


class _Log:
    """One log file, which its supervisor may truncate and others may remove while it is read."""

    def __init__(self, path: Path, prefix: str) -> None:
        self.path = path
        self.prefix = prefix
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
                while line := file.readline(READ_BYTES_MAX):
                    if not line.endswith(b"\n") and len(line) < READ_BYTES_MAX:
                        return  # its writer is in the middle of it
                    self._position += len(line)
                    yield line.rstrip(b"\n")
        except FileNotFoundError:
            self._position = 0
        except OSError as error:
            raise Failed(f"{self.path}: can't be read: {error.strerror}") from None
