"""Moving the WAL back into the database without stalling writes.

A PASSIVE checkpoint copies what was in the WAL when it began and blocks nobody, but a writer that never
pauses keeps adding frames behind it, and the WAL can only start over when every frame was copied. So:

1. when the WAL passes a threshold, a thread with its own connection copies the bulk, twice: the second pass
   is short, because few frames came in during the first;
2. if the writer was busy all along, what is left is a few frames, and the writer copies them itself after its
   next commit: the next write then starts the WAL over. Its cost is one short sync per WAL length, not per
   turn.

A reader that holds an old state also keeps the WAL from starting over. The WAL then grows while it reads;
past a hard bound the writer tries after every further stretch of growth.

Rejected: RESTART or TRUNCATE checkpoints in the thread. They take the write lock while they copy and sync,
which is the stall that this design exists to avoid."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

import apsw

from shardworker.store import database
from shardworker.store.crash_points import CrashPoint
from shardworker.store.database import Role
from shardworker.store.errors import DiskFull, translated

if TYPE_CHECKING:
    from shardworker.store.replica_store import ReplicaStore

_THROTTLE_SECONDS = 0.1
"""What a turn waits at most while the WAL is over its hard bound; far below an election timeout."""

_RETRY_FRAMES = 1024
"""Growth of the WAL after which a checkpoint that could not finish is tried again: 4 MiB of 4 KiB pages."""


class Checkpointer(Protocol):
    """Decides after each commit who checkpoints what."""

    def after_commit(self, wal_frames: int) -> None:
        """The writer committed and the WAL holds wal_frames. Raises what a failed disk raises."""

    def close(self) -> None:
        """Stop; no connection of it is open afterwards."""


def checkpoint(
    connection: apsw.Connection, store: ReplicaStore, mode: int = apsw.SQLITE_CHECKPOINT_PASSIVE
) -> bool:
    """Copy what can be copied now; whether the whole WAL was. Raises the store's errors, but not for a full
    disk: the WAL still holds everything, so it only stays long."""
    store.crash_points.reach(CrashPoint.CHECKPOINT_BEFORE)
    try:
        in_wal, copied = connection.wal_checkpoint("main", mode)
    except (apsw.BusyError, apsw.LockedError):
        return (
            False  # the other connection is checkpointing right now, or this one is in the middle of a read
        )
    except apsw.Error as error:
        refused = translated(error, f"checkpointing {store.file}")
        if isinstance(refused, DiskFull):
            return False
        raise refused from error
    store.crash_points.reach(CrashPoint.CHECKPOINT_DONE)
    return in_wal == copied


class InlineCheckpointer:
    """The writer does it all, right after the commit that made it due. For the simulator: no threads."""

    def __init__(self, store: ReplicaStore) -> None:
        self._store = store
        self._due_frames = self._threshold = store.checkpoint_frames

    def after_commit(self, wal_frames: int) -> None:
        if wal_frames >= self._due_frames:
            done = checkpoint(self._store.connection, self._store)
            self._due_frames = self._threshold if done else wal_frames + _RETRY_FRAMES

    def close(self) -> None:
        pass


class BackgroundCheckpointer:
    """A thread copies the bulk; the writer finishes if it must (see above)."""

    def __init__(self, store: ReplicaStore) -> None:
        self._store = store
        self._threshold = store.checkpoint_frames
        self._hard_bound = store.wal_frames_max
        self._due_frames = self._threshold
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
            checkpoint(self._store.connection, self._store)
        elif wal_frames >= self._due_frames:
            self._due_frames = wal_frames + _RETRY_FRAMES
            self._idle.clear()
            if self._thread is None:
                # Started on first use: an idle replica pays for no stack.
                self._thread = threading.Thread(target=self._run, name="checkpointer", daemon=True)
                self._thread.start()
            self._wake.release()

    def _run(self) -> None:
        store = self._store
        connection: apsw.Connection | None = None
        try:
            connection = database.connect(store.file, store.settings, vfs=store.vfs, role=Role.HELPER)
            while True:
                self._wake.acquire()
                if self._stopping:
                    return
                checkpoint(connection, store)
                checkpoint(connection, store)
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

    def close(self) -> None:
        self._stopping = True
        if self._thread is not None:
            self._wake.release()
            self._thread.join()
            self._thread = None
