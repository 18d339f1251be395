"""What surrounds the commands: tables, repeats, rollback, restart, broken input, history, compaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw
import pytest

from proto import errors
from proto.etcd.rpc_pb2 import CompactionRequest, PutRequest, RangeRequest
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2
from proto.regatta.mvcc_pb2 import RequestOp
from shardworker.machine import (
    FORMAT,
    StateMachine,
    TooNew,
    UnreadableEntry,
    WindowLimits,
    machine,
    memory,
    tables,
    view,
    window,
    writer,
)
from shardworker.machine.scrub import Position, scrub
from tests.unit.machine.shard import TABLE, Shard, delete, get, keys, put, txn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def request_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


# ---- tables -------------------------------------------------------------------------------------------------------


def test_shard_one_is_born_with_the_catalog() -> None:
    catalog = Shard(shard=1, create=False).machine.table_status()
    assert [(status.id, status.name, status.revision) for status in catalog] == [(1, "_catalog", 1)]
    assert Shard(shard=2, create=False).machine.table_status() == []


def test_creating_a_table_is_its_first_revision_and_can_be_repeated() -> None:
    shard = Shard(create=False)
    spec = frames.TableSpec(id=7, name="users", history=-1)
    result = shard.write(spec)
    status = frames.TableStatus.FromString(result.body)
    assert (result.error, result.revision, status.name, status.revision) == (None, 1, "users", 1)
    shard.write(put(b"a"), table=7)
    assert shard.write(spec).revision == 2
    for other in (
        frames.TableSpec(id=7, name="other", history=-1),
        frames.TableSpec(id=7, name="users", history=3),
    ):
        assert type(shard.write(other).error) is errors.TableContradicted
    for bad in (
        frames.TableSpec(id=0, name="x"),
        frames.TableSpec(id=1 << 63, name="x"),
        frames.TableSpec(id=8, name=""),
        frames.TableSpec(id=8, name="x", history=-2),
    ):
        assert type(shard.write(bad).error) is errors.InvalidRequest
    assert len(shard.machine.table_status()) == 1


def test_unknown_tables_and_methods_are_errors() -> None:
    shard = Shard()
    assert type(shard.write(put(b"a"), table=99).error) is errors.TableNotFound
    assert type(shard.read(get(b"a"), table=99).error) is errors.TableNotFound
    assert type(shard.read_as(999, b"").error) is errors.MethodNotServed


@pytest.mark.parametrize("method", [999, frames.REPLICA_STATUS, frames.ETCD_RANGE])
def test_a_log_with_a_command_of_a_newer_version_stops_the_replica(method: int) -> None:
    shard = Shard()
    known = shard.command(put(b"a"))
    unknown = frames.Command(method=frames.Method.ValueType(method), table_id=TABLE, request_id=request_id(1))
    shard.connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(TooNew, match=f"entry 2 holds a command of method {method}, which this version"):
        shard.apply_uncommitted(known, unknown)
    shard.connection.execute("ROLLBACK")
    shard.machine.rollback()
    assert shard.range(b"a")[1].count == 0, "the entry is applied whole or not at all"


def test_a_log_entry_of_another_format_stops_the_replica() -> None:
    shard = Shard()
    for unknown in (0, FORMAT + 1):
        batch = frames.CommandBatch(commands=[shard.command(put(b"a"))], format=unknown)
        with pytest.raises(TooNew, match=f"entry 9 has format {unknown}; this version reads 1"):
            shard.machine.apply(9, batch)


def test_tables_do_not_see_each_other() -> None:
    shard = Shard()
    shard.write(frames.TableSpec(id=TABLE + 1, name="u", history=-1))
    shard.put(b"a", b"1")
    assert shard.read(get(b"a"), table=TABLE + 1).revision == 1
    assert shard.read(get(b"a"), table=TABLE + 1).body == b""


@pytest.mark.parametrize(
    "method",
    [
        frames.ETCD_PUT,
        frames.ETCD_DELETE_RANGE,
        frames.ETCD_TXN,
        frames.ETCD_COMPACT,
        frames.REGATTA_PUT,
        frames.REGATTA_DELETE_RANGE,
        frames.REGATTA_TXN,
        frames.TABLE_CREATE,
    ],
)
@pytest.mark.parametrize(
    "body", [b"\xff", b"\x0a\x7f", b"\x0a\x01", b"\x00", b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"]
)
def test_broken_bytes_are_an_answer(method: int, body: bytes) -> None:
    shard = Shard()
    command = frames.Command(
        method=frames.Method.ValueType(method), table_id=TABLE, body=body, request_id=request_id(1)
    )
    before = shard.machine.checksum
    result = shard.apply(command)[0]
    assert type(result.error) is errors.MalformedRequest
    assert shard.machine.checksum == before


# ---- exactly once -------------------------------------------------------------------------------------------------


def test_a_repeated_request_changes_nothing_and_gets_its_first_answer() -> None:
    shard = Shard()
    first = shard.write(put(b"a", b"1", prev_kv=True), request_id=request_id(1))
    other = shard.write(put(b"a", b"2", prev_kv=True), request_id=request_id(2))
    again = shard.write(put(b"a", b"1", prev_kv=True), request_id=request_id(1))
    assert (again.revision, again.body) == (first.revision, first.body) == (2, b"")
    assert shard.write(put(b"a", b"2", prev_kv=True), request_id=request_id(2)).body == other.body != b""
    assert shard.range(b"a")[1].kvs[0].value == b"2"
    refused = shard.write(put(b"miss", ignore_value=True), request_id=request_id(3))
    shard.put(b"miss")
    repeated = shard.write(put(b"miss", ignore_value=True), request_id=request_id(3))
    assert type(refused.error) is type(repeated.error) is errors.KeyNotFound
    assert repeated.revision == refused.revision


def test_a_repeat_within_one_entry() -> None:
    shard = Shard()
    command = shard.command(put(b"a", b"1"), request_id=request_id(1))
    results = shard.apply(command, command, shard.command(put(b"a", b"2")))
    assert [result.revision for result in results] == [2, 2, 3]
    assert shard.range(b"a")[1].kvs[0].version == 2


@pytest.mark.parametrize("restarts", [False, True])
def test_the_window_forgets_by_count_and_by_replicated_time(tmp_path: Path, restarts: bool) -> None:
    limits = WindowLimits(commands_max=3, age_ms_max=1000)
    path = str(tmp_path / "w.db")
    shard = Shard(path, limits=limits)

    def write(number: int) -> bool:
        """Whether the write with this id was taken as new."""
        nonlocal shard
        if restarts:
            index, time_ms = shard.index, shard.time_ms
            shard.connection.close()
            shard = Shard(path, limits=limits, create=False)
            shard.index, shard.time_ms = index, time_ms
        before = shard.machine.table_status()[0].revision
        return shard.write(put(b"k"), request_id=request_id(number)).revision > before

    assert [write(1), write(2), write(3)] == [True] * 3
    assert [write(1), write(2), write(3)] == [False] * 3
    assert write(4)
    assert [write(2), write(3), write(4)] == [False] * 3
    assert write(1), "the fourth pushed the first out"
    shard.time_ms = 5000
    assert not write(4), "time passes only with what is remembered"
    assert write(5)
    assert [write(1), write(3), write(4)] == [True] * 3
    shard.time_ms = 10
    assert shard.machine.time_ms == 5000
    assert write(6)
    assert shard.machine.time_ms == 5000, "time does not go back"
    rows = shard.connection.execute("SELECT count(*), sum(commands) FROM results").fetchone()
    assert rows == (3, 3)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("restarts", [False, True])
def test_young_ids_stay_though_they_are_many(tmp_path: Path, level: int, restarts: bool) -> None:
    """Since a coordinator may still repeat them, under the shard's level that knows of it."""
    limits = WindowLimits(commands_max=3, young_ms=1_000, young_commands_max=6)
    path = str(tmp_path / "w.db")
    shard = Shard(path, limits=limits)
    shard.write(frames.MachineLevel(level=level))

    def held(number: int) -> bool:
        return shard.machine._remembered(request_id(number)) is not None

    for number in range(5):
        shard.time_ms += 100
        shard.write(put(b"k"), request_id=request_id(number))
    if restarts:
        index, time_ms = shard.index, shard.time_ms
        shard.connection.close()
        shard = Shard(path, limits=limits, create=False)
        shard.index, shard.time_ms = index, time_ms
    assert [held(number) for number in range(5)] == [level == 2] * 2 + [True] * 3
    for number in range(5, 8):
        shard.write(put(b"k"), request_id=request_id(number))
    assert [held(number) for number in range(8)] == [False] * 2 + [level == 2] * 3 + [True] * 3, (
        "up to a bound"
    )
    shard.time_ms += 950
    shard.write(put(b"k"), request_id=request_id(8))
    young = [False] * 4 + [level == 2] * 2 + [True] * 3
    assert [held(number) for number in range(9)] == young, "and only as long as they are young"


def test_a_clock_set_forward_does_not_empty_the_window() -> None:
    shard = Shard()
    shard.time_ms = 1_000_000
    shard.write(put(b"a"), request_id=request_id(1))
    shard.time_ms += 3_600_000
    shard.write(put(b"b"), request_id=request_id(2))
    assert shard.write(put(b"a"), request_id=request_id(1)).revision == 2, (
        "an hour in one step is taken for seconds"
    )
    for number in range(3, 40):
        shard.time_ms += 10_000
        shard.write(put(b"c"), request_id=request_id(number))
    again = shard.write(put(b"a"), request_id=request_id(1))
    assert again.revision > 30, "but many steps make an age"


def test_a_clock_that_is_set_forward_does_not_empty_the_window() -> None:
    shard = Shard()
    shard.write(put(b"a", b"1"), request_id=request_id(1))
    shard.time_ms += 86_400_000
    shard.write(put(b"b"), request_id=request_id(2))
    assert shard.write(put(b"a", b"1"), request_id=request_id(1)).revision == 2, "it is retried, and known"
    assert shard.range(b"a")[1].kvs[0].version == 1


@pytest.mark.parametrize("restarts", [False, True])
def test_an_id_outlives_its_answer(tmp_path: Path, restarts: bool) -> None:
    limits = WindowLimits(answer_bytes_max=1 << 20)
    path = str(tmp_path / "w.db")
    shard = Shard(path, limits=limits)
    shard.put(b"a", bytes(400 << 10))
    request = put(b"a", bytes(400 << 10), prev_kv=True)
    first = [shard.write(request, request_id=request_id(number)) for number in range(4)]
    shard.write(put(b"b"), request_id=request_id(4))
    if restarts:
        shard.connection.close()
        reopened = Shard(path, limits=limits, create=False)
        reopened.index, shard = shard.index, reopened
    before = shard.machine.checksum
    again = [shard.write(request, request_id=request_id(number)) for number in range(4)]
    assert [result.revision for result in again] == [result.revision for result in first] == [3, 4, 5, 6]
    assert [type(result.error) for result in again] == [errors.AnswerForgotten] * 2 + [type(None)] * 2
    assert again[2:] == first[2:]
    assert shard.write(put(b"b"), request_id=request_id(4)).error is None, "no bytes, so nothing to forget"
    assert shard.machine.checksum == before
    assert shard.connection.execute("SELECT count(*) FROM answers").get == 2


def test_an_answer_of_many_megabytes_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "ANSWER_KEPT_BYTES_MAX", 1000)
    shard = Shard()
    shard.put(b"a", bytes(2000))
    request = put(b"a", prev_kv=True)
    small = shard.command(put(b"b", b"", prev_kv=True), request_id=request_id(2))
    given, _ = shard.apply(shard.command(request, request_id=request_id(1)), small)
    assert given.error is None
    assert len(given.body) > 2000
    again = shard.write(request, request_id=request_id(1))
    assert (again.revision, type(again.error)) == (3, errors.AnswerForgotten)
    assert shard.apply(small)[0].error is None
    assert shard.range(b"a")[1].kvs[0].version == 2


def test_answers_leave_with_their_ids() -> None:
    shard = Shard(limits=WindowLimits(commands_max=2))
    for number in range(5):
        shard.write(put(b"a", b"%d" % number, prev_kv=True), request_id=request_id(number))
    assert shard.connection.execute("SELECT count(*) FROM results").get == 2
    assert shard.connection.execute("SELECT count(*) FROM answers").get == 2


@pytest.mark.parametrize("in_one_entry", [False, True])
def test_an_id_that_belongs_to_another_request_is_refused(in_one_entry: bool) -> None:
    shard = Shard()
    other = TABLE + 1
    shard.write(frames.TableSpec(id=other, name="u", history=-1))
    first = shard.command(put(b"a", b"1"), request_id=request_id(1))
    others = [
        shard.command(put(b"a", b"2"), request_id=request_id(1)),
        shard.command(put(b"a", b"1"), table=other, request_id=request_id(1)),
        shard.command(delete(b"a"), request_id=request_id(1)),
    ]
    if in_one_entry:
        results = shard.apply(first, *others, first)
    else:
        results = [shard.apply(command)[0] for command in (first, *others, first)]
    assert [type(result.error) for result in results[1:4]] == [errors.RequestIdReused] * 3
    assert results[0] == results[4]
    assert shard.range(b"a")[1].kvs[0].value == b"1"
    assert shard.read(get(b"a"), table=other).body == b""


# ---- rollback and restart -----------------------------------------------------------------------------------------


def test_a_rolled_back_turn_leaves_no_trace() -> None:
    shard = Shard(limits=WindowLimits(commands_max=2))
    shard.write(put(b"a", b"1"), request_id=request_id(1))
    shard.write(put(b"b", b"1"), request_id=request_id(2))
    before = (shard.machine.table_status(), shard.machine.checksum)
    shard.connection.execute("BEGIN IMMEDIATE")
    shard.apply_uncommitted(shard.command(put(b"a", b"2"), request_id=request_id(3)))
    shard.apply_uncommitted(
        shard.command(delete(b"\0", b"\0"), request_id=request_id(4)),
        shard.command(CompactionRequest(revision=2)),
        shard.command(frames.TableSpec(id=5, name="five")),
    )
    shard.machine.compaction_step(100)
    shard.connection.execute("ROLLBACK")
    shard.machine.rollback()
    assert (shard.machine.table_status(), shard.machine.checksum) == before
    assert shard.write(put(b"a", b"1"), request_id=request_id(1)).revision == 2, "still remembered"
    assert shard.write(put(b"a", b"3"), request_id=request_id(3)).revision == 4, "not remembered"
    assert shard.write(frames.TableSpec(id=5, name="five")).error is None


def test_a_full_disk_inside_a_transaction_is_reported_as_such() -> None:
    shard = Shard()
    shard.put(b"k")
    before = (shard.machine.table_status(), shard.rows())
    shard.connection.pragma("max_page_count", shard.connection.pragma("page_count") + 1)
    shard.connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(apsw.FullError):
        shard.apply_uncommitted(shard.command(txn(put(b"a"), put(b"k", bytes(100_000), prev_kv=True))))
    if shard.connection.in_transaction:
        shard.connection.execute("ROLLBACK")
    shard.machine.rollback()
    assert (shard.machine.table_status(), shard.rows()) == before
    assert shard.put(b"a")[0] == 3


class _DiskThatFails(apsw.VFS):
    """The default one, until its reads fail."""

    def __init__(self) -> None:
        super().__init__("disk-that-fails", "")
        self.fails = False

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        disk = self

        class File(apsw.VFSFile):
            def xRead(self, amount: int, offset: int) -> bytes:
                if disk.fails:
                    raise apsw.IOError("the disk is gone")
                return super().xRead(amount, offset)

        return File("", name, flags)


def test_a_failing_disk_is_reported_as_such(tmp_path: Path) -> None:
    """SQLite ends even a read transaction over it, so that there is nothing left to roll back."""
    file = str(tmp_path / "s.db")
    shard, disk = Shard(file), _DiskThatFails()
    for number in range(100):
        shard.put(b"%d" % number, bytes(1000))
    reader = apsw.Connection(file, vfs="disk-that-fails")
    body = get(b"0", b"\0").SerializeToString()
    reads: list[Callable[[], object]] = [
        lambda: shard.read_as(frames.ETCD_RANGE, body, connection=reader),
        lambda: scrub(reader, Position(), 1000),
    ]
    for read in reads:
        disk.fails = False
        reader.execute("SELECT count(*) FROM tables").fetchall()
        disk.fails = True
        with pytest.raises(apsw.IOError, match="the disk is gone"):
            read()


def test_an_error_that_ended_the_transaction_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard()

    def fill_the_disk(connection: apsw.Connection) -> None:
        connection.execute("ROLLBACK")
        raise apsw.FullError("full")

    monkeypatch.setattr(memory, "create_schema", fill_the_disk)
    with pytest.raises(apsw.FullError):
        shard.machine.reload()


def test_reload_reads_what_another_database_holds(tmp_path: Path) -> None:
    left, right = Shard(str(tmp_path / "l.db")), Shard(str(tmp_path / "r.db"))
    right.write(put(b"a", b"1"), request_id=request_id(1))
    left.put(b"x")
    right.connection.close()
    left.machine.reload(apsw.Connection(str(tmp_path / "r.db")))
    left.connection.close()
    left.connection = left.machine._connection
    assert keys(left.range(b"\0", b"\0")[1]) == [b"a"]
    left.index = 50
    assert left.write(put(b"a", b"1"), request_id=request_id(1)).revision == 2


@pytest.mark.parametrize(
    "damage",
    [
        *(f"{column} = {column} + 1" for column in ("time_ms", "age_clock_ms", "commands", "crc")),
        "data = x''",
    ],
)
def test_damaged_results_are_never_believed(damage: str) -> None:
    shard = Shard(limits=WindowLimits(commands_max=3))
    shard.put(b"k", b"revised")
    shard.write(put(b"a"), request_id=request_id(1))
    shard.write(put(b"k", b"", prev_kv=True), request_id=request_id(2))
    shard.write(put(b"b"), request_id=request_id(3))
    shard.connection.execute(f"UPDATE results SET {damage} WHERE log_index = {shard.index - 1}")  # noqa: S608 - constants
    assert shard.connection.changes() == 1
    refused = f"row of the results of log index {shard.index - 1} fails its checksum"
    with pytest.raises(errors.Corrupt, match=refused):
        shard.machine.reload()
    with pytest.raises(errors.Corrupt, match=refused):
        shard.write(put(b"k"), request_id=request_id(2))
    shard.connection.execute("ROLLBACK")
    with pytest.raises(errors.Corrupt, match=refused):
        shard.write(put(b"c"), request_id=request_id(4))  # which the oldest has to make room for


@pytest.mark.parametrize(
    "damage", ["crc = crc + 1", "data = CAST(replace(data, 'revised', 'revises') AS BLOB)"]
)
def test_damaged_answers_are_never_believed(damage: str) -> None:
    shard = Shard()
    shard.put(b"k", b"revised")
    request = put(b"k", b"", prev_kv=True)
    shard.write(request, request_id=request_id(2))
    shard.connection.execute(f"UPDATE answers SET {damage} WHERE log_index = {shard.index}")  # noqa: S608 - constants
    assert shard.connection.changes() == 1
    with pytest.raises(
        errors.Corrupt, match=f"row of the answers of log index {shard.index} fails its checksum"
    ):
        shard.machine.reload()
    with pytest.raises(errors.Corrupt, match="fails its checksum"):
        shard.write(request, request_id=request_id(2))
    shard.connection.execute("ROLLBACK")
    shard.connection.execute("DELETE FROM answers")
    with pytest.raises(errors.Corrupt, match="answers is missing"):
        shard.write(request, request_id=request_id(2))


def test_vanished_results_are_noticed_when_they_are_asked_for() -> None:
    shard = Shard()
    shard.write(put(b"a"), request_id=request_id(1))
    shard.connection.execute("DELETE FROM results")
    with pytest.raises(errors.Corrupt, match="missing"):
        shard.write(put(b"a"), request_id=request_id(1))


def test_equal_commands_give_equal_checksums_and_others_do_not() -> None:
    def run(*values: bytes) -> int:
        shard = Shard()
        for value in values:
            shard.put(b"k", value)
        return shard.machine.table_status()[0].checksum

    assert run(b"1", b"2") == run(b"1", b"2")
    assert run(b"1", b"2") != run(b"2", b"1")
    one, two = Shard(), Shard()
    for shard, order in ((one, (b"a", b"b")), (two, (b"b", b"a"))):
        shard.put(b"a")
        shard.put(b"b")
        shard.write(txn(*[delete(key) for key in order]))
    assert one.machine.checksum != two.machine.checksum


# ---- limits -------------------------------------------------------------------------------------------------------


def test_an_answer_that_would_be_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard()
    for number in range(4):
        shard.put(b"k%d" % number, bytes(1000))
    monkeypatch.setattr(writer, "WRITE_ANSWER_BYTES_MAX", 2500)
    monkeypatch.setattr(view, "ANSWER_BYTES_MAX", 2500)
    assert shard.error(get(b"k", b"l")) is errors.AnswerTooLarge
    assert len(shard.range(b"k", b"l", limit=2)[1].kvs) == 2
    before = shard.machine.checksum
    request = txn(put(b"k0", bytes(900)), delete(b"k1"), get(b"k", b"l"))
    result = shard.write(request, request_id=request_id(1))
    assert type(result.error) is errors.AnswerTooLarge
    assert result.revision == 5
    assert shard.machine.checksum == before
    assert [len(kv.value) for kv in shard.range(b"k", b"l", limit=2)[1].kvs] == [1000, 1000]
    assert type(shard.write(delete(b"k", b"l", prev_kv=True)).error) is errors.AnswerTooLarge
    assert shard.write(delete(b"k", b"l")).error is None


def test_the_answers_of_one_entry_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are stored as one row, and SQLite's rows have an end."""
    shard = Shard()
    for number in range(2):
        shard.put(b"k%d" % number, bytes(1000))
    monkeypatch.setattr(machine, "ENTRY_ANSWERS_BYTES_MAX", 5000)
    shard.connection.limit(apsw.SQLITE_LIMIT_LENGTH, 8000)
    request = txn(put(b"a"), get(b"k", b"l"))
    results = shard.apply(*[shard.command(request, request_id=request_id(number)) for number in range(5)])
    assert [result.revision for result in results] == [4, 5, 5, 5, 5]
    assert [type(result.error) for result in results[2:]] == [errors.AnswerTooLarge] * 3
    assert shard.write(request, request_id=request_id(2)).error is not None, "the first result stays"
    assert shard.write(request, request_id=request_id(9)).error is None


def test_a_regatta_transaction_whose_answer_is_too_large_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shard = Shard()
    for number in range(4):
        shard.put(b"k%d" % number, bytes(1000))
    monkeypatch.setattr(writer, "WRITE_ANSWER_BYTES_MAX", 2500)
    before = (shard.machine.checksum, shard.rows())
    change = RequestOp(request_put=RequestOp.Put(key=b"a"))
    ranges = RequestOp(request_range=RequestOp.Range(key=b"k", range_end=b"l"))
    result = shard.write(regatta_pb2.TxnRequest(table=b"t", success=[change, ranges]))
    assert type(result.error) is errors.AnswerTooLarge
    assert (shard.machine.checksum, shard.rows()) == before
    assert shard.put(b"a")[0] == 6


def test_values_that_puts_keep_are_no_part_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard()
    for number in range(4):
        shard.put(b"k%d" % number, bytes(1000))
    monkeypatch.setattr(writer, "WRITE_ANSWER_BYTES_MAX", 2500)
    result = shard.write(txn(*[put(b"k%d" % number, ignore_value=True) for number in range(4)]))
    assert result.error is None
    assert result.revision == 6
    assert shard.put(b"a")[0] == 7


def test_regatta_ranges_and_deletes_count_with_what_they_return(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard()
    for number in range(4):
        shard.put(b"k%d" % number, bytes(1000))
    monkeypatch.setattr(writer, "WRITE_ANSWER_BYTES_MAX", 2500)
    monkeypatch.setattr(view, "ANSWER_BYTES_MAX", 2500)

    def in_txn(*ranges: RequestOp.Range) -> type[errors.BoathouseError] | None:
        operations = [RequestOp(request_range=request) for request in ranges]
        request = regatta_pb2.TxnRequest(table=b"t", success=operations)
        writing = regatta_pb2.TxnRequest(table=b"t", success=[*operations, RequestOp()])
        body = request.SerializeToString()
        error = shard.read_as(frames.REGATTA_TXN, body).error
        assert type(shard.write(writing).error) is type(error)
        return None if error is None else type(error)

    one = RequestOp.Range(key=b"k1")
    assert in_txn(one, one) is None
    assert in_txn(one, one, one) is errors.AnswerTooLarge
    assert in_txn(*[RequestOp.Range(key=b"k1", keys_only=True)] * 3) is None
    assert in_txn(RequestOp.Range(key=b"k", range_end=b"l", limit=2)) is None
    assert in_txn(RequestOp.Range(key=b"k", range_end=b"l")) is errors.AnswerTooLarge
    assert in_txn(RequestOp.Range(key=b"k", range_end=b"l", keys_only=True)) is None
    deletes = [
        RequestOp(request_delete_range=RequestOp.DeleteRange(key=key, range_end=key + b"\0", prev_kv=True))
        for key in (b"k1", b"k2", b"k3")
    ]
    refused = shard.write(regatta_pb2.TxnRequest(table=b"t", success=deletes)).error
    assert type(refused) is errors.AnswerTooLarge
    keys_only = regatta_pb2.RangeRequest(key=b"k", range_end=b"l", keys_only=True)
    parts = list(shard.iterate(keys_only.SerializeToString()))
    assert [regatta_pb2.RangeResponse.FromString(part.body).count for part in parts] == [4]


@pytest.mark.parametrize("revision", [0, 4])
def test_keys_without_values_count_without_values(monkeypatch: pytest.MonkeyPatch, revision: int) -> None:
    shard = Shard()
    for number in range(4):
        shard.put(b"k%d" % number, bytes(1000))
    monkeypatch.setattr(writer, "WRITE_ANSWER_BYTES_MAX", 2500)
    monkeypatch.setattr(view, "ANSWER_BYTES_MAX", 2500)
    for options in (
        {},
        {"limit": 3},
        {"sort_order": 2},
        {"sort_target": 3, "limit": 2},
        {"min_mod_revision": 2},
    ):
        request = get(b"k", b"l", keys_only=True, revision=revision, **options)
        response = shard.range(b"k", b"l", keys_only=True, revision=revision, **options)[1]
        assert len(response.kvs) == options.get("limit", 3 if revision else 4)
        assert shard.write(txn(put(b"k0", bytes(1000)), request)).error is None
    single = [get(b"k1", keys_only=True, revision=revision), get(b"k1", count_only=True, revision=revision)]
    assert shard.write(txn(put(b"a"), *single * 3)).error is None
    assert (
        shard.error(get(b"k", b"l", revision=revision, sort_target=4, keys_only=True))
        is errors.AnswerTooLarge
    )


def test_a_revision_holds_a_bounded_number_of_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHANGES_MAX", 4)
    shard = Shard()
    for number in range(5):
        shard.put(b"k%d" % number)
    before = shard.machine.checksum
    assert type(shard.write(delete(b"k", b"l")).error) is errors.TooManyOps
    assert type(shard.write(txn(*[put(b"n%d" % n) for n in range(5)])).error) is errors.TooManyOps
    assert type(shard.write(txn(put(b"n"), delete(b"k0", b"k4"))).error) is errors.TooManyOps
    assert shard.machine.checksum == before
    assert shard.range(b"\0", b"\0", count_only=True)[1].count == 5
    assert shard.write(delete(b"k0", b"k4")).error is None


def test_revision_ids_fit() -> None:
    assert (tables.REVISION_MAX + 1) << tables.SUB_BITS == 1 << 63


# ---- history and compaction ---------------------------------------------------------------------------------------


def test_without_history_only_the_newest_version_is_kept() -> None:
    shard = Shard(history=0)
    for value in b"123":
        shard.put(b"a", bytes([value]))
    assert shard.rows() == [(4, b"a", True)]
    assert shard.error(get(b"a", revision=3)) is errors.Compacted
    assert shard.range(b"a", revision=4)[1].kvs[0].value == b"3"
    assert shard.error(CompactionRequest(revision=4)) is errors.Compacted
    shard.delete(b"a")
    assert shard.rows() == [(5, b"a", False)], "the tombstone of the newest revision stays"
    shard.put(b"b")
    shard.sweep()
    assert shard.rows() == [(6, b"b", True)]
    assert shard.connection.execute("SELECT count(*) FROM t10001_dead").fetchone() == (0,)


def test_the_newest_n_revisions_can_be_read() -> None:
    shard = Shard(history=3)
    for number in range(2, 9):
        assert shard.put(b"a", b"%d" % number)[0] == number
    assert shard.machine.table_status()[0].compacted_revision == 6
    assert shard.error(get(b"a", revision=5)) is errors.Compacted
    for swept in (False, True):
        for revision in (6, 7, 8):
            assert shard.range(b"a", revision=revision)[1].kvs[0].value == b"%d" % revision
        if not swept:
            shard.sweep()
    assert [revision for revision, _, _ in shard.rows()] == [6, 7, 8]
    shard.write(CompactionRequest(revision=8))
    assert shard.error(get(b"a", revision=7)) is errors.Compacted


def test_a_busy_table_does_not_keep_others_from_being_swept() -> None:
    shard = Shard(history=1)
    other = TABLE + 1
    shard.write(frames.TableSpec(id=other, name="other", history=-1))
    for value in b"123":
        shard.write(put(b"k", bytes([value])), table=other)
    shard.write(CompactionRequest(revision=4), table=other)
    for number in range(4):
        shard.put(b"k%d" % number)
        assert shard.sweep_once(1000)
    assert len(shard.rows(other)) == 1


def test_a_tombstone_at_the_compacted_revision_stays_until_the_next_compaction() -> None:
    shard = Shard()
    shard.put(b"a")
    shard.put(b"b")
    shard.delete(b"a")
    shard.put(b"c")
    shard.write(CompactionRequest(revision=4))
    shard.sweep(1)
    assert shard.rows() == [(3, b"b", True), (4, b"a", False), (5, b"c", True)]
    shard.write(CompactionRequest(revision=5))
    assert not shard.machine.is_swept(TABLE, 5)
    shard.sweep(1)
    assert shard.machine.is_swept(TABLE, 5)
    assert shard.rows() == [(3, b"b", True), (5, b"c", True)]


def test_compaction_steps_are_small_and_go_on_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "c.db")
    shard = Shard(path)
    shard.apply(*[shard.command(put(b"k%d" % (n % 10), b"%d" % n)) for n in range(100)])
    shard.write(CompactionRequest(revision=101))
    assert len(shard.rows()) == 100, "compaction itself removes nothing"
    assert shard.sweep_once(30) == 30
    left = len(shard.rows())
    assert left > 10
    shard.connection.close()
    shard = Shard(path, create=False)
    steps = 0
    while shard.sweep_once(30):
        steps += 1
    assert steps == 3
    assert len(shard.rows()) == 10
    assert [kv.value for kv in shard.range(b"k", b"l", revision=101)[1].kvs] == [
        b"%d" % n for n in range(90, 100)
    ]


def test_reading_the_past_of_keys_that_came_and_went() -> None:
    shard = Shard()
    shard.put(b"a", b"1")
    shard.delete(b"a")
    shard.put(b"a", b"2")
    shard.delete(b"\0", b"\0")
    shard.put(b"a", b"3")
    expected = {1: [], 2: [b"1"], 3: [], 4: [b"2"], 5: [], 6: [b"3"]}
    for revision, values in expected.items():
        for end in (b"", b"\0"):
            response = shard.range(b"a", end, revision=revision)[1]
            assert [kv.value for kv in response.kvs] == values, revision
            assert response.count == len(values)
            assert shard.range(b"a", end, revision=revision, count_only=True)[1].count == len(values)


def test_a_reader_of_its_own_sees_its_own_snapshot(tmp_path: Path) -> None:
    shard = Shard(str(tmp_path / "s.db"))
    shard.connection.pragma("journal_mode", "wal")
    reader = apsw.Connection(str(tmp_path / "s.db"), apsw.SQLITE_OPEN_READONLY)
    shard.put(b"a", b"1")
    body = RangeRequest(key=b"a").SerializeToString()
    reader.execute("BEGIN")
    assert shard.read_as(frames.ETCD_RANGE, body, connection=reader).revision == 2
    shard.put(b"a", b"2")
    shard.write(CompactionRequest(revision=3))
    shard.sweep()
    old = shard.read_as(frames.ETCD_RANGE, body, connection=reader)
    assert (old.revision, b"1" in old.body) == (2, True)
    assert reader.in_transaction, "a transaction that was there before stays open"
    reader.execute("ROLLBACK")
    assert shard.read_as(frames.ETCD_RANGE, body, connection=reader).revision == 3
    assert not reader.in_transaction


def test_status_of_a_table() -> None:
    shard = Shard()
    shard.put(b"a")
    result = shard.read_as(frames.TABLE_STATUS, b"")
    status = frames.TableStatus.FromString(result.body)
    assert status.auth_version
    status.ClearField("auth_version")
    assert status == shard.machine.table_status()[0]
    assert (status.keys, status.revision, status.compacted_revision, status.history) == (1, 2, -1, -1)
    assert status.checksum


def test_the_machine_can_be_built_inside_a_transaction() -> None:
    connection = apsw.Connection(":memory:")
    connection.execute("BEGIN IMMEDIATE")
    machine = StateMachine(connection, 1)
    connection.execute("COMMIT")
    machine.committed()
    body = PutRequest(key=b"a").SerializeToString()
    command = frames.Command(method=frames.ETCD_PUT, table_id=1, body=body, request_id=request_id(1))
    connection.execute("BEGIN IMMEDIATE")
    assert machine.apply(1, frames.CommandBatch(commands=[command], format=FORMAT))[0].revision == 2


def test_a_log_entry_that_no_leader_proposes_stops_the_replica() -> None:
    shard = Shard()
    command = shard.command(put(b"a"), request_id=b"short")
    with pytest.raises(UnreadableEntry, match="entry 9 holds a command whose id has 5 bytes instead of 16"):
        shard.machine.apply(9, frames.CommandBatch(commands=[command], format=FORMAT))
    with pytest.raises(UnreadableEntry, match="entry 9 is of the time"):
        shard.machine.apply(9, frames.CommandBatch(time_ms=1 << 63, format=FORMAT))
