"""One life of a supervised process, from its start to its end.

The process reads its ProcessSpec from the first line of stdin, which then stays open: its end tells the process that
the supervisor is gone. On stdout it speaks the events of config/process/events.py. stderr is its log file."""

from __future__ import annotations

import asyncio
import enum
import json
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from config.process.events import EXIT_RESTART

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from coordinator.supervisor.logfile import LogFile
    from coordinator.supervisor.silence import Silence

EVENT_BYTES_MAX: Final = 1 << 20
LAST_WORDS_S: Final = 1.0
"""How long a process's last events are waited for once it has ended."""
NOT_STOPPED: Final = "had not stopped after {:g} s and was killed"


class Cause(enum.Enum):
    """What the end of a life means for the next."""

    CRASH = enum.auto()
    RESTART = enum.auto()
    """It asked to be started again."""


@dataclass(frozen=True, slots=True)
class End:
    """How a life ended."""

    cause: Cause
    words: str


class CannotStart(Exception):
    """The process could not even be started; the text says why."""


class Life:
    """A process that has been started, until it is gone. All calls come from one event loop."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        silence: Silence,
        on_ready: Callable[[Life], None],
        on_members: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self.pid = process.pid
        self.started_at = time.time()
        self.ready = asyncio.Event()
        """Set once it has said that it serves."""
        self._process = process
        self._on_ready = on_ready
        self._on_members = on_members
        self._silence = silence
        self._words = ""
        self._ended = asyncio.create_task(self._live(), name=f"process {process.pid}")

    @classmethod
    async def begin(
        cls,
        command: Sequence[str],
        spec: bytes,
        log: LogFile,
        *,
        inherited: tuple[int, ...],
        silence: Silence,
        on_ready: Callable[[Life], None],
        on_members: Callable[[Mapping[str, Any]], None],
    ) -> Life:
        """Start a process. `spec` is the line for its stdin, `inherited` are descriptors that it keeps open, `silence`
        says when it hangs; on_ready is called once it serves, on_members with each event of that name. Raises
        CannotStart."""
        try:
            log_fd = log.open()
        except OSError as error:
            raise CannotStart(f"its log {log.path} can't be written: {error.strerror}") from None
        try:
            # A session of its own, so that Ctrl-C in the terminal reaches the supervisor alone.
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log_fd,
                start_new_session=True,
                pass_fds=inherited,
                limit=EVENT_BYTES_MAX,
            )
        except OSError as error:
            raise CannotStart(f"can't be started: {error.strerror}") from None
        finally:
            os.close(log_fd)
        assert process.stdin is not None
        process.stdin.write(spec + b"\n")  # drained by the loop; a process that dies first needs it no more
        return cls(process, silence, on_ready, on_members)

    async def wait(self) -> End:
        """Wait until the process is gone."""
        return await asyncio.shield(self._ended)

    async def stop(self, timeout_s: float) -> str:
        """End it in order, or by SIGKILL after timeout_s. Returns when it is gone, with a reason to worry or ""."""
        self.send(signal.SIGTERM)
        done, _ = await asyncio.wait({self._ended}, timeout=timeout_s)
        if done:
            return ""
        self.send(signal.SIGKILL)
        await asyncio.wait({self._ended})
        return NOT_STOPPED.format(timeout_s)

    def send(self, signal_number: signal.Signals) -> None:
        """Signal the process if it is still there."""
        if self._process.returncode is None:
            try:
                self._process.send_signal(signal_number)
            except ProcessLookupError:
                pass  # it died a moment ago; its end is about to be noticed

    def kill_if_hung(self) -> None:
        """Look whether it still answers; to be called every WATCH_INTERVAL_S."""
        if self._silence.is_too_long(time.monotonic()) and self._process.returncode is None:
            self._words = f"did not answer for {self._silence.limit_s:g} s"
            self.send(signal.SIGKILL)

    async def _live(self) -> End:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        events = asyncio.create_task(self._read_events(process.stdout), name=f"events of {process.pid}")
        code = await process.wait()
        # What it said before its end is in the pipe; a stray grandchild that holds the pipe must not hold us.
        await asyncio.wait({events}, timeout=LAST_WORDS_S)
        events.cancel()
        process.stdin.close()
        cause = Cause.RESTART if code == EXIT_RESTART else Cause.CRASH
        return End(cause, self._words or _describe_exit(code))

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
                case {"event": "beat"}:
                    self._silence.beat()
                case {"event": "ready"} if not self.ready.is_set():
                    self.ready.set()
                    self._silence.serve()
                    self._on_ready(self)
                case {"event": "members"}:
                    self._on_members(event)
                case {"event": "failed" | "restart", "reason": str(reason)}:
                    self._words = reason


def _describe_exit(code: int) -> str:
    if code == EXIT_RESTART:
        return "asked to be started again"
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
