"""A TCP proxy that misbehaves on request: stands between two nodes and cuts, delays or resets what they say.

A cut holds bytes back, the end of a connection included, and heals by delivering them in order, as TCP does across a
real partition: nothing is lost in the middle of a stream. A cut may be one-way. What a broken cable does not do,
ending connections, is `reset`. Delays are drawn from a seed, so a failing run can be repeated with the same ones.

The proxy runs on an event loop in a thread of its own; the test calls it from its thread.
"""

from __future__ import annotations

import asyncio
import enum
import random
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")

HELD_BYTES_MAX = 4 << 20
"""Held back in one direction of one connection before the sender is no longer read."""

CALL_TIMEOUT_S = 10.0


class Way(enum.Flag):
    """A direction of a link; TO_TARGET is what the connecting side says."""

    TO_TARGET = enum.auto()
    FROM_TARGET = enum.auto()
    BOTH = TO_TARGET | FROM_TARGET


NEITHER = Way(0)


@dataclass
class _Pipe:
    """One direction of one connection: what was read and may not be written yet."""

    link: Link
    way: Way
    source: asyncio.Transport
    sink: asyncio.Transport
    waiting: deque[tuple[float, bytes | None]] = field(default_factory=deque)
    """(due, bytes), in the order of arrival; None is the end of the stream."""
    held_bytes: int = 0
    due: float = 0.0
    timer: asyncio.TimerHandle | None = None

    def take(self, data: bytes | None) -> None:
        """Bytes came in, or the end did."""
        now = self.link.loop.time()
        # Never before what came earlier: a stream keeps its order whatever the delays.
        self.due = max(self.due, now + self.link.draw_delay_s())
        self.waiting.append((self.due, data))
        self.held_bytes += len(data or b"")
        if self.held_bytes > HELD_BYTES_MAX and not self.source.is_closing():
            self.source.pause_reading()
        self.flush()

    def flush(self) -> None:
        """Pass on what is due, unless this way is cut."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        while self.waiting and not self.link.cut_ways & self.way:
            due, data = self.waiting[0]
            if due > self.link.loop.time():
                self.timer = self.link.loop.call_at(due, self.flush)
                return
            self.waiting.popleft()
            if data is None:
                self.sink.close()
                return
            self.held_bytes -= len(data)
            if not self.sink.is_closing():
                self.sink.write(data)
        if self.held_bytes <= HELD_BYTES_MAX and not self.source.is_closing():
            self.source.resume_reading()


class _End(asyncio.Protocol):
    """One end of a proxied connection. Its pipe is there once the other end is connected."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.pipe: _Pipe | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.pipe is not None, "an end is read before its pipe is there"
        self.pipe.take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.pipe is not None:
            self.pipe.take(None)


class _Front(_End):
    """The end of the side that connected."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.pause_reading()
        self.opening = self.link.loop.create_task(self.link.open_back(self))


@dataclass
class Link:
    """One way between two nodes: connections to `port` go on to the target."""

    loop: asyncio.AbstractEventLoop
    host: str
    target_port: int
    rng: random.Random
    port: int = 0
    cut_ways: Way = NEITHER
    delay_s: tuple[float, float] = (0.0, 0.0)
    pipes: list[_Pipe] = field(default_factory=list)
    server: asyncio.Server | None = None

    def cut(self, way: Way = Way.BOTH) -> None:
        """Nothing passes this way any more, on connections that are there and on new ones."""
        self._on_loop(lambda: self._set_cut(self.cut_ways | way))

    def heal(self) -> None:
        """Everything passes again, without delay from now on; what was held back is delivered first."""
        self._on_loop(lambda: self._set_delay(0.0, 0.0))
        self._on_loop(lambda: self._set_cut(NEITHER))

    def delay(self, least_s: float, most_s: float) -> None:
        """Whatever comes in from now on waits for a time between these."""
        self._on_loop(lambda: self._set_delay(least_s, most_s))

    def reset(self) -> None:
        """End all connections, at both ends and at once."""

        def end_all() -> None:
            for pipe in self.pipes:
                pipe.waiting.clear()
                pipe.sink.abort()

        self._on_loop(end_all)

    def connections(self) -> int:
        """How many connections are open."""
        return self._on_loop(lambda: sum(not pipe.sink.is_closing() for pipe in self.pipes) // 2)

    def draw_delay_s(self) -> float:
        """The next delay; on the loop."""
        least, most = self.delay_s
        return self.rng.uniform(least, most) if most else 0.0

    async def open_back(self, front: _Front) -> None:
        """Connect to the target for a connection that came in; refuse it if the target does."""
        assert front.transport is not None
        back = _End(self)
        try:
            await self.loop.create_connection(lambda: back, self.host, self.target_port)
        except OSError:
            front.transport.abort()
            return
        assert back.transport is not None
        front.pipe = _Pipe(self, Way.TO_TARGET, front.transport, back.transport)
        back.pipe = _Pipe(self, Way.FROM_TARGET, back.transport, front.transport)
        self.pipes = [pipe for pipe in self.pipes if not pipe.sink.is_closing()]
        self.pipes += [front.pipe, back.pipe]
        front.transport.resume_reading()
        if front.transport.is_closing():
            back.transport.abort()

    def _set_cut(self, ways: Way) -> None:
        self.cut_ways = ways
        for pipe in list(self.pipes):
            pipe.flush()

    def _set_delay(self, least_s: float, most_s: float) -> None:
        self.delay_s = (least_s, most_s)

    def _on_loop(self, call: Callable[[], T]) -> T:
        async def run() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(CALL_TIMEOUT_S)


class FaultProxy:
    """Any number of links, on one loop in one thread."""

    def __init__(self, seed: int, host: str = "127.0.0.1") -> None:
        self.rng = random.Random(seed)
        self.host = host
        self.loop = asyncio.new_event_loop()
        self.links: list[Link] = []
        self._thread = threading.Thread(target=self.loop.run_forever, name="fault proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self.loop.close()

    def link(self, target_port: int, *, port: int = 0) -> Link:
        """A new link to a port; it listens on `port`, or on one that the OS chooses."""
        link = Link(self.loop, self.host, target_port, random.Random(self.rng.random()), port)
        self._run(self._listen(link))
        self.links.append(link)
        return link

    async def _listen(self, link: Link) -> None:
        link.server = await self.loop.create_server(lambda: _Front(link), self.host, link.port)
        link.port = link.server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        for link in self.links:
            assert link.server is not None
            link.server.close()
            for pipe in link.pipes:
                pipe.waiting.clear()
                pipe.sink.abort()
        # Let the transports tell their protocols before the loop stops.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(CALL_TIMEOUT_S)
