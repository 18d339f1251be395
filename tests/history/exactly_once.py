"""Was every acknowledged write applied once, and no write twice?

The clients write unique tokens: each attempt appends its own to a list, or puts it under its own key.
Afterwards the tokens that the cluster holds are compared with what the clients were told.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.history.operations import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class Miscount:
    """A token that is there the wrong number of times; outcome None is one that no client ever wrote."""

    token: bytes
    outcome: Outcome | None
    applied: int

    def __str__(self) -> str:
        told = self.outcome.value if self.outcome else "never written"
        return f"{self.token!r}: its client was told {told!r}, and it was applied {self.applied} times"


def check(attempts: Mapping[bytes, Outcome], applied: Iterable[bytes]) -> list[Miscount]:
    """Every token that breaks the rule: acknowledged once, unknown at most once, refused or strange never.

    `attempts` is what the client of each token was told last; `applied` holds a token as often as it took
    effect."""
    counts = Counter(applied)
    allowed = {Outcome.OK: (1,), Outcome.UNKNOWN: (0, 1), Outcome.REFUSED: (0,)}
    wrong = [
        Miscount(token, outcome, counts[token])
        for token, outcome in sorted(attempts.items())
        if counts[token] not in allowed[outcome]
    ]
    strangers = sorted(counts.keys() - attempts.keys())
    return wrong + [Miscount(token, None, counts[token]) for token in strangers]
