"""Runs a handler at once, within the turn of the loop in which its request came.

asyncio.Task (of Python 3.11) puts off each first step to the next turn, and tells that it is done in the one after: two
callbacks a call, for calls that mostly wait just once. This one starts by itself and tells at once. asyncio knows
it as the current task, as its documentation of third-party tasks asks, so whatever a handler awaits (timeouts, groups,
gather) works as in any task.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_enter: Final = asyncio.tasks._enter_task
_leave: Final = asyncio.tasks._leave_task


class HandlerTask:
    """A coroutine under way. Everything but run() is what asyncio asks of a task."""

    __slots__ = ("__weakref__", "_cancel_requests", "_cancelled", "_coro", "_done", "_loop", "_waits_for")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, bytes | None],
        done: Callable[[bytes | None, BaseException | None], None],
    ) -> None:
        """done gets the result or the exception, once; a cancelled handler's exception is CancelledError."""
        self._loop = loop
        self._coro = coro
        self._done = done
        self._waits_for: asyncio.Future[Any] | None = None
        self._cancelled = False
        self._cancel_requests = 0

    def run(self, _ended: asyncio.Future[Any] | None = None) -> None:
        """Go on until the handler waits or ends."""
        self._waits_for = None
        cancelled, self._cancelled = self._cancelled, False
        task = cast("asyncio.Task[Any]", self)
        _enter(self._loop, task)
        try:
            if cancelled:
                waits_for = self._coro.throw(asyncio.CancelledError())
            else:
                waits_for = self._coro.send(None)
        except StopIteration as end:
            _leave(self._loop, task)
            self._done(end.value, None)
            return
        except (KeyboardInterrupt, SystemExit):
            _leave(self._loop, task)
            raise
        except BaseException as error:
            _leave(self._loop, task)
            self._done(None, error)
            return
        _leave(self._loop, task)
        if waits_for is None:  # sleep(0): a turn for the others
            self._loop.call_soon(self.run)
            return
        waits_for._asyncio_future_blocking = False
        waits_for.add_done_callback(self.run)
        self._waits_for = waits_for
        if self._cancelled and waits_for.cancel():
            self._cancelled = False

    def cancel(self, msg: object = None) -> bool:
        """End the handler with CancelledError where it waits, now or at the next time."""
        self._cancel_requests += 1
        # What it waits for is cancelled, which wakes it up with the same exception.
        if self._waits_for is None or not self._waits_for.cancel():
            self._cancelled = True
        return True

    def cancelling(self) -> int:
        return self._cancel_requests

    def uncancel(self) -> int:
        if self._cancel_requests > 0:
            self._cancel_requests -= 1
        return self._cancel_requests

    def done(self) -> bool:
        return False  # as the current task, which is the only one that anybody sees

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def get_coro(self) -> Coroutine[Any, Any, bytes | None]:
        return self._coro

    def get_name(self) -> str:
        return f"handler of {self._coro!r}"
