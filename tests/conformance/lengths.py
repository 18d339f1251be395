"""How long the random tests run: briefly and always alike in `make test`, long and freshly in `make soak`."""

from __future__ import annotations

import os
from typing import Final

FRESH: Final = os.environ.get("BOATHOUSE_EXAMPLES") == "fresh"
SEED: Final = int(os.environ.get("BOATHOUSE_SEED", "0"))
FRESH_FACTOR: Final = 10


def scaled(count: int) -> int:
    """So many examples for so many of `make test`."""
    return count * FRESH_FACTOR if FRESH else count


def seeds(count: int) -> range:
    """The seeds of one test, for so many of `make test`."""
    count = scaled(count)
    return range(SEED * count, (SEED + 1) * count)
