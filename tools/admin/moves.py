"""Moving a table and waiting until it is there; blocking."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proto.boathouse import moves_pb2 as moves

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.admin.tables import TablesClient

POLL_S: Final = 0.2
"""Between two questions how far it is."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A table is where it was to be."""

    is_new: bool
    """Whether it was not there before."""
    seconds: float


def move_table(
    client: TablesClient, name: str, shard: int, say: Callable[[str], object] = lambda _: None
) -> Moved:
    """Have a table go to this shard, and wait until it is there. say: is told in words how far it is.

    Raises CallFailed; then what was begun may go on."""
    begun_s = time.monotonic()
    answer = client.move(name, shard)
    is_new = answer.phase != moves.MoveProgress.DONE
    while answer.phase != moves.MoveProgress.DONE:
        say(in_words(name, shard, answer))
        time.sleep(POLL_S)
        answer = client.move(name, shard)
    return Moved(is_new, time.monotonic() - begun_s)


def in_words(name: str, shard: int, answer: moves.MoveProgress) -> str:
    """How far it is."""
    if answer.phase == moves.MoveProgress.SWITCHING:
        what = f"table {name} is taken over by shard {shard}"
    else:
        total = max(answer.keys, answer.keys_total)
        what = f"table {name} is copied to shard {shard}: {answer.keys:,} of {total:,} keys"
    return f"{what} ({answer.trouble})" if answer.trouble else what
