"""Checkpoints beside a busy writer: the WAL starts over again and again, and nothing is lost."""

from __future__ import annotations

import errno
import queue
import threading
from typing import TYPE_CHECKING

import pytest

from shardworker.store import CrashPoint, StorageFailed, StoreSettings
from shardworker.store.checkpoint import checkpoint
from shardworker.store.crash_points import NoCrashPoints
from shardworker.store.files import RealFiles
from tests.unit.store.replicas import open_replica, put, rows

if TYPE_CHECKING:
    from pathlib import Path

    from shardworker.store import ReplicaStore

SMALL = StoreSettings(checkpoint_wal_bytes=100 * 4096, wal_bytes_max=400 * 4096)


def checkpointers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "checkpointer"]


def test_the_wal_of_a_busy_writer_stays_bounded(tmp_path: Path) -> None:
    store = open_replica(tmp_path, settings=SMALL)
    longest = 0
    for _ in range(1500):
        put(store, b"x" * 3000, sync=False)
        longest = max(longest, store.wal_frames)
    # Without a checkpoint it would be 4,500 frames; without the writer's help it never starts over.
    assert longest < 3 * 400
    assert store.wal_frames < longest
    assert rows(store) == 1500
    assert store.verify() == []
    store.close()
    assert checkpointers() == []


class Passes:
    """Holds the thread before its first pass and at the end of each, until it is told to go on."""

    def __init__(self) -> None:
        self.held: queue.Queue[CrashPoint] = queue.Queue()
        self.go_on = threading.Semaphore(0)
        self._begun = False

    def reach(self, point: CrashPoint) -> None:
        if threading.current_thread().name != "checkpointer":
            return
        if point is CrashPoint.CHECKPOINT_DONE or not self._begun:
            self._begun = True
            self.held.put(point)
            assert self.go_on.acquire(timeout=20)

    def next(self) -> CrashPoint:
        """Let it go on to where it is held again."""
        self.go_on.release()
        return self.held.get(timeout=20)


def until_held(store: ReplicaStore, passes: Passes) -> None:
    while passes.held.empty():
        put(store, b"x" * 3000, sync=False)
    assert passes.held.get() is CrashPoint.CHECKPOINT_BEFORE


def test_the_writer_finishes_what_the_thread_could_not_copy(tmp_path: Path) -> None:
    passes = Passes()
    store = open_replica(tmp_path, settings=SMALL, crash_points=passes)
    put(store)
    reader = store.reader()
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM kv").get == 1, "what comes after this must wait"
    until_held(store, passes)
    passes.next()
    store.close_reader(reader)
    passes.go_on.release()
    outrun = store.wal_frames
    while store.wal_frames >= outrun:
        put(store, b"x", sync=False)
        assert store.wal_frames < outrun + 900, "before the growth after which the thread would try again"
    assert passes.held.empty()
    store.close()


def test_the_thread_goes_on_until_little_is_left_for_the_writer(tmp_path: Path) -> None:
    passes = Passes()
    store = open_replica(tmp_path, settings=SMALL, crash_points=passes)
    until_held(store, passes)
    for frames in (300, 100, 10):
        passes.next()
        before = store.wal_frames
        while store.wal_frames < before + frames:
            put(store, b"x" * 3000, sync=False)
    passes.next()  # has copied the ten
    passes.go_on.release()
    outrun = store.wal_frames
    while store.wal_frames >= outrun:  # nothing was left: the next turn but one starts the WAL over
        put(store, b"x", sync=False)
        assert store.wal_frames < outrun + 50
    assert passes.held.empty()
    store.close()


def test_a_disk_that_does_not_say_what_space_it_has_has_failed(tmp_path: Path) -> None:
    """As one that fails while it is written: who asks for a turn knows no other words."""

    class Mute(RealFiles):
        def free_bytes(self, folder: Path) -> int:
            raise OSError(errno.EIO, "input/output error")

    store = open_replica(tmp_path)
    put(store, b"x" * 30_000, sync=False)
    with pytest.raises(StorageFailed, match="input/output error"):
        checkpoint(store.connection, Mute(), NoCrashPoints())
    store.close()


def test_an_idle_replica_has_no_thread(tmp_path: Path) -> None:
    store = open_replica(tmp_path, settings=SMALL)
    put(store)
    assert checkpointers() == []
    store.close()


def test_a_reader_delays_the_wal_but_not_the_writer(tmp_path: Path) -> None:
    store = open_replica(tmp_path, settings=SMALL)
    put(store)
    reader = store.reader()
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM kv").get == 1
    for _ in range(300):
        put(store, b"x" * 3000, sync=False)
    held = store.wal_frames
    assert held > 400
    assert reader.execute("SELECT count(*) FROM kv").get == 1, "it still sees its own moment"
    store.close_reader(reader)
    for _ in range(2000):
        put(store, b"x" * 3000, sync=False)
        if store.wal_frames < held:
            break
    assert store.wal_frames < held
    store.close()


def test_a_failed_checkpoint_stops_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_replica(tmp_path, settings=SMALL)

    def fail(*_: object) -> None:
        raise StorageFailed("the disk failed")

    monkeypatch.setattr("shardworker.store.checkpoint.checkpoint", fail)

    def write_on() -> None:
        for _ in range(2000):
            put(store, b"x" * 3000, sync=False)

    with pytest.raises(StorageFailed, match="the disk failed"):
        write_on()
    with pytest.raises(StorageFailed), store.turn(sync=False):
        pass
    store.close()
