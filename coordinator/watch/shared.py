"""One question for all who want to know the same thing in the same turn of the loop.

Whoever asks wants an answer that is no older than his asking, so a question may be shared only until it is put. It is
put in the next turn of the loop: under load many share it, and alone nobody waits for others. One that is under way
holds up nobody: the next one does not wait for its answer, which may take seconds while nobody leads.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Answer = TypeVar("Answer")


class SharedQuestion(Generic[Answer]):
    """A question that is put again and again."""

    def __init__(self, put: Callable[[], Coroutine[None, None, Answer]]) -> None:
        self._put = put
        self._unput: asyncio.Task[Answer] | None = None
        """What still can be shared."""
        self._tasks: set[asyncio.Task[Answer]] = set()

    async def answer(self) -> Answer:
        """Of a question that is put after this call began, whatever becomes of the others who share it. Raises what
        that ends with."""
        if self._unput is None:
            self._unput = asyncio.create_task(self._ask())
            self._tasks.add(self._unput)
            self._unput.add_done_callback(self._handle_end)
        return await asyncio.shield(self._unput)

    async def _ask(self) -> Answer:
        self._unput = None
        return await self._put()

    def _handle_end(self, task: asyncio.Task[Answer]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # or it is logged as one that nobody has looked at, where all who asked have given up

    def close(self) -> None:
        """Nobody waits for an answer any more."""
        for task in self._tasks:
            task.cancel()
