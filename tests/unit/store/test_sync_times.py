"""How long syncs take, against a clock of the test's own."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from shardworker.store import ReplicaStore, StoreSettings
from shardworker.store.sync_times import SYNCS_KEPT, SyncTimes
from tests.simulation.disk import SimulatedDisk
from tests.unit.store.replicas import IDENTITY


def test_p99_is_what_ninety_nine_of_a_hundred_stay_within() -> None:
    times = SyncTimes()
    assert times.p99_us() is None
    for us in range(100, 0, -1):
        times.note(us * 1_000)
    assert times.p99_us() == 99
    times.note(5_000_000)
    assert times.p99_us() == 100


def test_old_syncs_are_forgotten() -> None:
    times = SyncTimes()
    times.note(9_000_000)
    for _ in range(SYNCS_KEPT):
        times.note(7_000)
    assert times.p99_us() == 7


def test_only_turns_that_sync_are_measured() -> None:
    disk, clock_us = SimulatedDisk(seed=1), count()
    store = ReplicaStore.open(
        Path("/r"),
        IDENTITY,
        StoreSettings(exclusive=True),
        vfs=disk.vfs,
        files=disk.files,
        clock_ns=lambda: next(clock_us) * 40_000,
    )
    with store.turn(sync=False):
        pass
    assert store.sync_p99_us() is None
    with store.turn(sync=True):
        pass
    assert store.sync_p99_us() == 40
    store.close()
