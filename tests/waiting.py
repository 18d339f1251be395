"""Waiting for what another process or thread will do, and ports for it to listen on.

The only place in tests/ that may sleep: everything else names a condition and a deadline. A wait that times
out fails the test and says what was last seen, because "timed out" alone explains nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_BLOCK_ATTEMPTS_MAX = 200
_PORTS = range(10_000, 32_768)
_PARTS = 4
_draw = random.Random()  # not seeded: runs side by side draw different ones
_given: set[int] = set()
"""Ports handed out by this process: whoever was given one may not listen on it yet."""


def wait_until(
    condition: Callable[[], T | None],
    *,
    timeout_s: float,
    what: str,
    interval_s: float = 0.02,
    not_yet: tuple[type[Exception], ...] = (),
) -> T:
    """The first true value of condition(), asked every interval_s and at least once more at the deadline.

    Raises AssertionError after timeout_s, with what was waited for and what was last seen. An exception ends
    the wait, unless it is of a class in not_yet (say ConnectionRefusedError): then it counts as false."""
    deadline = time.monotonic() + timeout_s
    while True:
        last_chance = time.monotonic() >= deadline
        seen: T | Exception | None
        try:
            seen = condition()
            if seen:
                return seen
        except not_yet as error:
            seen = error
        if last_chance:
            raise AssertionError(_timed_out(what, timeout_s, seen))
        time.sleep(max(0.0, min(interval_s, deadline - time.monotonic())))


@overload
async def wait_until_async(
    condition: Callable[[], Awaitable[T]],
    *,
    timeout_s: float,
    what: str,
    interval_s: float = ...,
    not_yet: tuple[type[Exception], ...] = ...,
) -> T: ...
@overload
async def wait_until_async(
    condition: Callable[[], T],
    *,
    timeout_s: float,
    what: str,
    interval_s: float = ...,
    not_yet: tuple[type[Exception], ...] = ...,
) -> T: ...
async def wait_until_async(
    condition: Callable[[], object],
    *,
    timeout_s: float,
    what: str,
    interval_s: float = 0.02,
    not_yet: tuple[type[Exception], ...] = (),
) -> object:
    """wait_until for asyncio; condition may be a plain or an async function.

    An async condition still pending at the deadline is cancelled and counts as false."""
    deadline = time.monotonic() + timeout_s
    seen: object = "nothing: the condition never returned"
    while True:
        last_chance = time.monotonic() >= deadline
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), interval_s)) as limit:
                answer = condition()
                value: object = await answer if inspect.isawaitable(answer) else answer
            if value:
                return value
            seen = value
        except not_yet as error:
            seen = error
        except TimeoutError:
            if not limit.expired():
                raise
            last_chance = True
        if last_chance:
            raise AssertionError(_timed_out(what, timeout_s, seen))
        await asyncio.sleep(max(0.0, min(interval_s, deadline - time.monotonic())))


def free_ports(count: int, *, contiguous: bool = False) -> list[int]:
    """Loopback TCP ports that nothing listened on a moment ago; never the same one twice.

    contiguous: an ascending block without gaps, as a node's peer_port .. peer_port + shards - 1 needs. They lie below
    those that outgoing connections take, and each process of one run draws from a part of its own."""
    for _ in range(_BLOCK_ATTEMPTS_MAX):
        # All are held until the last is found, since a port that was drawn may be drawn again.
        with ExitStack() as held:
            ports: list[int] = []
            while len(ports) < count:
                follows = contiguous and bool(ports)
                port = ports[-1] + 1 if follows else _draw.choice(_part_of_this_process())
                if port not in _given and _hold_port(held, port):
                    ports.append(port)
                elif follows:
                    break
            else:
                _given.update(ports)
                return ports
    raise AssertionError(f"no block of {count} free ports found in {_BLOCK_ATTEMPTS_MAX} attempts")


def _part_of_this_process() -> range:
    """pytest-xdist numbers its processes: gw0, gw1 and so on."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = len(_PORTS) // _PARTS
    first = number % _PARTS * size
    return _PORTS[first : first + size]


def _hold_port(held: ExitStack, port: int) -> bool:
    """Bind a loopback port until held closes. False if it is taken."""
    holder = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    try:
        holder.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _timed_out(what: str, timeout_s: float, seen: object) -> str:
    return f"waited {timeout_s:g} s in vain for {what}; last seen: {seen!r}"
