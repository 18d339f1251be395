"""Copies between replicas: made beside a busy writer, sent in chunks, checked, installed whole."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from shardworker.raft import HardState, LogIndex, NodeId, SnapshotMeta, Term
from shardworker.store import REAL_FILES, CrashPoint, DiskFull, Identity, SnapshotRejected, StorageFailed
from tests.unit.store.replicas import IDENTITY, MEMBERSHIP, open_replica, put, rows

if TYPE_CHECKING:
    from pathlib import Path

    from shardworker.store import ReceivedSnapshot, ReplicaStore, SnapshotFile

SENDER = dataclasses.replace(IDENTITY, node=2)
CHUNK_BYTES = 10_000


@pytest.fixture
def sender(tmp_path: Path) -> ReplicaStore:
    store = open_replica(tmp_path / "sender", identity=SENDER)
    for at in range(200):
        put(store, bytes([at]) * 500, sync=False)
    return store


@pytest.fixture
def receiver(tmp_path: Path) -> ReplicaStore:
    store = open_replica(tmp_path / "receiver")
    for _ in range(3):
        put(store)
    with store.turn(sync=True) as turn:
        turn.append(HardState(Term(6), NodeId(3), store.hard_state.commit), [])
    return store


def send(made: SnapshotFile, receiver: ReplicaStore) -> ReceivedSnapshot:
    incoming = receiver.receive_snapshot(stream=7, total_bytes=made.size_bytes)
    while incoming.received_bytes < made.size_bytes:
        offset = incoming.received_bytes
        assert incoming.write(offset, made.read(offset, CHUNK_BYTES)) > offset
    return incoming.finish(made.meta, made.sha256)


def test_a_replica_becomes_what_was_sent(sender: ReplicaStore, receiver: ReplicaStore) -> None:
    made = sender.create_snapshot()
    assert made.meta == SnapshotMeta(LogIndex(200), Term(1), MEMBERSHIP)
    log = receiver.log
    receiver.install_snapshot(send(made, receiver), None)
    for _ in range(2):
        assert receiver.hard_state == HardState(Term(6), NodeId(3), LogIndex(200)), (
            "its own term and vote stay"
        )
        assert (receiver.applied_index, receiver.applied_term) == (200, 1)
        assert (receiver.log.first_index(), receiver.log.last_index(), receiver.log.term(LogIndex(200))) == (
            201,
            200,
            1,
        )
        assert rows(receiver) == 200
        assert receiver.verify() == []
        folder = receiver.path
        assert receiver.generation == 2
        assert sorted(p.name for p in folder.iterdir() if p.suffix == ".db") == ["replica-00000002.db"]
        receiver.close()
        receiver = open_replica(folder)
    assert log is not receiver.log
    assert put(receiver) == 201
    receiver.close()
    sender.close()


class _CountingSyncs:
    """The real files, and how long each file was when it was synced."""

    def __init__(self) -> None:
        self.synced: list[tuple[str, int]] = []

    def sync(self, path: Path) -> None:
        self.synced.append((path.suffix, path.stat().st_size))
        REAL_FILES.sync(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(REAL_FILES, name)


def test_a_copy_is_synced_by_who_receives_it_a_few_megabytes_at_a_time(tmp_path: Path) -> None:
    at_sender: Any = _CountingSyncs()
    at_receiver: Any = _CountingSyncs()
    sender = open_replica(tmp_path / "sender", identity=SENDER, files=at_sender)
    receiver = open_replica(tmp_path / "receiver", files=at_receiver)
    for _ in range(5):
        put(sender, bytes(5 << 20), sync=False)
    with receiver.turn(sync=True) as turn:
        turn.append(HardState(Term(6), NodeId(3), LogIndex(0)), [])
    made = sender.create_snapshot()
    receiver.install_snapshot(send(made, receiver), None)
    assert [suffix for suffix, _ in at_sender.synced if suffix == ".tmp"] == []
    lengths = [0, *(length for suffix, length in at_receiver.synced if suffix == ".tmp")]
    assert lengths[-1] == made.size_bytes, "all of it is durable before it is the replica"
    assert max(after - before for before, after in pairwise(lengths)) <= (8 << 20) + CHUNK_BYTES
    sender.close()
    receiver.close()


def test_the_core_keeps_its_log_over_an_install(sender: ReplicaStore, receiver: ReplicaStore) -> None:
    log = receiver.log
    receiver.install_snapshot(
        send(sender.create_snapshot(), receiver), HardState(Term(8), NodeId(0), LogIndex(200))
    )
    assert receiver.log is log
    assert receiver.hard_state.term == 8
    assert put(receiver) == 201
    assert log.last_index() == 201
    receiver.close()
    sender.close()


def test_a_copy_is_one_moment_of_a_busy_writer(sender: ReplicaStore, receiver: ReplicaStore) -> None:
    made: list[SnapshotFile] = []
    thread = threading.Thread(target=lambda: made.append(sender.create_snapshot()))
    thread.start()
    while thread.is_alive():
        put(sender, b"x" * 2000, sync=False)
    thread.join()
    received = send(made[0], receiver)
    receiver.install_snapshot(received, None)
    assert rows(receiver) == receiver.applied_index == made[0].meta.index
    assert sender.verify() == []
    sender.close()
    receiver.close()


def test_a_copy_carries_nothing_of_its_sender(sender: ReplicaStore) -> None:
    with sender.turn(sync=True) as turn:
        turn.append(HardState(Term(5), NodeId(2), sender.hard_state.commit), [])
    made = sender.create_snapshot()
    copy = apsw.Connection(str(made.path), flags=apsw.SQLITE_OPEN_READONLY)
    assert copy.execute("SELECT count(*) FROM log").get == 0
    assert copy.pragma("journal_mode") != "wal"
    copy.close()
    assert made.size_bytes < sender.database_in_use_bytes(), "the log's pages are not sent"
    made.remove()
    assert not made.path.exists()
    sender.close()


def test_chunks_may_repeat_or_come_early(sender: ReplicaStore, receiver: ReplicaStore) -> None:
    made = sender.create_snapshot()
    incoming = receiver.receive_snapshot(1, made.size_bytes)
    assert incoming.write(0, made.read(0, 100)) == 100
    assert incoming.write(0, made.read(0, 100)) == 100
    assert incoming.write(500, made.read(500, 100)) == 100
    assert incoming.write(100, made.read(100, made.size_bytes)) == made.size_bytes
    incoming.finish(made.meta, made.sha256)
    sender.close()
    receiver.close()


class _ReaderDuringInstall:
    """Crash points at one of which a thread asks for a reader, while the old database is gone already."""

    def __init__(self) -> None:
        self.store: ReplicaStore
        self.found: list[int | Exception] = []
        self.thread = threading.Thread(target=self._read)

    def reach(self, point: CrashPoint) -> None:
        if point is CrashPoint.INSTALL_CLEANED:
            self.thread.start()
            self.thread.join(0.3)  # in vain, if the reader waits for the install

    def _read(self) -> None:
        try:
            reader = self.store.reader()
            self.found.append(reader.execute("SELECT count(*) FROM kv").get)
            self.store.close_reader(reader)
        except Exception as error:
            self.found.append(error)


def test_a_reader_that_is_asked_for_during_an_install_waits(sender: ReplicaStore, tmp_path: Path) -> None:
    during = _ReaderDuringInstall()
    during.store = open_replica(tmp_path / "receiver", crash_points=during)
    with during.store.turn(sync=True) as turn:
        turn.append(HardState(Term(6), NodeId(3), LogIndex(0)), [])
    during.store.install_snapshot(send(sender.create_snapshot(), during.store), None)
    during.thread.join()
    assert during.found == [200]


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EMFILE, StorageFailed),
        (errno.EIO, StorageFailed),
    ],
)
def test_a_copy_that_cannot_be_begun(
    receiver: ReplicaStore, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    """A disk without a free inode still has free bytes."""

    def refuse(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(REAL_FILES, "create", refuse)
    with pytest.raises(error, match="beginning to receive"):
        receiver.receive_snapshot(stream=7, total_bytes=1)


def test_a_copy_that_is_not_what_was_announced_is_rejected(
    sender: ReplicaStore, receiver: ReplicaStore
) -> None:
    made = sender.create_snapshot()
    data = made.read(0, made.size_bytes)

    def receive(data: bytes, meta: SnapshotMeta = made.meta, sha256: bytes = made.sha256) -> None:
        incoming = receiver.receive_snapshot(1, made.size_bytes)
        incoming.write(0, data)
        incoming.finish(meta, sha256)

    with pytest.raises(SnapshotRejected, match="bytes of a snapshot arrived"):
        receive(data[:-1])
    with pytest.raises(SnapshotRejected, match="sends more"):
        receive(data + b"x")
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    with pytest.raises(SnapshotRejected, match="SHA-256"):
        receive(bytes(flipped))
    with pytest.raises(SnapshotRejected, match="announced"):
        receive(data, meta=dataclasses.replace(made.meta, index=LogIndex(999)))
    with pytest.raises(SnapshotRejected, match="announced"):
        receive(
            data,
            meta=dataclasses.replace(made.meta, membership=dataclasses.replace(MEMBERSHIP, auto_leave=True)),
        )
    assert not list(receiver.path.glob("*.tmp"))
    assert rows(receiver) == 3
    receive(data)
    sender.close()
    receiver.close()


def test_a_copy_in_another_format_is_rejected(sender: ReplicaStore, receiver: ReplicaStore) -> None:
    sender.connection.execute("PRAGMA user_version = 99")
    with pytest.raises(SnapshotRejected, match="has format version 99, this boathouse reads"):
        send(sender.create_snapshot(), receiver)
    receiver.close()


def test_another_shards_copy_is_rejected(tmp_path: Path, receiver: ReplicaStore) -> None:
    other = open_replica(tmp_path / "other", identity=Identity(IDENTITY.cluster_id, 2, 3))
    for _ in range(9):
        put(other)
    with pytest.raises(SnapshotRejected, match="shard 3"):
        send(other.create_snapshot(), receiver)
    other.close()
    receiver.close()
