"""What all connections of a process share: what is served, and what there is left of each bound."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from coordinator.front.answers import AnswerRoom
from coordinator.front.deadlines import Deadlines

if TYPE_CHECKING:
    from coordinator.front.limits import Limits
    from coordinator.front.routes import Routes
    from coordinator.front.session import Session
    from proto import errors

log = structlog.get_logger()


class Front:
    """The gRPC server, apart from its sockets."""

    def __init__(self, loop: asyncio.AbstractEventLoop, routes: Routes, limits: Limits) -> None:
        self.loop = loop
        self.routes = routes
        self.limits = limits
        self.deadlines = Deadlines(loop)
        self.room = AnswerRoom(limits, loop.call_soon)
        self.request_bytes = 0
        """Of all requests that no handler has taken."""
        self._received_bytes = self._sent_bytes = 0  # on connections that are closed
        self.sessions: set[Session] = set()
        self._is_full_told = False
        self.greeting = 0
        """Connections of which it is not known yet what they speak."""
        self._is_draining = False
        self._is_refusing = False
        self._idle: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._late: set[Session] = set()
        self._late_timer: asyncio.TimerHandle | None = None

    @property
    def is_full(self) -> bool:
        """Whether there are as many connections as may be."""
        return len(self.sessions) + self.greeting >= self.limits.connections_max

    def tell_full(self) -> None:
        """A connection was turned away. Said once until there is room again."""
        if not self._is_full_told:
            self._is_full_told = True
            log.warning(
                "connections are turned away: there are too many", connections=self.limits.connections_max
            )

    def join(self, session: Session) -> None:
        """A connection has begun."""
        self.sessions.add(session)
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.check_interval_s, self._check)
        if self._is_draining:
            session.announce_end()
        if self._is_refusing:
            session.refuse_calls()

    def leave(self, session: Session) -> None:
        """A connection is lost."""
        self.sessions.discard(session)
        self._late.discard(session)
        self._received_bytes += session.received_bytes
        self._sent_bytes += session.sent_bytes
        self._is_full_told = False
        self.room.release_soon()
        self.maybe_idle()

    def _check(self) -> None:
        now = self.loop.time()
        for session in list(self.sessions):
            session.check(now)
        self.room.release_soon()
        self._timer = (
            self.loop.call_later(self.limits.check_interval_s, self._check) if self.sessions else None
        )

    def flush_later(self, session: Session) -> None:
        """Have a connection write what it owes, unless it does so before, within limits.pong_delay_s."""
        self._late.add(session)
        if self._late_timer is None:
            self._late_timer = self.loop.call_later(self.limits.pong_delay_s, self._flush_late)

    def _flush_late(self) -> None:
        self._late_timer = None
        late, self._late = self._late, set()
        for session in late:
            if session.connection.owes_pong:
                session.touch()

    def announce_end(self) -> None:
        """Ask all clients, and those yet to come, to call elsewhere from now on."""
        self._is_draining = True
        for session in list(self.sessions):
            session.announce_end()

    def refuse_calls(self) -> None:
        """Take no more calls; a connection is closed when its last call has ended."""
        self._is_refusing = True
        for session in list(self.sessions):
            session.refuse_calls()

    def end_calls(self, error: errors.BoathouseError, *, only_lasting: bool = False) -> None:
        """End all calls, or those of methods that last, with their API's status for an error."""
        for session in list(self.sessions):
            session.end_calls(error, only_lasting=only_lasting)

    async def wait_until_idle(self, timeout_s: float) -> None:
        """Wait for the last call to end, its answer written. For so long at most."""
        self._idle = self.loop.create_future()
        self.maybe_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle
        self._idle = None

    def maybe_idle(self) -> None:
        """A connection may have lost its last call: tell whoever waits until all have."""
        if self._idle is not None and not self._idle.done():
            if not any(session.connection.streams for session in self.sessions):
                self._idle.set_result(None)

    # ---- figures ----------------------------------------------------------------------------------------------------

    def under_way(self) -> Counter[str]:
        """Calls that have begun and not ended, by path."""
        return Counter(
            stream.call.route.path
            for session in self.sessions
            for stream in session.connection.streams.values()
            if stream.call is not None
        )

    @property
    def received_bytes(self) -> int:
        """On all connections, from the first on."""
        return self._received_bytes + sum(session.received_bytes for session in self.sessions)

    @property
    def sent_bytes(self) -> int:
        """On all connections, from the first on."""
        return self._sent_bytes + sum(session.sent_bytes for session in self.sessions)

    def close(self) -> None:
        """Hang up on everybody."""
        for session in list(self.sessions):
            session.close()
        self.deadlines.close()
        if self._late_timer is not None:
            self._late_timer.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
