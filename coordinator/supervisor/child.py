"""Keeps one process running.

    stopped --start()--> starting --"ready"--> running
       ^                   |  ^                  |
       |                 dies  |               dies
       |                   v   |                 |
       +--stop()-------- backoff <---------------+----too often----> failed

A child reads its ProcessSpec from the first line of stdin, which then stays open: its end tells the child that the
supervisor is gone. On stdout it speaks JSON lines (config/process/child.py): {"event": "ready"} once it serves, and
{"event": "failed", "reason": "..."} before it ends because it cannot run. That is tried again like any crash: what
stood in its way, a port for instance, may be gone by then. stderr is its log file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from coordinator.supervisor.process import ProcessName, ProcessReport, State
from coordinator.supervisor.restarts import RestartPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from config import SupervisorConfig
    from coordinator.supervisor.logfile import LogFile

REASON_LINES_MAX: Final = 5
EVENT_BYTES_MAX: Final = 1 << 20
_SETTLED: Final = (State.RUNNING, State.FAILED, State.STOPPED)


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
    ) -> None:
        """`spec` is the line for its stdin; `inherited` are descriptors that it keeps open."""
        self.name = name
        self.log = log
        self._command = tuple(command)
        self._spec = spec
        self._settings = settings
        self._on_change = on_change
        self._inherited = inherited
        self._policy = RestartPolicy(settings)
        self._state = State.STOPPED
        self._reason = ""
        self._own_words = ""
        self._starts = 0
        self._started_at: float | None = None
        self._process: asyncio.subprocess.Process | None = None
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
            node=self.name.node,
            kind=self.name.kind,
            shard=self.name.shard,
            pid=self._process.pid if self._process else None,
            state=self._state,
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
        """Stop it in order, or by SIGKILL once stop_timeout_ms have passed. Returns when it is gone."""
        async with self._requests:
            keeper = self._keeper
            if keeper is None:
                return
            self._stop_asked.set()
            reason = ""
            if self._process is not None:
                self._change(State.STOPPING, reason)
                self.send(signal.SIGTERM)
            done, _ = await asyncio.wait({keeper}, timeout=self._settings.stop_timeout_ms / 1000)
            if not done:
                self.send(signal.SIGKILL)
                await asyncio.wait({keeper})
                limit_s = self._settings.stop_timeout_ms / 1000
                reason = f"had not stopped after {limit_s:g} s and was killed"
            keeper.result()
            self._keeper = None
            if self._state is not State.FAILED:
                self._change(State.STOPPED, reason)

    async def restart(self) -> None:
        """stop() and start()."""
        await self.stop()
        await self.start()

    def send(self, signal_number: signal.Signals) -> None:
        """Signal the process if there is one."""
        if self._process is not None and self._process.returncode is None:
            try:
                self._process.send_signal(signal_number)
            except ProcessLookupError:
                pass  # it died a moment ago; its keeper is about to notice

    async def wait_settled(self) -> State:
        """Wait until it runs, has failed or is stopped."""
        while self._state not in _SETTLED:
            await self._changed.wait()
        return self._state

    # ---- the keeper ----------------------------------------------------------------------------------------

    async def _keep_running(self) -> None:
        while True:
            started_s = time.monotonic()
            end = await self._run_once()
            if self._stop_asked.is_set():
                return
            wait_s = self._policy.crashed(started_s=started_s, now_s=time.monotonic())
            if wait_s is None:
                return self._change(State.FAILED, self._failure(end))
            self._change(State.BACKOFF, f"{end}; starts again in {wait_s:g} s")
            try:
                await asyncio.wait_for(self._stop_asked.wait(), wait_s)
            except TimeoutError:
                self._change(State.STARTING, end)
            else:
                return

    async def _run_once(self) -> str:
        """Start it and wait for its end; what ended it, in words."""
        self._own_words = ""
        self._starts += 1
        self._started_at = time.time()
        try:
            log_fd = self.log.open()
        except OSError as error:
            return f"its log {self.log.path} can't be written: {error.strerror}"
        try:
            # A session of its own, so that Ctrl-C in the terminal reaches the supervisor alone.
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log_fd,
                start_new_session=True,
                pass_fds=self._inherited,
                limit=EVENT_BYTES_MAX,
            )
        except OSError as error:
            return f"can't be started: {error.strerror}"
        finally:
            os.close(log_fd)
        self._process = process
        self._change(self._state, self._reason)
        if self._stop_asked.is_set():
            self.send(signal.SIGTERM)  # stop() came between the decision to start and the start
        assert process.stdin is not None
        assert process.stdout is not None
        events = asyncio.create_task(self._read_events(process.stdout), name=f"events of {self.name}")
        try:
            process.stdin.write(self._spec + b"\n")
            await process.stdin.drain()
        except ConnectionError:
            pass  # it died before it read; the exit code and the log say why
        code = await process.wait()
        # What it said before its end is in the pipe; a stray grandchild that holds the pipe must not hold us.
        await asyncio.wait({events}, timeout=1.0)
        events.cancel()
        process.stdin.close()
        self._process = None
        return self._own_words or _describe_exit(code)

    async def _read_events(self, stream: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                continue  # over EVENT_BYTES_MAX: not an event; readline has dropped it
            if not line:
                return
            try:
                event = json.loads(line)
            except ValueError:
                continue
            match event:
                case {"event": "ready"} if self._state is State.STARTING:
                    self._change(State.RUNNING, self._reason)
                case {"event": "failed", "reason": str(reason)}:
                    self._own_words = reason

    def _check_keeper(self, keeper: asyncio.Task[None]) -> None:
        """A keeper that breaks must not look like a process that runs."""
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            self._change(State.FAILED, f"the supervisor has a bug: {error!r}")

    def _failure(self, end: str) -> str:
        window_s = self._settings.crash_window_ms / 1000
        said = "; ".join(self.log.last_lines(REASON_LINES_MAX)) or "nothing"
        return f"crashed {self._policy.crashes} times within {window_s:g} s ({end}); last in its log: {said}"

    def _change(self, state: State, reason: str) -> None:
        self._state, self._reason = state, reason
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change(self.report())


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
