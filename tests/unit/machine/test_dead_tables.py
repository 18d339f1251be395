"""A deleted table is gone at once, its rows go in steps, and its id is never given again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proto import errors
from proto.catalog import CATALOG_ID
from proto.internal import frames_pb2 as frames
from shardworker.machine import Listen, Result, history, leftovers
from tests.unit.machine.shard import TABLE, Shard, get, put

if TYPE_CHECKING:
    from pathlib import Path

SPEC = frames.TableSpec(id=TABLE, name="t", history=-1)


def deletion(shard: Shard, table: int = TABLE, name: str = "t") -> frames.Command:
    body = frames.TableSpec(id=table, name=name).SerializeToString()
    return frames.Command(method=frames.TABLE_DELETE, table_id=table, body=body, request_id=shard.new_id())


def delete_table(shard: Shard, table: int = TABLE, name: str = "t") -> Result:
    return shard.apply(deletion(shard, table, name))[0]


def sql_tables(shard: Shard) -> set[str]:
    found: Any = shard.connection.execute(
        "SELECT name FROM sqlite_schema WHERE name LIKE 't%\\_%' ESCAPE '\\'"
    )
    return {name for (name,) in found}


def test_a_deleted_table_is_unknown_at_once() -> None:
    shard = Shard()
    shard.put(b"a", b"1")
    assert delete_table(shard).error is None
    assert type(shard.read(get(b"a")).error) is errors.TableNotFound
    assert type(shard.write(put(b"a")).error) is errors.TableNotFound
    assert shard.machine.table_status() == []
    with pytest.raises(errors.TableNotFound):
        next(history(shard.connection, TABLE, 1))


def test_a_dead_id_is_never_given_again(tmp_path: Path) -> None:
    shard = Shard(str(tmp_path / "db"))
    delete_table(shard)
    for name in ("t", "u"):
        refused = shard.write(frames.TableSpec(id=TABLE, name=name, history=-1))
        assert type(refused.error) is errors.TableDeleted
    shard.sweep()
    assert shard.machine.highest_table_id == TABLE
    again = Shard(str(tmp_path / "db"), create=False)
    again.index = shard.index
    assert type(again.write(SPEC, request_id=bytes(16)).error) is errors.TableDeleted, (
        "a restart forgets nothing"
    )
    assert again.machine.highest_table_id == TABLE
    assert again.machine.checksum == shard.machine.checksum


def test_a_deletion_that_comes_before_the_creation_wins() -> None:
    shard = Shard(create=False)
    assert delete_table(shard).error is None
    assert type(shard.write(SPEC).error) is errors.TableDeleted
    shard.sweep()
    assert not shard.machine.is_compacting


def test_deleted_twice_is_deleted_once() -> None:
    shard = Shard()
    delete_table(shard)
    checksum = shard.machine.checksum
    assert delete_table(shard).error is None
    assert shard.machine.checksum == checksum


@pytest.mark.parametrize(
    ("table", "name", "error"),
    [
        (TABLE, "other", errors.TableContradicted),
        (CATALOG_ID, "_catalog", errors.InvalidRequest),
        (0, "t", errors.InvalidRequest),
        (1 << 63, "t", errors.InvalidRequest),
    ],
)
def test_what_is_not_meant_is_not_deleted(table: int, name: str, error: type[errors.BoathouseError]) -> None:
    shard = Shard(shard=1)
    before = shard.machine.table_status()
    assert type(delete_table(shard, table, name).error) is error
    assert shard.machine.table_status() == before
    assert shard.write(SPEC).error is None


def test_all_that_belonged_to_a_table_is_freed_in_steps() -> None:
    shard = Shard()
    for number in range(20):
        shard.put(b"k%d" % number, b"v")
    shard.delete(b"k3")
    delete_table(shard)
    shard.write(frames.TableSpec(id=TABLE + 1, name="t", history=-1))
    assert shard.read(get(b"\0", b"\0"), table=TABLE + 1).body == b""
    steps = 0
    while shard.sweep_once(rows_max=5):
        steps += 1
    assert steps >= 8, "20 versions and as many live keys, five a step"
    assert sql_tables(shard) == {f"t{TABLE + 1}_{part}" for part in ("rev", "live", "leased", "dead")}
    assert not shard.machine.is_compacting


def test_large_values_make_steps_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "FREE_BYTES_MAX", 1_000)
    shard = Shard()
    for number in range(10):
        shard.put(b"k%d" % number, bytes(600))
    delete_table(shard)
    assert [shard.sweep_once(rows_max=100) for _ in range(5)] == [2] * 5


def test_what_one_entry_did_to_the_table_before_is_gone_with_it() -> None:
    shard = Shard()
    first = shard.command(put(b"a", b"1"))
    behind = shard.command(put(b"b", b"2"))
    results = shard.apply(first, deletion(shard), behind, shard.command(SPEC))
    assert [type(result.error) for result in results] == [
        type(None), type(None), errors.TableNotFound, errors.TableDeleted,
    ]  # fmt: skip
    shard.sweep()
    assert sql_tables(shard) == set()


@pytest.mark.parametrize("created_before", [True, False])
def test_a_deletion_that_is_rolled_back_has_not_happened(*, created_before: bool) -> None:
    shard = Shard(create=created_before)
    if created_before:
        shard.put(b"a", b"1")
    before = (shard.machine.table_status(), shard.machine.checksum, shard.machine.highest_table_id)
    shard.connection.execute("BEGIN IMMEDIATE")
    shard.apply_uncommitted(shard.command(SPEC), shard.command(put(b"b")), deletion(shard))
    while shard.machine.compaction_step(1):
        pass
    shard.connection.execute("ROLLBACK")
    shard.machine.rollback()
    assert (shard.machine.table_status(), shard.machine.checksum, shard.machine.highest_table_id) == before
    assert not shard.machine.is_compacting
    assert shard.write(SPEC).error is None


def test_a_step_that_is_rolled_back_is_done_again() -> None:
    shard = Shard()
    delete_table(shard)
    shard.connection.execute("BEGIN IMMEDIATE")
    while shard.machine.compaction_step(1):
        pass
    shard.connection.execute("ROLLBACK")
    shard.machine.rollback()
    assert shard.machine.is_compacting
    shard.sweep()
    assert sql_tables(shard) == set()


def test_freeing_goes_on_after_a_restart(tmp_path: Path) -> None:
    shard = Shard(str(tmp_path / "db"))
    for number in range(5):
        shard.put(b"k%d" % number)
    delete_table(shard)
    shard.sweep_once(2)
    again = Shard(str(tmp_path / "db"), create=False)
    assert again.machine.is_compacting
    again.sweep()
    assert sql_tables(again) == set()


def test_replicas_differ_if_only_one_has_deleted() -> None:
    """How far the freeing is makes no difference; whether an id is dead does."""
    left, right = Shard(create=False), Shard(create=False)
    delete_table(left)
    assert left.machine.checksum != right.machine.checksum
    delete_table(right)
    left.sweep()
    assert left.machine.checksum == right.machine.checksum


def test_what_was_changed_before_a_deletion_is_told() -> None:
    shard = Shard()
    shard.machine.listen({TABLE: Listen.CHANGES})
    shard.apply(shard.command(put(b"a", b"1")), deletion(shard))
    assert [edit.key for change in shard.machine.take_changes() for edit in change.edits] == [b"a"]
