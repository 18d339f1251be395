"""Moving the WAL back into the database without stalling writes.

A PASSIVE checkpoint copies what was in the WAL when it began and blocks nobody, but a writer that never
pauses keeps adding frames behind it, and the WAL can only start over when every frame was copied. So:

1. when the WAL passes a threshold, a thread with its own connection copies the bulk, and again what came in
   meanwhile, each pass being shorter than the one before, until one was short;
2. if the writer was busy all along, what is left is a few frames, and the writer copies them itself after its
   next commit: the next write then starts the WAL over. Its cost is one short sync per WAL length, not per
   turn.

When the disk is too full for the WAL to grow, no commit succeeds that could make a checkpoint due. Then the journal
has all of it copied at once, so that the next turn can start the WAL over in the space that it has. A checkpoint that
would make the database grow by more than the disk has is not begun: it would come to nothing, and the database would
keep the space that the WAL needs for what deletes, compacts and gives pages back.

A reader that holds an old state also keeps the WAL from starting over. The WAL then grows while it reads;
past a hard bound the writer tries after every further stretch of growth.

Rejected: RESTART or TRUNCATE checkpoints in the thread. They take the write lock while they copy and sync,
which is the stall that this design exists to avoid."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import apsw

from shardworker.store.crash_points import CrashPoint
from shardworker.store.errors import DiskFull, translated

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardworker.store.crash_points import CrashPoints
    from shardworker.store.files import Files

_THROTTLE_SECONDS = 0.1
"""What a turn waits at most while the WAL is over its hard bound; far below an election timeout."""

_SHORT_FRAMES = 64
"""A pass that copied no more is the last one: the writer won't wait long for what came in meanwhile."""
_PASSES_MAX = 6
"""For a writer that is nearly as fast as the disk."""

_RETRY_FRAMES = 1024
"""Growth of the WAL after which a checkpoint that could not finish is tried again: 4 MiB of 4 KiB pages."""


class Copied(NamedTuple):
    """Frames of the WAL that are in the database, also from earlier on, and how many it has as far as this connection
    sees it."""

    frames: int
    in_wal: int


class Checkpointer(Protocol):
    """Decides after each commit who checkpoints what."""

    def after_commit(self, wal_frames: int) -> None:
        """The writer committed and the WAL holds wal_frames. Raises what a failed disk raises."""

    def close(self) -> None:
        """Stop; no connection of it is open afterwards."""


def checkpoint(
    connection: apsw.Connection,
    files: Files,
    crash_points: CrashPoints,
    mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE,
) -> Copied | None:
    """Copy what can be copied now. None if nothing can, also because the disk is full: the WAL still holds everything,
    so it only stays long. Raises the store's errors for another failure."""
    crash_points.reach(CrashPoint.CHECKPOINT_BEFORE)
    try:
        if not _fits(connection, files):
            return None
        in_wal, copied = connection.wal_checkpoint("main", mode)
    except (apsw.BusyError, apsw.LockedError):
        return None  # the other connection is checkpointing right now, or this one is in the middle of a read
    except (apsw.Error, OSError) as error:
        refused = translated(error, f"checkpointing {connection.filename}")
        if isinstance(refused, DiskFull):
            return None
        raise refused from error
    crash_points.reach(CrashPoint.CHECKPOINT_DONE)
    return Copied(copied, in_wal)


def _fits(connection: apsw.Connection, files: Files) -> bool:
    """Whether the disk has what the database would grow by."""
    file = Path(connection.filename)
    size_bytes = int(connection.pragma("page_count")) * int(connection.pragma("page_size"))
    grows_bytes = size_bytes - files.size(file)
    return grows_bytes <= 0 or grows_bytes <= files.free_bytes(file.parent)


class InlineCheckpointer:
    """The writer does it all, right after the commit that made it due. For the simulator: no threads."""

    def __init__(
        self, writer: apsw.Connection, files: Files, crash_points: CrashPoints, due_frames: int
    ) -> None:
        """due_frames: length of the WAL at which a checkpoint starts."""
        self._writer = writer
        self._files = files
        self._crash_points = crash_points
        self._due_frames = self._threshold = due_frames

    def after_commit(self, wal_frames: int) -> None:
        if wal_frames >= self._due_frames:
            done = checkpoint(self._writer, self._files, self._crash_points)
            is_whole = done is not None and done.frames == done.in_wal
            self._due_frames = self._threshold if is_whole else wal_frames + _RETRY_FRAMES

    def close(self) -> None:
        pass


class BackgroundCheckpointer:
    """A thread copies the bulk; the writer finishes if it must (see above)."""

    def __init__(
        self,
        writer: apsw.Connection,
        connect: Callable[[], apsw.Connection],
        files: Files,
        crash_points: CrashPoints,
        *,
        due_frames: int,
        frames_max: int,
    ) -> None:
        """connect: for the thread. due_frames, frames_max: lengths of the WAL at which a checkpoint starts, and at
        which the writer is slowed down."""
        self._writer = writer
        self._connect = connect
        self._files = files
        self._crash_points = crash_points
        self._threshold = due_frames
        self._hard_bound = frames_max
        self._due_frames = due_frames
        self._writer_finishes = False
        self._failure: Exception | None = None
        self._stopping = False
        self._wake = threading.Semaphore(0)
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None

    def after_commit(self, wal_frames: int) -> None:
        if self._failure is not None:
            raise self._failure
        if wal_frames < self._threshold:
            self._due_frames = self._threshold
            self._writer_finishes = False
        elif not self._idle.is_set():
            if wal_frames >= self._hard_bound:
                # The disk cannot keep up: slow the writer down rather than let the WAL grow without end.
                self._idle.wait(_THROTTLE_SECONDS)
        elif self._writer_finishes:
            self._writer_finishes = False
            self._due_frames = wal_frames + _RETRY_FRAMES
            checkpoint(self._writer, self._files, self._crash_points)
        elif wal_frames >= self._due_frames:
            self._due_frames = wal_frames + _RETRY_FRAMES
            self._idle.clear()
            if self._thread is None:
                # Started on first use: an idle replica pays for no stack.
                self._thread = threading.Thread(target=self._run, name="checkpointer", daemon=True)
                self._thread.start()
            self._wake.release()

    def _run(self) -> None:
        connection: apsw.Connection | None = None
        try:
            connection = self._connect()
            while True:
                self._wake.acquire()
                if self._stopping:
                    return
                self._copy_bulk(connection)
                # SQLite reports the WAL's length as this connection saw it at the start, so only the writer
                # knows whether anything is left; if its next commit started the WAL over, it will not ask.
                self._writer_finishes = True
                self._idle.set()
        except Exception as error:
            self._failure = error
        finally:
            self._idle.set()
            if connection is not None:
                connection.close()

    def _copy_bulk(self, connection: apsw.Connection) -> None:
        before = 0
        for _ in range(_PASSES_MAX):
            copied = checkpoint(connection, self._files, self._crash_points)
            if copied is None or self._stopping:
                return
            has_started_over = copied.frames < before
            if copied.frames - (0 if has_started_over else before) <= _SHORT_FRAMES:
                return
            before = copied.frames

    def close(self) -> None:
        self._stopping = True
        if self._thread is not None:
            self._wake.release()
            self._thread.join()
            self._thread = None
