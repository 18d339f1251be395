"""Coroutines of production in virtual time: what they wait for is an event of the world, and nothing else runs them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tests.simulation.world import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from tests.simulation.world import World

T = TypeVar("T")


class Promise(Generic[T]):
    """What a coroutine waits for; it is kept once."""

    def __init__(self) -> None:
        self.is_kept = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._wake: Callable[[], None] | None = None

    def keep(self, value: T) -> None:
        """This is what there was to wait for."""
        self._end(value, None)

    def fail(self, error: BaseException) -> None:
        """It ends with this error."""
        self._end(None, error)

    def _end(self, value: T | None, error: BaseException | None) -> None:
        if self.is_kept:
            return
        self.is_kept, self._value, self._error = True, value, error
        if self._wake is not None:
            self._wake()

    def wake(self, wake: Callable[[], None]) -> None:
        """Who is told."""
        self._wake = wake

    def __await__(self) -> Generator[Promise[T], None, T]:
        if not self.is_kept:
            yield self
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


class Task:
    """A coroutine that runs from promise to promise."""

    def __init__(self, world: World, coroutine: Coroutine[Any, Any, None]) -> None:
        self._world = world
        self._coroutine = coroutine
        self._waits_for: Promise[Any] | None = None
        self.is_done = False
        self._step()

    def cancel(self) -> None:
        """It hears of it where it waits, and has to end without waiting further."""
        if self.is_done:
            return
        self._waits_for = None
        try:
            self._coroutine.throw(asyncio.CancelledError())
        except (StopIteration, asyncio.CancelledError):
            self.is_done = True
            return
        raise AssertionError("a task that was cancelled waits on")

    def _step(self) -> None:
        try:
            promise = self._coroutine.send(None)
        except StopIteration:
            self.is_done = True
        except BaseException:
            self.is_done = True
            raise
        else:
            self._waits_for = promise
            promise.wake(lambda: self._world.after(0, lambda: self._woken(promise)))

    def _woken(self, promise: Promise[Any]) -> None:
        if self._waits_for is promise:
            self._waits_for = None
            self._step()


class Background(Generic[T]):
    """A coroutine that runs beside who started it, and whose outcome is awaited once."""

    def __init__(self, world: World, coroutine: Coroutine[Any, Any, T]) -> None:
        self._promise = Promise[T]()
        self._task = Task(world, self._run(coroutine))

    async def _run(self, coroutine: Coroutine[Any, Any, T]) -> None:
        try:
            self._promise.keep(await coroutine)
        except Exception as error:
            self._promise.fail(error)

    def cancel(self) -> None:
        self._task.cancel()

    def __await__(self) -> Generator[Promise[T], None, T]:
        return self._promise.__await__()


class WorldClock:
    """coordinator.replication.clock.Loop in virtual time."""

    def __init__(self, world: World) -> None:
        self._world = world

    def time(self) -> float:
        return self._world.now_us / SECOND

    async def sleep(self, seconds: float) -> None:
        promise = Promise[None]()
        self._world.after(int(seconds * SECOND), lambda: promise.keep(None))
        await promise

    def start(self, work: Coroutine[Any, Any, T]) -> Background[T]:
        return Background(self._world, work)
