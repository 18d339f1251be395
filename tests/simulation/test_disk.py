"""Does the store keep its promises on a disk that forgets? And is the disk as nasty as it claims?

The property: a replica runs random turns until the power goes in some write, sync or rename. Opened again, it
holds the turns up to some point, whole, in order, at least up to the last synced one. Never less, never a
half, never something else."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

from proto.errors import Corrupt
from shardworker.raft.types import (
    Entry,
    EntryKind,
    HardState,
    LogIndex,
    Membership,
    NodeId,
    SnapshotMeta,
    Term,
)
from shardworker.store import DiskFull, Identity, IdentityMismatch, ReplicaStore, StorageFailed, StoreSettings
from tests.simulation.disk import SimulatedDisk, seed_sqlite

FOLDER = Path("/replica")
IDENTITY = Identity(cluster_id=7, node=1, shard=2, cluster_name="demo")
MEMBERSHIP = Membership(frozenset({NodeId(1), NodeId(2), NodeId(3)}))
SETTINGS = StoreSettings(exclusive=True, cache_bytes=1 << 20, checkpoint_wal_bytes=64 * 4096)


@dataclass(frozen=True)
class Picture:
    """What a replica's disk stands for, for comparing."""

    hard_state: HardState
    applied: int
    first: int
    entries: tuple[Entry, ...]
    rows: frozenset[tuple[int, bytes]]


def take_picture(store: ReplicaStore) -> Picture:
    log = store.log
    entries = log.entries(log.first_index(), LogIndex(log.last_index() + 1), 1 << 40)
    rows = frozenset((k, v) for k, v in store.connection.execute("SELECT k, v FROM kv"))
    return Picture(store.hard_state, store.applied_index, log.first_index(), tuple(entries), rows)


def open_store(disk: SimulatedDisk) -> ReplicaStore:
    store = ReplicaStore.open(FOLDER, IDENTITY, SETTINGS, vfs=disk.vfs, files=disk.files)
    with store.turn(sync=True) as turn:
        turn.connection.execute("CREATE TABLE IF NOT EXISTS kv(k INTEGER PRIMARY KEY, v BLOB)")
        turn.set_membership(MEMBERSHIP)
    return store


class Workload:
    """Random turns, as a replica takes them, and what the disk should hold after each."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.pictures: list[Picture] = []
        """What was durable at the beginning, then one for each turn, the unfinished one included."""
        self.synced = 0
        """Position in `pictures` of the last one that must survive."""

    def begin(self, store: ReplicaStore) -> None:
        self.pictures = [take_picture(store)]
        self.synced = 0

    def turns(self, store: ReplicaStore, count: int) -> None:
        for _ in range(count):
            self.turn(store)

    def turn(self, store: ReplicaStore) -> None:
        """One turn of appends (some over a conflict), data, applied index and compaction."""
        rng, now = self._rng, self.pictures[-1]
        last = now.first + len(now.entries) - 1
        term = Term(max(now.hard_state.term + (rng.random() < 0.1), 1))
        keep = rng.randint(now.hard_state.commit, last) if rng.random() < 0.2 else last
        added = [
            Entry(term, LogIndex(keep + 1 + at), EntryKind.COMMANDS, rng.randbytes(rng.choice((0, 50, 6000))))
            for at in range(rng.randrange(4))
        ]
        log = [entry for entry in now.entries if not added or entry.index <= keep] + added
        last = log[-1].index if log else last
        commit = LogIndex(rng.randint(now.hard_state.commit, last))
        hard_state = HardState(term, NodeId(rng.randrange(3)), commit)
        applied = max(now.applied, rng.randint(now.hard_state.commit, commit))
        rows = [(rng.randrange(60), rng.randbytes(rng.choice((10, 900)))) for _ in range(rng.randrange(5))]
        dropped = 4 if len(now.entries) - 4 >= 5 and now.applied >= now.first + 3 else 0
        sync = rng.random() < 0.6

        data = {**dict(now.rows), **dict(rows)}
        self.pictures.append(
            Picture(hard_state, applied, now.first + dropped, tuple(log[dropped:]), frozenset(data.items()))
        )
        terms = {entry.index: entry.term for entry in log}
        with store.turn(sync=sync) as turn:
            turn.append(hard_state, added)
            for row in rows:
                turn.connection.execute("REPLACE INTO kv VALUES(?, ?)", row)
            if applied > now.applied:
                turn.set_applied(LogIndex(applied), terms[LogIndex(applied)])
            assert turn.compact_log(keep_entries=5, keep_bytes=1 << 30, rows_max=4) == dropped
        assert take_picture(store) == self.pictures[-1]
        if sync:
            self.synced = len(self.pictures) - 1


@pytest.mark.parametrize("seed", range(60))
def test_a_power_cut_loses_nothing_that_was_synced(seed: int) -> None:
    rng = random.Random(seed)
    seed_sqlite(seed)
    disk = SimulatedDisk(seed)
    workload = Workload(rng)
    store = open_store(disk)
    for _ in range(6):
        workload.begin(store)
        disk.cut_power_after(rng.randint(1, 400))
        with disk.until_power_cut():
            while True:
                workload.turn(store)
        store = reopen(disk, rng)
        assert take_picture(store) in workload.pictures[workload.synced :]
        assert store.verify() == []
    store.close()
    disk.close()


def reopen(disk: SimulatedDisk, rng: random.Random) -> ReplicaStore:
    """Recover, through a few more power cuts on the way."""
    for _ in range(rng.randrange(3)):
        disk.cut_power_after(rng.randint(1, 12))
        with disk.until_power_cut():
            open_store(disk)
            disk.power_cut()
    disk.cut_power_after(None)
    return open_store(disk)


@pytest.mark.parametrize("seed", range(20))
def test_after_a_failed_sync_the_store_stops_and_recovers_from_the_disk(seed: int) -> None:
    rng = random.Random(seed)
    disk = SimulatedDisk(seed)
    workload = Workload(rng)
    store = open_store(disk)
    workload.begin(store)
    disk.fail_sync_after(rng.randint(1, 25))
    with pytest.raises(StorageFailed):
        workload.turns(store, 200)
    for sync in (True, False):
        # SQLite would accept both, and the disk would call the first one's sync a success.
        with pytest.raises(StorageFailed), store.turn(sync=sync):
            pass
    disk.power_cut()
    store = open_store(disk)
    assert take_picture(store) in workload.pictures[workload.synced :]
    assert store.verify() == []
    store.close()
    disk.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_full_disk_changes_nothing_and_passes(seed: int) -> None:
    rng = random.Random(seed)
    disk = SimulatedDisk(seed)
    workload = Workload(rng)
    store = open_store(disk)
    workload.begin(store)
    for _ in range(4):
        disk.capacity_bytes -= disk.free_bytes() - rng.randint(1000, 50_000)
        with pytest.raises(DiskFull):
            workload.turns(store, 200)
        assert take_picture(store) == workload.pictures[-2]
        disk.capacity_bytes = 1 << 40
        workload.begin(store)
        workload.turn(store)
    assert store.verify() == []
    store.close()
    disk.power_cut()
    store = open_store(disk)
    assert take_picture(store) in workload.pictures[workload.synced :]
    disk.close()


def test_what_replaces_rows_is_taken_though_the_disk_is_full() -> None:
    """Neither the database nor the WAL need grow for it: what is in the WAL can be copied, and the WAL start over."""
    disk = SimulatedDisk(seed=1)
    store = open_store(disk)

    def replace_rows() -> None:
        with store.turn(sync=True) as turn:
            turn.connection.executemany("REPLACE INTO kv VALUES(?, zeroblob(900))", [(k,) for k in range(20)])

    replace_rows()
    store.connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
    replace_rows()  # the database has all its pages, and the WAL is not long enough for a checkpoint
    disk.capacity_bytes -= disk.free_bytes()
    refused = 0
    for _ in range(20):
        try:
            replace_rows()
        except DiskFull:
            refused += 1
            replace_rows()
    assert refused
    assert store.verify() == []
    store.close()
    disk.close()


def test_what_the_wal_needs_is_not_taken_by_a_checkpoint_that_does_not_fit() -> None:
    """The database would grow by more than there is, and keeps what it took, so that nothing could be deleted in what
    was left. Once pages are given back it fits."""
    disk = SimulatedDisk(seed=1)
    store = open_store(disk)
    store.connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def turn(sql: str, *rows: int) -> None:
        with store.turn(sync=True) as turn:
            turn.connection.executemany(sql, [(row,) for row in rows])

    turn("INSERT INTO kv VALUES(?, zeroblob(3500))", *range(50))  # not enough for a checkpoint
    assert store.wal_bytes < SETTINGS.checkpoint_wal_bytes
    disk.capacity_bytes -= disk.free_bytes() - 40 * SETTINGS.page_bytes  # what was given up, say
    for row in range(10):  # enough for one
        turn("REPLACE INTO kv VALUES(?, zeroblob(3400))", row)
    turn("DELETE FROM kv WHERE k = ?", *range(50))
    while store.free_pages():
        with store.turn(sync=False):
            store.give_back_pages(8)
    refused = 0
    for _ in range(50):
        try:
            turn("REPLACE INTO kv VALUES(?, zeroblob(900))", 1, 2)
        except DiskFull:
            refused += 1
            turn("REPLACE INTO kv VALUES(?, zeroblob(900))", 1, 2)
    assert refused == 1, "then the WAL starts over"
    assert store.verify() == []
    store.close()
    disk.close()


def test_creation_survives_a_power_cut_in_every_operation() -> None:
    for operation in range(1, 1000):
        disk = SimulatedDisk(seed=operation)
        disk.cut_power_after(operation)
        with disk.until_power_cut():
            ReplicaStore.open(FOLDER, IDENTITY, SETTINGS, vfs=disk.vfs, files=disk.files)
        finished = disk.epoch == 0
        disk.power_cut()
        store = open_store(disk)
        assert store.hard_state == HardState(Term(0), NodeId(0), LogIndex(0))
        assert store.verify() == []
        store.close()
        disk.close()
        if finished:
            assert operation > 10
            return
    raise AssertionError("creation never finished")


def make_snapshot(disk: SimulatedDisk) -> tuple[SnapshotMeta, bytes, bytes, Picture]:
    """A sender's snapshot, its SHA-256 and what it stands for; the sender goes on writing."""
    store = ReplicaStore.open(
        FOLDER, Identity(cluster_id=7, node=2, shard=2), SETTINGS, vfs=disk.vfs, files=disk.files
    )
    with store.turn(sync=True) as turn:
        turn.connection.execute("CREATE TABLE kv(k INTEGER PRIMARY KEY, v BLOB)")
        turn.set_membership(MEMBERSHIP)
    workload = Workload(random.Random(5))
    workload.begin(store)
    while store.applied_index < 120:
        workload.turn(store)
    picture = take_picture(store)
    made = store.create_snapshot()
    workload.turn(store)
    data = made.read(0, made.size_bytes)
    made.remove()
    store.close()
    return made.meta, data, made.sha256, picture


def install(store: ReplicaStore, meta: SnapshotMeta, data: bytes, sha256: bytes) -> None:
    receiver = store.receive_snapshot(stream=1, total_bytes=len(data))
    for offset in range(0, len(data), 20_000):
        receiver.write(offset, data[offset : offset + 20_000])
    received = receiver.finish(meta, sha256)
    store.install_snapshot(received, HardState(Term(meta.term + 1), NodeId(3), meta.index))


def test_an_install_survives_a_power_cut_in_every_operation() -> None:
    sender = SimulatedDisk(seed=1)
    meta, data, sha256, sent = make_snapshot(sender)
    sender.close()
    outcomes = set()
    for operation in range(1, 1000):
        disk = SimulatedDisk(seed=operation)
        store = open_store(disk)
        workload = Workload(random.Random(3))
        workload.begin(store)
        for _ in range(10):
            workload.turn(store)
        with store.turn(sync=True):
            pass
        before = take_picture(store)
        disk.cut_power_after(operation)
        with disk.until_power_cut():
            install(store, meta, data, sha256)
        finished = disk.epoch == 0
        disk.power_cut()

        store = ReplicaStore.open(FOLDER, IDENTITY, SETTINGS, vfs=disk.vfs, files=disk.files)
        found = take_picture(store)
        outcomes.add(found == before)
        if finished or found != before:
            assert found == Picture(
                HardState(Term(meta.term + 1), NodeId(3), meta.index),
                meta.index,
                meta.index + 1,
                (),
                sent.rows,
            )
            assert store.log.term(meta.index) == meta.term
            assert store.log.snapshot() == meta
        assert store.verify() == []
        assert [name for name in disk.files.names(FOLDER) if name.endswith(".db")] == [store.file.name]
        assert not [name for name in disk.files.names(FOLDER) if name.endswith(".tmp")]
        store.close()
        disk.close()
        if finished:
            assert outcomes == {True, False}
            return
    raise AssertionError("the install never finished")


@pytest.mark.parametrize("seed", range(150))
def test_a_flipped_bit_is_refused_or_harmless_to_the_log(seed: int) -> None:
    """Wherever a bit flips, the log is never served with other content than was written."""
    rng = random.Random(seed)
    disk = SimulatedDisk(seed)
    workload = Workload(random.Random(1))
    store = open_store(disk)
    workload.begin(store)
    for _ in range(40):
        workload.turn(store)
    before = take_picture(store)
    file = store.file
    store.close()
    disk.flip_bit(file, rng.randrange(disk.files.size(file)), rng.randrange(8))
    try:
        store = ReplicaStore.open(FOLDER, IDENTITY, SETTINGS, vfs=disk.vfs, files=disk.files)
        log = store.log
        assert log.entries(log.first_index(), LogIndex(log.last_index() + 1), 1 << 40) == list(before.entries)
        assert store.hard_state == before.hard_state
        store.close()
    except (Corrupt, IdentityMismatch):
        pass
    disk.close()


def test_the_same_seed_gives_the_same_bytes() -> None:
    images: list[list[tuple[str, bytes]]] = []
    for _ in range(2):
        seed_sqlite(9)
        disk = SimulatedDisk(9)
        workload = Workload(random.Random(9))
        store = open_store(disk)
        workload.begin(store)
        disk.cut_power_after(300)
        with disk.until_power_cut():
            while True:
                workload.turn(store)
        open_store(disk)
        images.append(disk.image())
        disk.close()
    assert images[0] == images[1]


class TestTheDiskItself:
    """Would it notice a store that forgets a sync?"""

    def test_unsynced_bytes_may_vanish_and_may_tear(self) -> None:
        found = set()
        for seed in range(60):
            disk = SimulatedDisk(seed)
            disk.files.create(Path("/f"))
            disk.files.sync_folder(Path("/"))
            disk.files.write(Path("/f"), 0, b"a" * 2048)
            disk.files.sync(Path("/f"))
            disk.files.write(Path("/f"), 256, b"b" * 1024)
            disk.power_cut()
            found.add(disk.content(Path("/f")))
            disk.close()
        assert b"a" * 2048 in found
        assert b"a" * 256 + b"b" * 1024 + b"a" * 768 in found
        assert b"a" * 256 + b"b" * 256 + b"a" * 1536 in found, "torn after the first sector"
        assert b"a" * 512 + b"b" * 768 + b"a" * 768 in found, "the first sector missing"
        assert all(len(content) == 2048 for content in found)

    def test_unsynced_names_may_vanish(self) -> None:
        found = set()
        for seed in range(20):
            disk = SimulatedDisk(seed)
            disk.files.create(Path("/old"))
            disk.files.sync_folder(Path("/"))
            disk.files.rename(Path("/old"), Path("/new"))
            disk.power_cut()
            found.add(tuple(disk.files.names(Path("/"))))
            disk.close()
        assert found == {("old",), ("new",)}

    def test_a_failed_sync_loses_the_bytes_although_the_next_one_succeeds(self) -> None:
        disk = SimulatedDisk(seed=1)
        disk.files.create(Path("/f"))
        disk.files.sync_folder(Path("/"))
        disk.files.write(Path("/f"), 0, b"gone")
        disk.fail_sync_after(1)
        with pytest.raises(OSError, match="sync"):
            disk.files.sync(Path("/f"))
        disk.files.sync(Path("/f"))
        assert disk.content(Path("/f")) == b"gone"
        disk.power_cut()
        assert disk.content(Path("/f")) == b""
        disk.close()


def test_a_turn_costs_one_sync_or_none() -> None:
    disk = SimulatedDisk(seed=1)
    store = open_store(disk)
    workload = Workload(random.Random(1))
    workload.begin(store)
    for _ in range(50):
        before, position = disk.syncs, workload.synced
        workload.turn(store)
        if store.wal_frames < 64:  # no checkpoint in this turn
            synced = workload.synced != position
            assert disk.syncs - before <= synced + store_started_wal(store)
    store.close()
    disk.close()


def store_started_wal(store: ReplicaStore) -> bool:
    """Whether the WAL started over in the last turn: SQLite then syncs its header as well."""
    return store.wal_frames < 20
