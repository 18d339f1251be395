"""What commands changed, from the machine as it applies and from a table's log: one shape, the same edits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw
import pytest

from proto import errors
from proto.etcd import kv_pb2
from proto.etcd.rpc_pb2 import CompactionRequest, RangeResponse
from proto.internal import frames_pb2 as frames
from shardworker.machine import Change, Edit, HistoryLimits, Listen, changes, history
from tests.unit.machine.shard import TABLE, Shard, delete, get, put, txn

if TYPE_CHECKING:
    from pathlib import Path

OTHER = TABLE + 1


def listening(history: int = -1, listen: Listen = Listen.WITH_PREVIOUS) -> Shard:
    shard = Shard(history=history)
    shard.write(frames.TableSpec(id=OTHER, name="u", history=-1))
    shard.machine.listen({TABLE: listen})
    return shard


def said(change: Change) -> tuple[int, list[tuple[bytes, bytes | None, bytes | None]]]:
    """The revision, and (key, value, previous value) of each edit."""
    return change.revision, [(edit.key, value(edit.kv), value(edit.prev)) for edit in change.edits]


def value(stored: bytes | None) -> bytes | None:
    return None if stored is None else RangeResponse.FromString(stored).kvs[0].value


@pytest.mark.parametrize("keeps", [-1, 0, 2])
def test_what_each_command_changed_is_told_after_the_commit(keeps: int) -> None:
    shard = listening(keeps)
    shard.apply(
        shard.command(put(b"a", b"1")),
        shard.command(put(b"a", b"2")),
        shard.command(put(b"x"), table=OTHER),
        shard.command(txn(put(b"b", b"3"), delete(b"a"), put(b"c", b"4"))),
        shard.command(put(b"miss", ignore_value=True)),
        shard.command(delete(b"\0", b"\0")),
        shard.command(delete(b"\0", b"\0")),
    )
    taken = shard.machine.take_changes()
    assert [said(change) for change in taken] == [
        (2, [(b"a", b"1", None)]),
        (3, [(b"a", b"2", b"1")]),
        (4, [(b"b", b"3", None), (b"a", None, b"2"), (b"c", b"4", None)]),
        (5, [(b"b", None, b"3"), (b"c", None, b"4")]),
    ]
    assert {change.table_id for change in taken} == {TABLE}
    assert taken[-1].checksum == shard.machine.table_status()[0].checksum
    assert shard.machine.take_changes() == []


def test_a_stored_pair_is_a_field_of_an_event() -> None:
    shard = listening()
    shard.put(b"a", b"1", lease=0)
    (change,) = shard.machine.take_changes()
    stored = change.edits[0].kv
    assert stored is not None
    event = kv_pb2.Event.FromString(stored)
    assert event.kv == kv_pb2.KeyValue(key=b"a", create_revision=2, mod_revision=2, version=1, value=b"1")
    assert event.type == kv_pb2.Event.PUT


def test_nothing_is_taken_down_for_nobody() -> None:
    shard = listening()
    shard.write(put(b"a"), table=OTHER)
    shard.machine.listen({})
    shard.put(b"a")
    assert shard.machine.take_changes() == []


def test_previous_pairs_are_only_looked_up_if_asked_for() -> None:
    shard = listening(listen=Listen.CHANGES)
    shard.put(b"a", b"1")
    shard.put(b"a", b"2")
    shard.delete(b"a", b"b")
    assert [said(change)[1] for change in shard.machine.take_changes()] == [
        [(b"a", b"1", None)], [(b"a", b"2", None)], [(b"a", None, None)],
    ]  # fmt: skip


def test_what_is_rolled_back_is_never_told() -> None:
    shard = listening()
    shard.put(b"a", b"1")
    shard.connection.execute("BEGIN IMMEDIATE")
    shard.apply_uncommitted(shard.command(put(b"a", b"2")))
    shard.connection.execute("ROLLBACK")
    shard.machine.rollback()
    shard.put(b"a", b"3")
    assert [said(change)[1] for change in shard.machine.take_changes()] == [
        [(b"a", b"1", None)], [(b"a", b"3", b"1")],
    ]  # fmt: skip


def test_a_refused_transaction_is_never_told() -> None:
    shard = listening()
    shard.put(b"a", b"1")
    shard.machine.take_changes()
    refused = shard.write(txn(put(b"b"), delete(b"a"), put(b"a", ignore_value=True)))
    assert type(refused.error) is errors.KeyNotFound
    assert shard.machine.take_changes() == []


def test_more_than_fits_into_memory_is_left_to_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "TURN_BYTES_MAX", 3000)
    shard = listening()
    shard.apply(*[shard.command(put(b"%d" % number, bytes(1000))) for number in range(4)])
    shard.put(b"a")
    taken = shard.machine.take_changes()
    assert [(change.revision, len(change.edits), change.missing) for change in taken] == [
        (2, 1, False), (3, 1, False), (4, 0, True), (5, 0, True), (6, 1, False),
    ]  # fmt: skip
    assert len(next(history(shard.connection, TABLE, 4)).edits) == 1


def program(shard: Shard) -> list[Change]:
    """Writes of all kinds; what the machine told of them."""
    for number in range(6):
        shard.put(b"k%d" % (number % 3), b"%d" % number)
    shard.write(txn(put(b"k0", b"x"), put(b"m", b"y"), delete(b"k1"), get(b"k0")))
    shard.delete(b"k", b"l")
    shard.put(b"k1", b"back")
    return shard.machine.take_changes()


def test_history_tells_the_same() -> None:
    shard = listening()
    told = program(shard)
    for revision in range(2, 12):
        later = [change._replace(checksum=None) for change in told if change.revision >= revision]
        assert list(history(shard.connection, TABLE, revision, previous=True)) == later
    assert not shard.connection.in_transaction
    plain = [edit for change in history(shard.connection, TABLE, 0) for edit in change.edits]
    assert plain == [Edit(edit.key, edit.kv, None) for change in told for edit in change.edits]


def test_history_cuts_what_is_long() -> None:
    shard = listening()
    program(shard)
    whole = list(history(shard.connection, TABLE, 8))
    for limits in (HistoryLimits(edits_max=1), HistoryLimits(bytes_max=1)):
        parts = list(history(shard.connection, TABLE, 8, limits))
        assert [len(part.edits) for part in parts] == [1] * sum(len(change.edits) for change in whole)
        assert [(part.revision, part.more) for part in parts] == [
            (8, True), (8, True), (8, False), (9, True), (9, False), (10, False),
        ]  # fmt: skip


@pytest.mark.parametrize("swept", [False, True])
def test_history_begins_at_the_floor(swept: bool) -> None:
    shard = listening()
    told = program(shard)
    shard.write(CompactionRequest(revision=9))
    if swept:
        shard.sweep()
    with pytest.raises(errors.Compacted):
        next(history(shard.connection, TABLE, 8))
    assert not shard.connection.in_transaction
    kept = [change._replace(checksum=None) for change in told if change.revision >= 9]
    found = list(history(shard.connection, TABLE, 9))
    assert [said(change)[0] for change in found] == [9, 10]
    assert [[edit.key for edit in change.edits] for change in found] == [
        [edit.key for edit in change.edits] for change in kept
    ]
    assert list(history(shard.connection, TABLE, 11)) == []
    with pytest.raises(errors.TableNotFound):
        next(history(shard.connection, 99, 1))


def test_history_is_of_one_moment(tmp_path: Path) -> None:
    shard = Shard(str(tmp_path / "s.db"))
    shard.connection.pragma("journal_mode", "wal")
    reader = apsw.Connection(str(tmp_path / "s.db"), apsw.SQLITE_OPEN_READONLY)
    shard.put(b"a")
    shard.put(b"b")
    told = history(reader, TABLE, 0)
    assert next(told).revision == 2
    shard.put(b"c")
    shard.write(CompactionRequest(revision=4))
    shard.sweep()
    assert [change.revision for change in told] == [3]
    assert not reader.in_transaction
