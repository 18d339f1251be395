"""Reads that would hold up the loop: they run on a thread, with a connection of their own.

As many run at a time as there are threads for them, and one that has ended keeps its place until its answer leaves: so
many answers are in memory at once, and the rest waits in order, per coordinator, until nobody waits for it any more.
A read of the tables ends then also in the middle (Patience): it may ask for more than anybody lives to hear. Snapshots
and scrubs have a thread more, which no read takes.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import apsw

from proto import errors
from shardworker.machine import Result
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from shardworker.replica.part import ReplicaContext

WAITING_MAX: Final = 1_024

OTHER_THREADS: Final = 1
"""Beside those of reads, for snapshots and scrubs."""

STEPS_BETWEEN_LOOKS: Final = 100_000
"""Of SQLite's machine within one statement, before it is looked whether anybody still waits: a few milliseconds."""


class Patience:
    """How long somebody waits for a read, as the loop knows and the read's thread looks."""

    def __init__(self) -> None:
        self.is_over = False

    @contextlib.contextmanager
    def of(self, connection: apsw.Connection) -> Iterator[None]:
        """What is read on this connection ends by ReadTimedOut once the patience is over: before a statement, and
        within a long one. Not in between, so what is done there must be short."""
        ended = False

        def must_end() -> bool:
            nonlocal ended
            if ended or not self.is_over:
                return False  # once it has ended, the transaction is left
            ended = True
            return True

        def may_begin(_cursor: apsw.Cursor, _statement: str, _bindings: apsw.Bindings | None) -> bool:
            return not must_end()

        connection.exec_trace = may_begin
        connection.set_progress_handler(must_end, STEPS_BETWEEN_LOOKS)
        try:
            yield
        except (apsw.ExecTraceAbort, apsw.InterruptError):
            raise errors.ReadTimedOut("it took longer than anybody waits for it") from None
        finally:
            connection.exec_trace = None
            connection.set_progress_handler(None)


@dataclass(slots=True, eq=False)
class _Job:
    identity: bytes
    read: Callable[[], Result]
    done: Callable[[Result], None]
    since_ticks: int
    patience: Patience | None
    result: Result | None = None


class LongReads(Part):
    """The long reads of one replica, single ones and parts of iterations."""

    def __init__(self, context: ReplicaContext) -> None:
        self._outgoing = context.outgoing
        self._background = context.background
        limits, tick_ms = context.cluster.limits, context.cluster.raft.tick_ms
        self._patience_ticks = limits.read_timeout_ms // tick_ms
        # A transaction that only reads is waited for as a write is.
        self._answer_ticks = max(limits.read_timeout_ms, limits.write_timeout_ms) // tick_ms
        self._ticks = 0
        self._running_max = context.cluster.store.reader_threads
        self._waiting: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._ended: deque[_Job] = deque()

    def check_room(self) -> None:
        """Raises QueueFull while too many reads wait."""
        if len(self._waiting) >= WAITING_MAX:
            raise errors.QueueFull(f"{len(self._waiting)} long reads are waiting on this replica")

    def submit(
        self,
        identity: bytes,
        read: Callable[[], Result],
        done: Callable[[Result], None],
        patience: Patience | None = None,
    ) -> None:
        """Run `read` on a thread when its turn has come; `done` gets the result in the loop's thread, and answers the
        coordinator behind the link; without an identity nobody is owed one. patience: is over once no coordinator waits
        for the answer. Raises QueueFull."""
        self.check_room()
        self._waiting.append(_Job(identity, read, done, self._ticks, patience))

    def serve(self, fault: errors.BoathouseError | None) -> None:
        """Hand out what has ended, or in its place the fault; then start as many as may run."""
        for _ in range(len(self._ended)):
            job = self._ended.popleft()
            assert job.result is not None
            if fault is not None:
                job.done(Result(0, b"", fault))
            elif self._outgoing.has_room(job.identity):
                job.done(job.result)
            else:
                self._ended.append(job)
        kept: list[_Job] = []
        while self._waiting and len(self._running) + len(self._ended) < self._running_max:
            job = self._waiting.popleft()
            if self._ticks - job.since_ticks > self._patience_ticks:
                job.done(Result(0, b"", errors.ReadTimedOut("no thread was free for it in time")))
            elif self._outgoing.link_is_full(job.identity):
                kept.append(job)
            else:
                self._start(job)
        self._waiting.extendleft(reversed(kept))

    def _start(self, job: _Job) -> None:
        def ended(result: Result) -> None:
            self._running.remove(job)
            job.result = result
            self._ended.append(job)

        try:
            self._background.submit(job.read, ended)
        except errors.QueueFull as error:
            job.done(Result(0, b"", error))
            return
        self._running.append(job)

    def tick(self) -> None:
        self._ticks += 1
        for job in self._running:
            if job.patience is not None and self._ticks - job.since_ticks > self._answer_ticks:
                job.patience.is_over = True

    def has_work(self) -> bool:
        if any(self._outgoing.has_room(job.identity) for job in self._ended):
            return True
        free = len(self._running) + len(self._ended) < self._running_max
        return free and any(not self._outgoing.link_is_full(job.identity) for job in self._waiting)

    def drained(self) -> bool:
        return not any(job.identity for job in (*self._waiting, *self._running, *self._ended))

    def statistics(self) -> Mapping[str, int]:
        return {"long_reads_waiting": len(self._waiting), "long_reads_running": len(self._running)}
