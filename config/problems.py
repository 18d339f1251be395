"""What can be wrong with a cluster file, said so that the reader can mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""Where a value stands in the file: ("nodes", "n2", "client_port")."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to change. `path` names the key, `message` says what is wrong and what to do."""

    path: KeyPath
    message: str
    line: int = 0
    """Line in the file, from 1; 0 = not known (no file, or the whole of it)."""

    def describe(self, source: str) -> str:
        """One line, as compilers write it: `cluster.yaml:12: nodes.n2.client_port: what to do`."""
        place = f"{source}:{self.line}" if self.line else source
        key = ".".join(str(part) for part in self.path)
        return f"{place}: {key}: {self.message}" if key else f"{place}: {self.message}"


class ConfigError(Exception):
    """The cluster file can't be used. Its text is one line per problem, in the file's order."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        assert problems
        self.source = source
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(problem.describe(source) for problem in self.problems))


class Inconsistent(ValueError):
    """Each value is fine by itself, together they are not. Raised inside a model, unpacked by the loader."""

    def __init__(self, problems: list[Problem]) -> None:
        assert problems
        self.problems = problems
        super().__init__("; ".join(problem.describe("cluster") for problem in problems))
