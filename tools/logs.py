"""`boathouse logs`."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

import typer

from tools.admin.log_file import LogFile
from tools.failure import Failed
from tools.log_lines import readable
from tools.target import targeted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from config import ClusterConfig

FOLLOW_INTERVAL_S: Final = 0.2


def logs(cluster: ClusterConfig, target: str, lines: int, follow: bool, *, as_json: bool) -> None:
    """Print the last lines of the logs of what a TARGET names; with several, each line says whose it is.

    as_json: as the processes wrote them, else for people. With `follow` it goes on until it is interrupted, which is
    how it ends. Raises Failed if there is no log."""
    names = targeted(cluster, target)
    found = [
        _Log(
            cluster.node_dir(name.node) / "logs" / f"{name.local}.log",
            f"{name}: " if len(names) > 1 else "",
            as_json=as_json,
        )
        for name in names
    ]
    present = [log for log in found if log.path.exists()]
    if not present:
        raise Failed(f"no log yet: {', '.join(str(log.path) for log in found)}")
    try:
        for log in present:
            log.show_last(lines)
        while follow:
            time.sleep(FOLLOW_INTERVAL_S)
            for log in found:  # also those that did not exist at first
                log.show_new()
    except KeyboardInterrupt:
        pass


class _Log:
    """One log, with whose it is before each line."""

    def __init__(self, path: Path, prefix: str, *, as_json: bool) -> None:
        self.path = path
        self._prefix = prefix
        self._as_json = as_json
        self._file = LogFile(path)

    def show_last(self, count: int) -> None:
        """Raises Failed if it can't be read."""
        with self._in_words():
            self._print(self._file.last_lines(count))

    def show_new(self) -> None:
        """Raises Failed if it can't be read."""
        with self._in_words():
            self._print(self._file.new_lines())

    def _print(self, lines: list[bytes]) -> None:
        for line in lines:
            text = line.decode(errors="replace")
            typer.echo(self._prefix + (text if self._as_json else readable(text)))

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.filename is None:
                raise  # of the output
            raise Failed(f"{self.path}: can't be read: {error.strerror}") from None
