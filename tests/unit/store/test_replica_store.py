"""Opening a replica, and what a turn leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw
import pytest

from proto.errors import Corrupt
from shardworker.raft import HardState, LogIndex, NodeId, Term
from shardworker.store import (
    Identity,
    IdentityMismatch,
    ReplicaStore,
    SqliteTooOld,
    StorageFailed,
    StoreInUse,
    check_sqlite_version,
)
from tests.unit.store.replicas import IDENTITY, MEMBERSHIP, entry, open_replica, put, rows

if TYPE_CHECKING:
    from pathlib import Path


def test_a_new_replica_knows_nothing(tmp_path: Path) -> None:
    store = ReplicaStore.open(tmp_path / "a" / "b", IDENTITY)
    assert store.hard_state == HardState(Term(0), NodeId(0), LogIndex(0))
    assert store.applied_index == 0
    assert (store.log.first_index(), store.log.last_index()) == (1, 0)
    assert store.membership.nodes() == ()
    assert store.verify() == []
    store.close()


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    store = open_replica(tmp_path)
    with store.turn(sync=True) as turn:
        turn.append(HardState(Term(4), NodeId(3), LogIndex(1)), [entry(1, 3), entry(2, 4)])
        turn.set_applied(LogIndex(1), Term(3))
    store.close()
    store = open_replica(tmp_path)
    assert store.hard_state == HardState(Term(4), NodeId(3), LogIndex(1))
    assert (store.applied_index, store.applied_term) == (1, 3)
    assert store.membership == MEMBERSHIP
    assert store.log.entries(LogIndex(1), LogIndex(3), 1 << 20) == [entry(1, 3), entry(2, 4)]
    store.close()


@pytest.mark.parametrize(
    "other",
    [Identity(9, 1, 2, "other"), Identity(IDENTITY.cluster_id, 2, 2), Identity(IDENTITY.cluster_id, 1, 3)],
)
def test_another_replicas_folder_is_refused(tmp_path: Path, other: Identity) -> None:
    open_replica(tmp_path).close()
    with pytest.raises(
        IdentityMismatch, match=r"belongs to cluster 'demo'.*check cluster, nodes and data_dir"
    ):
        ReplicaStore.open(tmp_path, other)
    open_replica(tmp_path).close()


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    with apsw.Connection(str(tmp_path / "replica-00000001.db")) as connection:
        connection.execute("CREATE TABLE mine(x)")
    with pytest.raises(IdentityMismatch, match="another program"):
        open_replica(tmp_path)


@pytest.mark.parametrize("version", [2, 3, 99])
def test_another_format_is_refused(tmp_path: Path, version: int) -> None:
    """Versions 2 and 3 were never released: one kept no fingerprints of requests, one not what is left of leases."""
    store = open_replica(tmp_path)
    store.connection.execute(f"PRAGMA user_version = {version}")
    store.close()
    with pytest.raises(IdentityMismatch, match=f"has format version {version}, this boathouse reads"):
        open_replica(tmp_path)


def test_a_file_of_noise_is_refused(tmp_path: Path) -> None:
    (tmp_path / "replica-00000001.db").write_bytes(b"noise" * 5000)
    with pytest.raises(Corrupt):
        open_replica(tmp_path)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailed, match=r"opening the replica in .*file/replica"):
        open_replica(tmp_path / "file" / "replica")


def test_two_processes_cannot_write_one_replica(tmp_path: Path) -> None:
    store = open_replica(tmp_path)
    with pytest.raises(StoreInUse, match="open in another process"):
        open_replica(tmp_path)
    store.close()
    open_replica(tmp_path).close()


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.7.17"])
def test_a_sqlite_with_the_wal_reset_defect_is_refused(version: str) -> None:
    with pytest.raises(SqliteTooOld, match=f"{version}.*WAL-reset"):
        check_sqlite_version(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.52.0", "4.0.0"])
def test_a_mended_sqlite_is_taken(version: str) -> None:
    check_sqlite_version(version)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE meta SET value = value || x'00' WHERE id = ?",
        "UPDATE meta SET value = CAST(x'ff' AS TEXT) WHERE id = ?",
        "DELETE FROM meta WHERE id = ?",
    ],
)
@pytest.mark.parametrize("row", [1, 2, 3])
def test_a_changed_meta_row_is_refused(tmp_path: Path, row: int, damage: str) -> None:
    store = open_replica(tmp_path)
    store.connection.execute(damage, (row,))
    assert store.verify() != []
    store.close()
    with pytest.raises(Corrupt, match="row of the replica"):
        open_replica(tmp_path)


class Oops(Exception):
    pass


def test_an_exception_undoes_the_whole_turn(tmp_path: Path) -> None:
    store = open_replica(tmp_path)
    put(store)
    before = (store.state, store.membership, store.log.last_index(), rows(store))
    with pytest.raises(Oops), store.turn(sync=True) as turn:  # noqa: PT012 -- all of it is to be undone
        turn.append(HardState(Term(7), NodeId(2), LogIndex(2)), [entry(2, 7), entry(3, 7)])
        turn.connection.execute("DELETE FROM kv")
        turn.set_membership(MEMBERSHIP.__class__(frozenset({NodeId(9)})))
        turn.set_applied(LogIndex(2), Term(7))
        raise Oops
    assert (store.state, store.membership, store.log.last_index(), rows(store)) == before
    assert put(store) == 2
    assert store.verify() == []
    store.close()


def test_a_failing_rollback_does_not_hide_what_came_first(tmp_path: Path) -> None:
    store = open_replica(tmp_path)

    def no_rollback(operation: int, what: str | None, *_: object) -> int:
        refused = operation == apsw.SQLITE_TRANSACTION and what == "ROLLBACK"
        return apsw.SQLITE_DENY if refused else apsw.SQLITE_OK

    store.connection.authorizer = no_rollback
    with pytest.raises(Oops) as raised, store.turn(sync=True):
        raise Oops
    assert "rollback failed as well" in raised.value.__notes__[0]
    with pytest.raises(StorageFailed), store.turn(sync=True):
        pass
    store.connection.authorizer = None
    store.close()


def test_a_turn_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    store = open_replica(tmp_path)
    put(store)
    frames = store.wal_frames
    with store.turn(sync=True) as turn:
        turn.append(None, [])
    assert store.wal_frames == frames
    store.close()


def test_a_reader_sees_whole_turns_only(tmp_path: Path) -> None:
    store = open_replica(tmp_path)
    put(store)
    reader = store.reader()
    with store.turn(sync=True) as turn:
        turn.connection.execute("INSERT INTO kv VALUES(50, x'00')")
        assert reader.execute("SELECT count(*) FROM kv").get == 1
    assert reader.execute("SELECT count(*) FROM kv").get == 2
    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("DELETE FROM kv")
    store.close_reader(reader)
    store.close()


def test_an_orderly_end_leaves_an_empty_wal(tmp_path: Path) -> None:
    store = open_replica(tmp_path)
    for _ in range(50):
        put(store)
    assert store.database_bytes() > store.file.stat().st_size
    store.close()
    assert store.database_bytes() == store.file.stat().st_size
    store = open_replica(tmp_path)
    assert rows(store) == 50
    store.close()


def test_sizes_and_space(tmp_path: Path) -> None:
    store = open_replica(tmp_path)
    empty = store.database_in_use_bytes()
    put(store, b"x" * 100_000)
    assert store.database_in_use_bytes() > empty + 190_000, "in the log and in the table"
    assert store.free_bytes() > 0
    store.close()


def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    open_replica(tmp_path).close()
    for name in (
        "snapshot-1.tmp",
        "snapshot-1.tmp-journal",
        "receive-00.tmp",
        "replica-00000000.db",
        "replica-00000003.db-wal",
    ):
        (tmp_path / name).write_bytes(b"left over")
    (tmp_path / "notes.txt").write_bytes(b"not ours")
    store = open_replica(tmp_path)
    assert [p.name for p in sorted(tmp_path.iterdir()) if not p.name.startswith(store.file.name)] == [
        "lock",
        "notes.txt",
    ]
    store.close()
