"""Threads for what must not hold up the loop: scans of a million rows, making a snapshot.

SQLite works without Python's lock, so these threads really run beside the loop. A job runs on a thread; what it
returns is handed to its `done` in the loop's thread, so nothing else needs a lock."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from proto import errors

if TYPE_CHECKING:
    from collections.abc import Callable

JOBS_WAITING_MAX: Final = 256

T = TypeVar("T")


class Background(Protocol):
    """Runs jobs: on threads in production, a little later in the loop's own thread in simulation."""

    def submit(self, job: Callable[[], T], done: Callable[[T], None]) -> None:
        """Run the job soon; `collect` then calls done with its result. Raises QueueFull."""

    def collect(self) -> None:
        """Finish the jobs that ended since the last call. Raises what a job raised."""

    def rest(self, seconds: float) -> None:
        """For a job: do nothing for so long, or until there is no time left."""


class BackgroundThreads:
    """A fixed number of threads and a bounded queue; `wake` tells the loop that there is something to collect."""

    def __init__(self, *, threads: int, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._jobs: queue.Queue[Callable[[], Callable[[], None]] | None] = queue.Queue(JOBS_WAITING_MAX)
        self._ended: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._closing = threading.Event()
        # Daemons: a worker that fails before it can close() must end, not wait for them for ever.
        self._threads = [
            threading.Thread(target=self._run, name=f"background-{n}", daemon=True) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while (work := self._jobs.get()) is not None:
            self._ended.put(work())
            self._wake()

    def submit(self, job: Callable[[], T], done: Callable[[T], None]) -> None:
        """Run the job on the next free thread. Raises QueueFull."""

        def work() -> Callable[[], None]:
            try:
                result = job()
            except BaseException as error:  # it is the loop's to decide what a failed job means
                return _raiser(error)
            return lambda: done(result)

        try:
            self._jobs.put_nowait(work)
        except queue.Full:
            raise errors.QueueFull(f"{JOBS_WAITING_MAX} long jobs are waiting on this replica") from None

    def collect(self) -> None:
        """Finish the jobs that ended since the last call. Raises what a job raised."""
        while True:
            try:
                finish = self._ended.get_nowait()
            except queue.Empty:
                return
            finish()

    def rest(self, seconds: float) -> None:
        """Do nothing for so long, but nobody who closes waits for that. A job's own thread calls it."""
        self._closing.wait(seconds)

    def close(self) -> None:
        """End the threads after the jobs they are at; waiting jobs are dropped."""
        self._closing.set()
        while True:
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()


def _raiser(error: BaseException) -> Callable[[], None]:
    def fail() -> Any:
        raise error

    return fail
