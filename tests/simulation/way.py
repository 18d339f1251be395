"""What two simulated clusters reach each other by: calls that take their time, and break off when the way is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.api import outcomes
from coordinator.api.call import ANYBODY
from coordinator.replication.leader import LeaderFailed
from proto import errors
from tests.simulation.tasks import Promise, Task, WorldClock
from tests.simulation.world import MS, SECOND, World

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from random import Random

    from coordinator.api.call import Handler, Identity


class Way:
    """What the clusters reach each other by."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = WorldClock(world)
        self._rng = world.stream("way")
        self.is_open = True
        self.delay_us_max = 5 * MS
        self.exchanges: list[Exchange] = []

    async def pass_on(self) -> None:
        """As long as a message takes."""
        await self.clock.sleep(self._rng.randrange(200, self.delay_us_max) / SECOND)

    def cut(self) -> None:
        """Everything that is under way ends."""
        self.is_open = False
        for exchange in list(self.exchanges):
            exchange.break_off()


class Exchange:
    """A call from one cluster to the other, at both its ends: here an api.call.Call, there its answers."""

    metadata: Final[Mapping[str, str]] = {}
    deadline: Final = float("inf")
    peer: Final = "follower"
    identity: Final[Identity] = ANYBODY

    def __init__(self, way: Way, handler: Handler, body: bytes) -> None:
        self.body = body
        self._way = way
        self._answers: list[bytes] = []
        self._is_over = False
        self._failure: LeaderFailed | None = None
        self._awaited: Promise[None] | None = None
        way.exchanges.append(self)
        self._task = Task(way.world, self._serve(handler))

    async def _serve(self, handler: Handler) -> None:
        await self._way.pass_on()
        try:
            answer = await handler(self)  # type: ignore[arg-type]  # what it lacks of a Call, no handler here asks for
            if answer is not None:
                await self.send(answer)
        except errors.BoathouseError as error:
            code, text = outcomes.to_status(outcomes.REGATTA, error)
            self._end(LeaderFailed(code.name, text))
        else:
            self._end(None)

    async def send(self, message: bytes) -> None:
        await self._way.pass_on()
        self._answers.append(message)
        self._wake()

    async def send_all(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            await self.send(message)

    def _end(self, failure: LeaderFailed | None) -> None:
        if not self._is_over:
            self._is_over, self._failure = True, failure
            self._way.exchanges.remove(self)
            self._wake()

    def _wake(self) -> None:
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            awaited.keep(None)

    def break_off(self) -> None:
        """One end is gone, or can't be reached."""
        self._task.cancel()
        self._end(LeaderFailed("UNAVAILABLE", "the way is cut"))

    async def answers(self) -> AsyncGenerator[bytes]:
        """As they arrive. Raises LeaderFailed."""
        try:
            while True:
                while self._answers:
                    yield self._answers.pop(0)
                if self._is_over:
                    if self._failure is not None:
                        raise self._failure
                    return
                self._awaited = Promise()
                await self._awaited
        finally:
            self.break_off()


class WayCalls:
    """leader.Calls over the way, to any coordinator of the leader cluster."""

    def __init__(self, way: Way, services: list[dict[str, Handler]], rng: Random) -> None:
        self._way = way
        self._services = services
        self._rng = rng

    async def unary(self, path: str, request: bytes, timeout_s: float) -> bytes:
        answer = b""
        async for message in self.stream(path, request, timeout_s):
            answer = message
        return answer

    async def stream(
        self, path: str, request: bytes, timeout_s: float | None, silence_s: float | None = None
    ) -> AsyncGenerator[bytes]:
        del timeout_s, silence_s  # the leader cluster's own limits are shorter
        handler = self._rng.choice(self._services)[path]
        if not self._way.is_open:
            await self._way.clock.sleep(0.1)
            raise LeaderFailed("UNAVAILABLE", "there is no way")
        exchange = Exchange(self._way, handler, request)
        try:
            async for message in exchange.answers():
                yield message
        finally:
            exchange.break_off()
