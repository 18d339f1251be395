"""A shell that is piped: lines are done in order, and the first that fails ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.failure import Failed
from tools.shell.session import Ended, Session

if TYPE_CHECKING:
    from collections.abc import Iterable


def run_script(session: Session, lines: Iterable[str]) -> None:
    """Raises Failed with the number of the line that failed."""
    script = _Script(lines)
    try:
        for line in script:
            session.run(line, script.ask)
    except Ended:
        pass
    except Failed as failure:
        raise Failed(f"line {script.number}: {failure}") from None


class _Script:
    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.number = 0
        """Of the line that was read last."""

    def __iter__(self) -> _Script:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        return line.rstrip("\n")

    def ask(self, prompt: str) -> str:
        """The next line; without one, what was begun ends as if it were empty."""
        return next(self, "")
