"""What a rolled back turn, a failing disk, a restart and damaged rows leave of the state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw
import pytest

from proto import errors
from proto.etcd.rpc_pb2 import CompactionRequest, PutRequest
from proto.internal import frames_pb2 as frames
from shardworker.machine import FORMAT, StateMachine, WindowLimits, memory
from shardworker.machine.scrub import Position, scrub
from tests.unit.machine.shard import Shard, delete, get, keys, put, request_id, txn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
