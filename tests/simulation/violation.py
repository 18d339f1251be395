"""What every checker of the simulation raises."""

from __future__ import annotations


class Violation(Exception):
    """A promise was broken. `checker` names the promise: mutants are expected to be caught by a certain one."""

    def __init__(self, checker: str, what: str) -> None:
        super().__init__(f"{checker}: {what}")
        self.checker = checker
        self.what = what
