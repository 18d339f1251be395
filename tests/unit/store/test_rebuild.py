"""Starting over: identity, term and vote stay, and so does the mark until the replica has caught up."""

from __future__ import annotations

import dataclasses
import errno
from typing import TYPE_CHECKING

import apsw
import pytest

from shardworker.raft import HardState, LogIndex, Membership, NodeId, Term
from shardworker.store import (
    CannotRebuild,
    CrashPoint,
    DiskFull,
    LogEnd,
    RealFiles,
    ReplicaStore,
    StorageFailed,
    database,
    rebuild_stopped,
)
from shardworker.store.records import REBUILD_ROW
from tests.unit.store.replicas import IDENTITY, open_replica, put, rows

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = Membership(frozenset())


class Dies(BaseException):
    pass


class DieAt:
    def __init__(self, point: CrashPoint) -> None:
        self._point = point

    def reach(self, point: CrashPoint) -> None:
        if point is self._point:
            raise Dies


def voted(folder: Path) -> ReplicaStore:
    """A replica with 30 entries that voted for node 3 in term 7."""
    store = open_replica(folder)
    for _ in range(30):
        put(store)
    with store.turn(sync=True) as turn:
        turn.append(HardState(Term(7), NodeId(3), store.hard_state.commit), [])
    return store


def reopened(folder: Path) -> ReplicaStore:
    return ReplicaStore.open(folder, IDENTITY)


def check_started_over(store: ReplicaStore) -> None:
    assert store.hard_state == HardState(Term(7), NodeId(3), LogIndex(0))
    assert (store.applied_index, store.log.last_index(), store.membership) == (0, 0, NOBODY)
    assert not store.connection.table_exists("main", "kv")
    assert store.rebuild is not None
    assert (store.rebuild.until.index, store.rebuild.reason) == (30, "it differs")
    assert store.verify() == []
    assert len(list(store.path.glob("*.db"))) == 1


def test_term_and_vote_stay(tmp_path: Path) -> None:
    store = voted(tmp_path)
    store.begin_rebuild("it differs")
    with pytest.raises(StorageFailed), store.turn(sync=True):
        pass
    store.close()
    again = reopened(tmp_path)
    check_started_over(again)
    again.close()


@pytest.mark.parametrize(
    "point", [p for p in CrashPoint if p.startswith("install:") and "prepared" not in p], ids=str
)
def test_a_crash_leaves_the_old_replica_or_the_new(tmp_path: Path, point: CrashPoint) -> None:
    voted(tmp_path).close()
    store = ReplicaStore.open(tmp_path, IDENTITY, crash_points=DieAt(point))
    with pytest.raises(Dies):
        store.begin_rebuild("it differs")
    store.close()
    again = reopened(tmp_path)
    check_started_over(again)
    again.close()


def test_the_mark_survives_snapshots_and_ends_with_a_turn(tmp_path: Path) -> None:
    sender = open_replica(tmp_path / "sender", identity=dataclasses.replace(IDENTITY, node=2))
    for _ in range(40):
        put(sender, sync=False)
    made = sender.create_snapshot()
    store = voted(tmp_path / "replica")
    store.begin_rebuild("it differs")
    store.close()
    store = reopened(tmp_path / "replica")
    incoming = store.receive_snapshot(1, made.size_bytes)
    incoming.write(0, made.read(0, made.size_bytes))
    store.install_snapshot(incoming.finish(made.meta, made.sha256), None)
    assert store.rebuild is not None
    assert store.rebuild.until.index == 30
    assert (store.applied_index, rows(store), store.hard_state.vote) == (40, 40, 3)
    store.close()
    store = reopened(tmp_path / "replica")
    assert store.rebuild is not None
    with store.turn(sync=True) as turn:
        turn.end_rebuild()
    assert store.rebuild is None
    store.close()
    store = reopened(tmp_path / "replica")
    assert store.rebuild is None
    store.close()
    sender.close()


def test_a_second_rebuild_remembers_what_was_promised_before_the_first(tmp_path: Path) -> None:
    store = voted(tmp_path)
    store.begin_rebuild("it differs")
    store.close()
    store = reopened(tmp_path)
    store.begin_rebuild("it differs")
    store.close()
    store = reopened(tmp_path)
    check_started_over(store)
    store.close()


def test_a_mark_from_before_terms_were_noted_waits_for_the_replicas_own(tmp_path: Path) -> None:
    store = voted(tmp_path)
    store.begin_rebuild("it differs")
    store.close()
    connection = apsw.Connection(str(next(tmp_path.glob("*.db"))))
    database.put_row(connection, REBUILD_ROW, b'{"until": 30, "reason": "it differs"}')
    connection.close()
    store = reopened(tmp_path)
    assert store.rebuild is not None
    assert store.rebuild.until == LogEnd(Term(7), LogIndex(30))
    store.close()


def test_a_stopped_replica_is_started_over_by_hand(tmp_path: Path) -> None:
    voted(tmp_path).close()
    assert rebuild_stopped(tmp_path, "it differs").until.index == 30
    store = reopened(tmp_path)
    check_started_over(store)
    assert store.rebuild is not None
    assert store.rebuild.until == LogEnd(Term(1), LogIndex(30)), (
        "none of its entries is of the term that it voted in"
    )
    store.close()


def test_without_its_vote_a_replica_never_starts_again(tmp_path: Path) -> None:
    voted(tmp_path).close()
    file = next(tmp_path.glob("*.db"))
    connection = apsw.Connection(str(file))
    connection.execute("UPDATE meta SET crc = crc + 1 WHERE name = 'state'")
    connection.close()
    with pytest.raises(CannotRebuild, match="move this folder away"):
        rebuild_stopped(tmp_path, "it differs")
    assert [path.name for path in tmp_path.glob("*.db")] == [file.name]


class FullDisk(RealFiles):
    def sync(self, path: Path) -> None:
        if path.suffix == ".tmp":
            raise OSError(errno.ENOSPC, "no space left")
        super().sync(path)


def test_a_full_disk_is_told_in_a_sentence_and_leaves_the_old_replica(tmp_path: Path) -> None:
    voted(tmp_path).close()
    with pytest.raises(DiskFull, match="the disk is full, while starting"):
        rebuild_stopped(tmp_path, "it differs", FullDisk())
    store = reopened(tmp_path)
    assert (store.rebuild, store.log.last_index()) == (None, 30)
    store.close()


def test_nothing_to_rebuild(tmp_path: Path) -> None:
    with pytest.raises(CannotRebuild, match="no replica's folder"):
        rebuild_stopped(tmp_path, "it differs")
