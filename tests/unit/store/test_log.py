"""RaftLog keeps the core's contract, whether an entry is in memory or has to come from SQLite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proto.errors import Corrupt
from shardworker.raft import HardState, LogIndex, NodeId, SnapshotMeta, Term
from shardworker.store import Identity, ReplicaStore, StoreSettings
from tests.simulation.disk import SimulatedDisk
from tests.unit.raft.log_contract import LogContract, LogWriter
from tests.unit.store.replicas import IDENTITY, entry, open_replica, put

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardworker.raft import Entry
    from shardworker.store import RaftLog

NO_LIMIT = 1 << 40


class StoreLogWriter:
    """Fills the log of a replica on a simulated disk; reopens it after every change if told to."""

    def __init__(self, *, log_cache_bytes: int) -> None:
        self._disk = SimulatedDisk(seed=1)
        self._settings = StoreSettings(exclusive=True, log_cache_bytes=log_cache_bytes)
        self._store = self._open(self._disk, IDENTITY)

    def _open(self, disk: SimulatedDisk, identity: Identity) -> ReplicaStore:
        return ReplicaStore.open(Path("/r"), identity, self._settings, vfs=disk.vfs, files=disk.files)

    @property
    def log(self) -> RaftLog:
        return self._store.log

    def append(self, entries: Sequence[Entry]) -> None:
        with self._store.turn(sync=True) as turn:
            turn.append(
                HardState(Term(9), NodeId(0), LogIndex(0)) if not self._store.state.commit else None, entries
            )

    def compact(self, index: LogIndex) -> None:
        with self._store.turn(sync=True) as turn:
            turn.append(HardState(Term(9), NodeId(0), index), [])
            turn.set_applied(index, self.log.term(index))
        count = index - self.log.first_index() + 1
        with self._store.turn(sync=True) as turn:
            assert turn.compact_log(keep_entries=0, keep_bytes=0, rows_max=count) == count

    def install(self, meta: SnapshotMeta) -> None:
        disk = SimulatedDisk(seed=2)
        sender = self._open(disk, Identity(IDENTITY.cluster_id, node=2, shard=IDENTITY.shard))
        with sender.turn(sync=True) as turn:
            turn.append(
                HardState(meta.term, NodeId(0), meta.index),
                [entry(index, meta.term) for index in range(1, meta.index + 1)],
            )
            turn.set_applied(meta.index, meta.term)
            turn.set_membership(meta.membership)
        made = sender.create_snapshot()
        assert made.meta == meta
        receiver = self._store.receive_snapshot(1, made.size_bytes)
        receiver.write(0, made.read(0, made.size_bytes))
        self._store.install_snapshot(receiver.finish(meta, made.sha256), None)
        sender.close()
        disk.close()


class TestLogInMemory(LogContract):
    def make(self) -> LogWriter:
        return StoreLogWriter(log_cache_bytes=1 << 20)


class TestLogFromSqlite(LogContract):
    """The cache holds one entry: all others are read from the database."""

    def make(self) -> LogWriter:
        return StoreLogWriter(log_cache_bytes=0)


def all_entries(store: ReplicaStore) -> list[Entry]:
    log = store.log
    return log.entries(log.first_index(), LogIndex(log.last_index() + 1), NO_LIMIT)


def test_the_log_is_the_same_after_a_restart(tmp_path: Path) -> None:
    store = open_replica(tmp_path)
    for at in range(200):
        put(store, bytes([at]) * at)
    before = all_entries(store)
    store.close()
    store = open_replica(tmp_path, settings=StoreSettings(log_cache_bytes=2000))
    assert all_entries(store) == before
    assert store.log.size_bytes == sum(range(200))
    store.close()


def test_compaction_keeps_the_tail_it_is_told_to_keep(tmp_path: Path) -> None:
    store = open_replica(tmp_path)
    for _ in range(100):
        put(store, b"x" * 100)

    def compact(keep_entries: int, keep_bytes: int) -> int:
        with store.turn(sync=False) as turn:
            return turn.compact_log(keep_entries=keep_entries, keep_bytes=keep_bytes, rows_max=10)

    assert compact(95, NO_LIMIT) == 0, "a step waits until it is worth a statement"
    assert compact(80, NO_LIMIT) == 10
    assert compact(80, NO_LIMIT) == 10
    assert compact(80, NO_LIMIT) == 0
    assert store.log.first_index() == 21
    assert compact(NO_LIMIT, 6000) == 10
    assert compact(NO_LIMIT, 6000) == 10
    assert compact(NO_LIMIT, 6000) == 0
    assert compact(0, 0) == 10
    assert (store.log.first_index(), store.log.last_index(), store.log.size_bytes) == (51, 100, 5000)
    assert store.verify() == []
    store.close()
    store = open_replica(tmp_path)
    assert (store.log.first_index(), store.log.last_index(), store.log.size_bytes) == (51, 100, 5000)
    assert store.log.term(LogIndex(50)) == 1
    store.close()


def test_compaction_never_passes_the_applied_index(tmp_path: Path) -> None:
    store = open_replica(tmp_path)
    put(store)
    with store.turn(sync=True) as turn:
        turn.append(None, [entry(index) for index in range(2, 30)])
    with store.turn(sync=True) as turn:
        assert turn.compact_log(keep_entries=0, keep_bytes=0, rows_max=1) == 1
    with store.turn(sync=True) as turn:
        assert turn.compact_log(keep_entries=0, keep_bytes=0, rows_max=1) == 0
    store.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE log SET data = CAST(replace(data, 'a', 'b') AS BLOB) WHERE idx = 3",
        "UPDATE log SET term = term + 1 WHERE idx = 3",
        "UPDATE log SET kind = 1 WHERE idx = 3",
        "UPDATE log SET data = 'data' WHERE idx = 3",
        "UPDATE log SET data = CAST(x'ff' AS TEXT) WHERE idx = 3",
        "UPDATE log SET idx = -3 WHERE idx = 3",
        "DELETE FROM log WHERE idx = 3",
        "DELETE FROM log WHERE idx = 10",
        "DELETE FROM log WHERE idx = 1",
    ],
)
def test_a_changed_log_row_is_refused(tmp_path: Path, damage: str) -> None:
    store = open_replica(tmp_path, settings=StoreSettings(log_cache_bytes=0))
    for _ in range(10):
        put(store)
    store.connection.execute(damage)
    assert store.verify() != []
    if "idx = 3" in damage:
        with pytest.raises(Corrupt, match=r"checksum|lacks rows"):
            all_entries(store)
    store.close()
    with pytest.raises(Corrupt):
        open_replica(tmp_path)


def test_the_newest_rows_cannot_vanish_unnoticed(tmp_path: Path) -> None:
    """Not committed as far as this replica knows, but it has vouched for them."""
    store = open_replica(tmp_path)
    put(store)
    with store.turn(sync=True) as turn:
        turn.append(None, [entry(2), entry(3)])
    store.connection.execute("DELETE FROM log WHERE idx = 3")
    store.close()
    with pytest.raises(Corrupt, match="ends at index 2, but it was written up to 3"):
        open_replica(tmp_path)
