"""Keeps one process running.

    stopped --start()--> starting --"ready"--> running
       ^                   |  ^                  |
       |                 dies  |               dies
       |                   v   |                 |
       +--stop()-------- backoff <---------------+----too often----> failed

A process that cannot run is tried again like any crash: what stood in its way may be gone by then. One that asks to be
started again is, at once, and that counts as no crash.

A hand-over replaces a running process by another one without a moment in between: the successor starts beside it, and
only once that one is ready does the old one stop. If the successor does not get there, the old one just goes on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any, Final

from config.process.report import ProcessReport, State
from coordinator.supervisor.life import NOT_STOPPED, CannotStart, Cause, End, Life
from coordinator.supervisor.restarts import RestartPolicy
from coordinator.supervisor.silence import Silence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from config import SupervisorConfig
    from config.process.names import ProcessName
    from coordinator.supervisor.logfile import LogFile

REASON_LINES_MAX: Final = 5
READY_WITHIN_S: Final = 30.0
"""How long a process is waited for to be ready: by whoever asked for a start, and by its predecessor."""
_SETTLED: Final = (State.RUNNING, State.FAILED, State.STOPPED)


class HandOverFailed(Exception):
    """The successor did not get ready, and the process goes on as it was. The text says why."""


class Child:
    """One supervised process. All calls come from one event loop."""

    def __init__(
        self,
        name: ProcessName,
        command: Sequence[str],
        spec: bytes,
        log: LogFile,
        settings: SupervisorConfig,
        on_change: Callable[[ProcessReport], None],
        inherited: tuple[int, ...] = (),
        on_members: Callable[[Mapping[str, Any]], None] = lambda _event: None,
    ) -> None:
        """`spec` is the line for its stdin; `inherited` are descriptors that it keeps open; on_members hears what it
        tells of who holds a shard."""
        self.name = name
        self.log = log
        self._command = tuple(command)
        self.spec = spec
        """What its next start is told."""
        self._on_members = on_members
        self._settings = settings
        self._on_change = on_change
        self._inherited = inherited
        self._policy = RestartPolicy(settings)
        self._state = State.STOPPED
        self._reason = ""
        self._starts = 0
        self._started_at: float | None = None
        self._life: Life | None = None
        self._successor: Life | None = None
        """Started by a hand-over that is under way, and not yet the one that counts."""
        self._predecessor: Life | None = None
        """Replaced by a hand-over, and not yet gone."""
        self._keeper: asyncio.Task[None] | None = None
        self._stop_asked = asyncio.Event()
        self._changed = asyncio.Event()
        self._requests = asyncio.Lock()

    @property
    def state(self) -> State:
        return self._state

    def report(self) -> ProcessReport:
        """How it is now."""
        return ProcessReport(
            name=self.name,
            state=self._state,
            pid=self._life.pid if self._life else None,
            restarts=max(0, self._starts - 1),
            reason=self._reason,
            started_at=self._started_at,
            log=str(self.log.path),
        )

    async def start(self) -> None:
        """Begin to keep it running, with earlier crashes forgiven. Nothing happens if that is so already."""
        async with self._requests:
            if self._state in (State.STOPPED, State.FAILED):
                self._policy.reset()
                self._stop_asked.clear()
                self._change(State.STARTING, "")
                self._keeper = asyncio.create_task(self._keep_running(), name=f"keep {self.name}")
                self._keeper.add_done_callback(self._check_keeper)

    async def stop(self) -> None:
        """Stop it in order, or by SIGKILL once stop_timeout_ms have passed. Returns when it is gone.

        One that has failed is down already, and counts as stopped from now on."""
        self._stop_asked.set()  # before the lock: it ends a hand-over that is under way
        async with self._requests:
            self._stop_asked.set()
            reason = ""
            if self._keeper is not None:
                reason = await self._end(self._keeper)
                self._keeper = None
            if self._state is not State.STOPPED:
                self._change(State.STOPPED, reason)

    async def _end(self, keeper: asyncio.Task[None]) -> str:
        """End the process and its keeper; a reason to worry, or ""."""
        limit_s = self._settings.stop_timeout_ms / 1000
        if self._life is not None:
            self._change(State.STOPPING, "")
            self.send(signal.SIGTERM)
        done, _ = await asyncio.wait({keeper}, timeout=limit_s)
        if not done:
            self.send(signal.SIGKILL)
            await asyncio.wait({keeper})
            return NOT_STOPPED.format(limit_s)
        if self._life is not None:  # its keeper broke, and nobody but us looks after it
            return await self._life.stop(limit_s)
        return ""

    async def hand_over(self) -> bool:
        """Replace the running process by a new one that is ready before the old one stops. Returns when the old one is
        gone; False, and nothing has happened, if no process runs that could hand over.

        Raises HandOverFailed."""
        async with self._requests:
            if self._state is not State.RUNNING or self._life is None:
                return False
            old = self._life
            await self._start_successor()
            if self._life is not old:
                self._predecessor = old
                await old.stop(self._settings.stop_timeout_ms / 1000)
                self._predecessor = None
            return True

    def send(self, signal_number: signal.Signals) -> None:
        """Signal its process if there is one, and those that a hand-over has beside it."""
        for life in (self._life, self._successor, self._predecessor):
            if life is not None:
                life.send(signal_number)

    def kill_if_hung(self) -> None:
        """Look whether it still answers; to be called every WATCH_INTERVAL_S. What is killed starts again as after any
        crash. One that is stopping has its own time limit."""
        if self._stop_asked.is_set():
            return
        for life in (self._life, self._successor):
            if life is not None:
                life.kill_if_hung()

    async def wait_settled(self) -> State:
        """Wait until it runs, has failed or is stopped."""
        while self._state not in _SETTLED:
            await self._changed.wait()
        return self._state

    # ---- the keeper ----------------------------------------------------------------------------------------

    async def _keep_running(self) -> None:
        while True:
            started_s = time.monotonic()
            end = await self._live_once()
            if self._stop_asked.is_set():
                return
            now_s = time.monotonic()
            if end.cause is Cause.RESTART:
                wait_s = self._policy.asked(started_s=started_s, now_s=now_s)
            else:
                wait_s = self._policy.crashed(started_s=started_s, now_s=now_s)
            if wait_s is None:
                return self._change(State.FAILED, self._failure(end))
            if wait_s:
                self._change(State.BACKOFF, f"{end.words}; starts again in {wait_s:g} s")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop_asked.wait(), wait_s)
                    return
            self._change(State.STARTING, end.words)

    async def _live_once(self) -> End:
        """Start it and wait for its end, or for that of the successor that took over."""
        try:
            life = await self._begin()
        except CannotStart as error:
            return End(Cause.CRASH, str(error))
        self._life, self._started_at = life, life.started_at
        self._change(self._state, self._reason)
        if self._stop_asked.is_set():
            self.send(signal.SIGTERM)  # stop() came between the decision to start and the start
        while True:
            end = await life.wait()
            if self._life is life:
                self._life = None
                if self._successor is None or self._stop_asked.is_set():
                    return end
                # It died while its successor was on the way, which is then the next one.
                self._adopt(self._successor, end.words)
            assert self._life is not None
            life = self._life

    async def _begin(self) -> Life:
        self._starts += 1
        return await Life.begin(
            self._command,
            self.spec,
            self.log,
            inherited=self._inherited,
            silence=Silence(self._settings.hang_timeout_ms / 1000, self._settings.start_timeout_ms / 1000),
            on_ready=self._handle_ready,
            on_members=self._on_members,
        )

    def _handle_ready(self, life: Life) -> None:
        if life is self._life and self._state is State.STARTING:
            self._change(State.RUNNING, self._reason)
        elif life is self._successor:
            self._adopt(life, self._reason)

    def _adopt(self, successor: Life, reason: str) -> None:
        """From now on the successor is the process that counts."""
        self._life, self._successor, self._started_at = successor, None, successor.started_at
        self._change(State.RUNNING if successor.ready.is_set() else State.STARTING, reason)

    async def _start_successor(self) -> None:
        """Start one and wait until it has taken over. Raises HandOverFailed if it does not."""
        try:
            successor = self._successor = await self._begin()
        except CannotStart as error:
            raise HandOverFailed(f"{self.name} goes on as it was: its successor {error}") from None
        ended = asyncio.create_task(successor.wait())
        stop_asked = asyncio.create_task(self._stop_asked.wait())
        ready = asyncio.create_task(successor.ready.wait())
        try:
            await asyncio.wait(
                {ended, ready, stop_asked}, timeout=READY_WITHIN_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stop_asked.cancel()
            ready.cancel()
        if self._life is successor:
            return
        self._successor = None
        if not ended.done():
            successor.send(signal.SIGKILL)
            words = (
                "was not ready in time" if not self._stop_asked.is_set() else "came too late: it is to stop"
            )
        else:
            words = ended.result().words
        await ended
        raise HandOverFailed(f"{self.name} goes on as it was: its successor {words}")

    def _check_keeper(self, keeper: asyncio.Task[None]) -> None:
        """A keeper that breaks must not look like a process that runs."""
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            self._change(State.FAILED, f"the supervisor has a bug: {error!r}")

    def _failure(self, end: End) -> str:
        window_s = self._settings.crash_window_ms / 1000
        said = "; ".join(self.log.last_lines(REASON_LINES_MAX)) or "nothing"
        crashes = self._policy.crashes
        return f"crashed {crashes} times within {window_s:g} s ({end.words}); last in its log: {said}"

    def _change(self, state: State, reason: str) -> None:
        self._state, self._reason = state, reason
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change(self.report())
