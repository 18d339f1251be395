"""Calls that are made inside this process: by the JSON gateway for a client, and by one service of another.

They take the way that every call takes, through a Route's handler, so whatever a method checks it checks here too.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from coordinator.api.call import ANYBODY, StreamEnded
from coordinator.api.meter import NO_TABLE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from coordinator.api.call import Identity, Metadata, Route

ANSWERS_QUEUED_MAX: Final = 1
"""Of a stream, before its handler waits. An answer may have megabytes, and hundreds of streams may wait."""


class Expired(Exception):
    """The call's client waits no longer."""


class LocalCall:
    """A Call whose messages are known from the start, and whose answers are read with answers()."""

    def __init__(
        self,
        requests: Sequence[bytes],
        *,
        metadata: Metadata,
        deadline: float,
        peer: str,
        identity: Identity = ANYBODY,
        expires: bool = False,
    ) -> None:
        """identity: of the client in whose name it is made; a gateway's client has none. expires: whether its deadline
        is its client's own, who then hears of nothing else: it ends with Expired."""
        self._requests = requests
        self._answers: asyncio.Queue[bytes | None] = asyncio.Queue(ANSWERS_QUEUED_MAX)
        self._ended = False
        self.body = requests[0] if requests else b""
        self.metadata = metadata
        self.deadline = deadline
        self.peer = peer
        self.identity = identity
        self.table = NO_TABLE
        self.expires = expires

    async def messages(self) -> AsyncIterator[bytes]:
        """All requests, and then the end of what the client has to say."""
        while batch := await self.take_messages(1):
            yield batch[0]

    async def take_messages(self, count_max: int) -> Sequence[bytes]:
        """The next of all requests, without waiting."""
        taken, self._requests = self._requests[:count_max], self._requests[count_max:]
        return taken

    def add_header(self, name: str, value: str) -> None:
        """Nobody here reads metadata of answers."""

    def add_trailer(self, name: str, value: str) -> None:
        """As of add_header()."""

    async def send(self, message: bytes) -> None:
        """Raises StreamEnded once nobody reads the answers."""
        if self._ended:
            raise StreamEnded
        await self._answers.put(message)

    async def send_all(self, messages: Sequence[bytes]) -> None:
        """As of send()."""
        for message in messages:
            await self.send(message)

    def send_now(self, messages: Sequence[bytes]) -> bool:
        """Never: who reads the answers takes one at a time."""
        return False

    async def answer(self, route: Route) -> bytes:
        """What a unary method answers. Raises what its handler raises."""
        answer = await self._run(route)
        assert isinstance(answer, bytes), f"{route.path} is not unary"
        return answer

    async def answers(self, route: Route) -> AsyncGenerator[bytes]:
        """What a streaming method answers, as it comes. Raises what its handler raises.

        A generator that is closed before its end cancels the handler."""
        handler = asyncio.ensure_future(self._run(route))
        handler.add_done_callback(lambda _: self._wake())
        try:
            while not (handler.done() and self._answers.empty()):
                answer = await self._answers.get()
                if answer is not None:
                    yield answer
            await handler
        finally:
            self._ended = True
            handler.cancel()
            await asyncio.wait((handler,))
            if not handler.cancelled():
                handler.exception()  # whoever closes this does not want to know

    def _wake(self) -> None:
        """Let answers() look again. A full queue has something for it to look at anyway."""
        with contextlib.suppress(asyncio.QueueFull):
            self._answers.put_nowait(None)

    async def _run(self, route: Route) -> bytes | None:
        try:
            async with asyncio.timeout_at(self.deadline if self.expires else None) as limit:
                return await route.handler(self)
        except TimeoutError:
            if limit.expired():
                raise Expired from None
            raise
