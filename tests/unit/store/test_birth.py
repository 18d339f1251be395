"""A replica whose data is gone, older or another's is not taken for what it was."""

from __future__ import annotations

import contextlib
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from shardworker.raft import Membership, NodeId
from shardworker.store import DataMissing, ReplicaStore, rebuild_stopped
from shardworker.store.folder import side_files
from tests.unit.store.replicas import IDENTITY, open_replica, put, rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOTH = pytest.mark.parametrize("alone", [True, False], ids=["alone", "one of a group"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "shard-1"


def record_of(folder: Path) -> Path:
    return folder.with_name(folder.name + ".json")


def crashed(store: ReplicaStore) -> None:
    """Let go of the store as a process does that is killed."""
    store._abandon()


def with_data(folder: Path, *, in_order: bool, alone: bool = True) -> Path:
    """A replica's folder with one write that was acknowledged; returns the database."""
    store = open_replica(folder, alone=alone)
    put(store)
    file = store.file
    if in_order:
        store.close()
    else:
        crashed(store)
    return file


def move_away(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))


def remove_all(file: Path) -> None:
    shutil.rmtree(file.parent)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("lose", [move_away, remove_all, empty])
def test_a_lone_voter_without_its_database_is_refused(
    folder: Path, lose: Callable[[Path], None], in_order: bool
) -> None:
    file = with_data(folder, in_order=in_order)
    lose(file)
    for _ in range(2):
        with pytest.raises(DataMissing, match=rf"missing or empty.*remove {record_of(folder)}"):
            open_replica(folder, alone=True)
    record_of(folder).unlink()
    store = open_replica(folder, alone=True)
    assert rows(store) == 0
    store.close()


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("lose", [move_away, remove_all, empty])
def test_a_member_of_a_group_begins_on_an_empty_disk(
    folder: Path, lose: Callable[[Path], None], in_order: bool
) -> None:
    file = with_data(folder, in_order=in_order, alone=False)
    lose(file)
    store = ReplicaStore.open(folder, IDENTITY)
    assert store.membership.nodes() == ()
    assert not store.connection.table_exists("main", "kv")
    store.close()
    open_replica(folder).close()


@BOTH
@pytest.mark.parametrize("lose", [lambda wal: wal.unlink(), lambda wal: wal.write_bytes(b"")])
def test_a_write_ahead_log_that_is_needed_and_missing_is_refused(
    folder: Path, lose: Callable[[Path], None], alone: bool
) -> None:
    wal = side_files(with_data(folder, in_order=False, alone=alone))[0]
    lose(wal)
    for _ in range(2):
        with pytest.raises(DataMissing, match=r"-wal is missing or empty.*Put it back"):
            open_replica(folder, alone=alone)
    if not alone:
        with pytest.raises(DataMissing, match="-wal is missing"):
            rebuild_stopped(folder, "its data was found damaged")


@BOTH
def test_a_write_ahead_log_may_be_missing_after_an_orderly_end(folder: Path, alone: bool) -> None:
    for file in side_files(with_data(folder, in_order=True, alone=alone)):
        file.unlink(missing_ok=True)
    store = open_replica(folder, alone=alone)
    assert rows(store) == 1
    store.close()


@BOTH
@pytest.mark.parametrize("in_order", [True, False])
def test_an_older_copy_is_refused(folder: Path, alone: bool, in_order: bool) -> None:
    file = with_data(folder, in_order=True, alone=alone)
    old = file.read_bytes()
    with_data(folder, in_order=in_order, alone=alone)
    side = [path for path in side_files(file) if path.exists()]
    newest = {path: path.read_bytes() for path in (file, *side)}
    file.write_bytes(old)
    for path in side:
        path.unlink()
    with pytest.raises(DataMissing, match="Put"):
        open_replica(folder, alone=alone)
    for path, content in newest.items():
        path.write_bytes(content)
    store = open_replica(folder, alone=alone)
    assert rows(store) == 2
    store.close()


@BOTH
def test_a_copy_from_before_the_last_end_is_refused(folder: Path, alone: bool) -> None:
    """It was taken while the process ran: same id, same epoch."""
    store = open_replica(folder, alone=alone)
    put(store)
    store.connection.wal_checkpoint("main")
    old = store.file.read_bytes()
    put(store)
    store.close()
    store.file.write_bytes(old)
    with pytest.raises(DataMissing, match=r"last_index=1.*ended at .*last_index=2"):
        open_replica(folder, alone=alone)


@BOTH
def test_another_birth_under_the_same_name_is_refused(tmp_path: Path, alone: bool) -> None:
    one, other = tmp_path / "a" / "shard-1", tmp_path / "b" / "shard-1"
    file = with_data(one, in_order=True, alone=alone)
    file.write_bytes(with_data(other, in_order=True, alone=alone).read_bytes())
    with pytest.raises(DataMissing, match="another replica"):
        open_replica(one, alone=alone)
    if not alone:
        with pytest.raises(DataMissing, match="another replica"):
            rebuild_stopped(one, "its data was found damaged")


def test_a_database_of_before_there_were_records_gets_one(folder: Path) -> None:
    with_data(folder, in_order=False)
    record_of(folder).unlink()
    store = open_replica(folder, alone=True)
    put(store)
    crashed(store)
    store = open_replica(folder, alone=True)
    assert rows(store) == 2
    store.close()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 1, "ended_at": {"x": 1}}'])
def test_a_damaged_record_is_named(folder: Path, content: str) -> None:
    with_data(folder, in_order=True)
    record_of(folder).write_text(content)
    with pytest.raises(DataMissing, match=r"shard-1.json is damaged.*remove the file"):
        open_replica(folder, alone=True)


def test_a_record_of_another_format_is_refused(folder: Path) -> None:
    with_data(folder, in_order=True)
    record_of(folder).write_text('{"format": 99}')
    with pytest.raises(DataMissing, match="has format 99, this boathouse reads format 1"):
        open_replica(folder, alone=True)


def test_a_replica_that_never_writes_can_be_killed_at_any_time(folder: Path) -> None:
    with_data(folder, in_order=True)
    for _ in range(3):
        crashed(open_replica(folder, alone=True))
    open_replica(folder, alone=True).close()
    crashed(open_replica(folder, alone=True))
    open_replica(folder, alone=True).close()


ONLY_ONE = Membership(voters=frozenset({NodeId(IDENTITY.node)}))
THREE = Membership(voters=frozenset(map(NodeId, (1, 2, 3))))


def set_membership(store: ReplicaStore, membership: Membership) -> None:
    with store.turn(sync=True) as turn:
        turn.set_membership(membership)


@pytest.mark.parametrize("in_order", [True, False])
def test_who_has_become_the_only_voter_is_refused_without_its_database(folder: Path, in_order: bool) -> None:
    """Whatever the cluster file says: the others may have been lost for good since."""
    store = open_replica(folder)
    set_membership(store, THREE)
    set_membership(store, ONLY_ONE)
    put(store)
    file = store.file
    if in_order:
        store.close()
    else:
        crashed(store)
    move_away(file)
    wal = side_files(file)[0]
    left = wal.read_bytes() if wal.exists() else b""
    with pytest.raises(DataMissing, match="only voter"):
        ReplicaStore.open(folder, IDENTITY)
    assert (wal.read_bytes() if wal.exists() else b"") == left


def test_who_has_company_by_now_begins_on_an_empty_disk(folder: Path) -> None:
    store = open_replica(folder)
    set_membership(store, ONLY_ONE)
    set_membership(store, THREE)
    file = store.file
    crashed(store)
    move_away(file)
    ReplicaStore.open(folder, IDENTITY).close()


def test_that_it_is_alone_is_recorded_ahead_of_the_turn_that_makes_it_so(folder: Path) -> None:
    store = open_replica(folder)
    set_membership(store, THREE)
    with contextlib.suppress(KeyboardInterrupt), store.turn(sync=True) as turn:
        turn.set_membership(ONLY_ONE)
        assert json.loads(record_of(folder).read_bytes())["alone"]
        raise KeyboardInterrupt
    crashed(store)
    store = open_replica(folder)
    assert store.membership == THREE
    assert not json.loads(record_of(folder).read_bytes())["alone"], "the database knows better"
    store.close()


def test_a_record_from_before_it_told_who_is_alone_is_told_by_the_database(folder: Path) -> None:
    store = open_replica(folder)
    set_membership(store, ONLY_ONE)
    file = store.file
    store.close()
    fields = json.loads(record_of(folder).read_bytes())
    del fields["alone"]
    record_of(folder).write_text(json.dumps(fields))
    open_replica(folder).close()
    move_away(file)
    with pytest.raises(DataMissing, match="only voter"):
        open_replica(folder)


@pytest.mark.parametrize("generation", [1, 2])
def test_a_log_without_its_database_is_set_aside(folder: Path, generation: int) -> None:
    file = with_data(folder, in_order=False, alone=False)
    move_away(file)
    wal = side_files(file)[0]
    left = wal.read_bytes()
    assert left
    wal.rename(folder / f"replica-{generation:08d}.db-wal")
    store = open_replica(folder)
    assert rows(store) == 0
    put(store)
    (kept,) = folder.glob("lost-*")
    assert kept.read_bytes() == left
    store.close()
    open_replica(folder).close()
    assert kept.read_bytes() == left
