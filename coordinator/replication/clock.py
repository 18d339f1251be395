"""Time, where replication passes it, and work beside: on the event loop in a process, virtual in the simulator."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator, Iterable

AT_ONCE_MAX: Final = 64
"""So many pieces of work run together."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Clock(Protocol):
    """Time as it passes where this runs."""

    def time(self) -> float:
        """In seconds, from any beginning."""

    async def sleep(self, seconds: float) -> None:
        """Return after so long."""


class Started(Protocol[T_co]):
    """What was started, to be awaited once."""

    def __await__(self) -> Generator[Any, Any, T_co]:
        """Its outcome."""

    def cancel(self) -> object:
        """It ends, if it has not; its outcome is of no interest."""


class Starter(Protocol):
    """Runs work beside who starts it."""

    def start(self, work: Coroutine[Any, Any, T]) -> Started[T]:
        """Begin at once."""


class Loop(Clock, Starter, Protocol):
    """Both."""


class _RunningLoop:
    """The running event loop."""

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        task.add_done_callback(_retrieve)
        return task


def _retrieve(task: asyncio.Task[T]) -> None:
    """Whoever was to await it may have given up; the error is then nobody's."""
    if not task.cancelled():
        task.exception()


LOOP_CLOCK: Final[Loop] = _RunningLoop()


async def together(starter: Starter, work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The outcomes of all of it, in order. Raises what any of it does, and has then given up the rest."""
    outcomes: list[T] = []
    pieces = iter(work)
    while some := list(islice(pieces, AT_ONCE_MAX)):
        started = [starter.start(piece) for piece in some]
        try:
            outcomes += [await piece for piece in started]
        finally:
            for piece in started:
                piece.cancel()
    return outcomes
