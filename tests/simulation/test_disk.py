"""Does the store keep its promises on a disk that forgets? And is the disk as nasty as it claims?

The property: a replica runs random turns until the power goes in some write, sync or rename. Opened again, it holds
the turns up to some point, whole, in order, at least up to the last synced one. Never less, never a half, never
something else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proto.errors import Corrupt
from shardworker.raft.types import Entry, EntryKind, HardState, LogIndex, Membership, NodeId, SnapshotMeta, Term
from shardworker.store import DiskFull, Identity, ReplicaStore, StorageFailed, StoreSettings
from tests.simulation.disk import PowerCut, SimulatedDisk, seed_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    rows = frozenset(store.connection.execute("SELECT k, v FROM kv").fetchall())
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


@pytest.fixture
def disk() -> Iterator[SimulatedDisk]:
    disk = SimulatedDisk(seed=1)
    yield disk
    disk.close()


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
