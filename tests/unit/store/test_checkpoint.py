"""Checkpoints beside a busy writer: the WAL starts over again and again, and nothing is lost."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from shardworker.store import CrashPoint, StorageFailed, StoreSettings
from tests.unit.store.replicas import open_replica, put, rows

if TYPE_CHECKING:
    from pathlib import Path

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


class WriterIsFaster:
    """Holds the thread at the end of its second pass until the writer has committed once more."""

    def __init__(self) -> None:
        self.passes = 0
        self.at_end = threading.Event()
        self.go_on = threading.Event()

    def reach(self, point: CrashPoint) -> None:
        if point is CrashPoint.CHECKPOINT_DONE and threading.current_thread().name == "checkpointer":
            self.passes += 1
            if self.passes == 2:
                self.at_end.set()
                assert self.go_on.wait(20)


def test_the_writer_finishes_what_it_outran(tmp_path: Path) -> None:
    race = WriterIsFaster()
    store = open_replica(tmp_path, settings=SMALL, crash_points=race)
    while not race.at_end.is_set():
        put(store, b"x" * 3000, sync=False)
    put(store, b"x" * 3000, sync=False)
    race.go_on.set()
    outrun = store.wal_frames
    for _ in range(200):  # far from the growth after which the thread would try again
        put(store, b"x", sync=False)
        if store.wal_frames < outrun:
            break
    assert store.wal_frames < 20, "the WAL has started over"
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

    def fail(*_: object) -> bool:
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
