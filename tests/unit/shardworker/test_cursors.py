"""When an iteration ends before its client ends it, who may open one, and what is said then."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import KEYS, TABLE, VALUE, Bench, iteration

if TYPE_CHECKING:
    from pathlib import Path

TICK_MS = 100


def filled(folder: Path, **limits: int) -> Bench:
    bench = Bench(folder, members(1), limits=limits)
    bench.core.campaign()
    bench.replica.turn()
    bench.fill()
    return bench


def opened(bench: Bench, client: int = 0) -> int:
    cursor = bench.answer(bench.ask(frames.REGATTA_ITERATE, iteration(), client=client)).cursor
    assert cursor
    return cursor


def read_on(bench: Bench, cursor: int) -> frames.Reply:
    return bench.answer(bench.ask(frames.CURSOR_NEXT, cursor=cursor))


def test_a_cursor_ends_when_it_is_too_old_however_it_is_read(tmp_path: Path) -> None:
    bench = filled(tmp_path, cursor_lifetime_ms=3 * TICK_MS)
    cursor = opened(bench)
    for _ in range(3):
        bench.tick()
    assert bench.replica.status().statistics["cursors_open"] == 1
    bench.tick()
    with pytest.raises(errors.CursorNotFound, match=r"it was open for 0\.3 s"):
        read_on(bench, cursor)
    assert bench.replica.status().statistics["cursors_open"] == 0
    bench.store.close()


def test_a_cursor_ends_when_nobody_reads_on(tmp_path: Path) -> None:
    bench = filled(tmp_path, cursor_idle_ms=2 * TICK_MS)
    idle, read = opened(bench), opened(bench)
    for _ in range(3):
        bench.tick()
        if read:
            read = read_on(bench, read).cursor
    with pytest.raises(errors.CursorNotFound, match=r"nobody read on for 0\.2 s"):
        read_on(bench, idle)
    bench.store.close()


def test_a_part_that_nobody_waits_for_any_more_ends_with_its_cursor(tmp_path: Path) -> None:
    bench = filled(tmp_path)
    cursor = opened(bench)
    bench.jobs.may_end = False
    call = bench.ask(frames.CURSOR_NEXT, cursor=cursor)
    for _ in range(bench.cluster.limits.read_timeout_ms // TICK_MS + 2):
        bench.tick()
    bench.jobs.may_end = True
    bench.work()
    with pytest.raises(errors.ReadTimedOut):
        bench.answer(call)
    assert bench.replica.status().statistics["cursors_open"] == 0
    bench.store.close()


def test_the_oldest_cursor_ends_when_the_log_it_pins_is_too_long(tmp_path: Path) -> None:
    bench = filled(tmp_path, cursor_wal_bytes_max=8 * len(VALUE))
    old = opened(bench)
    for number in range(9):
        bench.write(frames.ETCD_PUT, etcd.PutRequest(key=b"%d" % number, value=VALUE).SerializeToString())
    young = opened(bench)
    bench.tick()
    with pytest.raises(errors.CursorNotFound, match=r"the write-ahead log had grown to \d+ bytes"):
        read_on(bench, old)
    assert read_on(bench, young).body
    bench.store.close()


def test_an_answer_in_a_file_waits_for_a_slow_reader_until_the_disk_needs_the_room(tmp_path: Path) -> None:
    bench = filled(tmp_path, cursor_lifetime_ms=TICK_MS)
    cursors = [bench.answer(bench.ask(frames.TABLE_BACKUP)).cursor for _ in range(2)]
    for number in (*cursors, *cursors):
        assert read_on(bench, number).cursor
    for _ in range(5):
        bench.tick()
    assert bench.replica.status().statistics["cursors_open"] == 2, "they are in their files, however old"
    bench.disk.free = bench.cluster.store.disk_free_bytes_min - 1
    bench.tick()
    with pytest.raises(errors.CursorNotFound, match=r"the disk of node 1 had \d+ bytes left"):
        read_on(bench, cursors[0])
    bench.disk.free = bench.cluster.store.disk_free_bytes_min
    bench.tick()
    assert read_on(bench, cursors[1]).body
    bench.store.close()


@pytest.mark.parametrize("method", [frames.TABLE_BACKUP, frames.TABLE_PAIRS])
def test_a_table_of_any_size_is_put_into_a_file_however_busy_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: frames.Method.ValueType
) -> None:
    """One that ended because of its age or of the log would begin again, for ever."""
    monkeypatch.setattr("shardworker.spool.STEP_BYTES", len(VALUE))
    monkeypatch.setattr("shardworker.replica.cursors.PAIRS_IN_FILE_FROM_BYTES", KEYS * len(VALUE))
    bench = filled(tmp_path, cursor_lifetime_ms=TICK_MS, cursor_wal_bytes_max=8 * len(VALUE))
    bench.jobs.may_end = False
    call = bench.ask(method)
    bench.jobs.end_one()
    for number in range(9):
        bench.write(frames.ETCD_PUT, etcd.PutRequest(key=b"%d" % number, value=VALUE).SerializeToString())
    for _ in range(3):
        bench.tick()
    bench.jobs.may_end = True
    bench.work()
    reply = bench.answer(call)
    bodies = [reply.body]
    while reply.cursor:
        reply = read_on(bench, reply.cursor)
        bodies.append(reply.body)
    assert len([body for body in bodies if len(body) >= len(VALUE)]) == KEYS
    bench.store.close()


def being_filled(bench: Bench) -> int:
    """The call of a backup of which a first step is in its file, and no job ends by itself any more."""
    bench.jobs.may_end = False
    call = bench.ask(frames.TABLE_BACKUP)
    assert call not in bench.replies
    bench.jobs.end_one()
    bench.work()
    return call


def test_parts_leave_while_their_file_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardworker.spool.STEP_BYTES", len(VALUE))
    bench = filled(tmp_path)
    call = being_filled(bench)
    bench.jobs.end_one()
    bench.jobs.end_one()
    bench.work()
    assert bench.answer(call).cursor
    (file,) = tmp_path.rglob("snapshot-of-table-*")
    assert file.stat().st_size < KEYS * len(VALUE)
    assert bench.jobs.waiting_count == 1
    assert bench.replica.drained(), "who stops waits for no file that nobody can read then"
    bench.jobs.may_end = True
    bench.work()
    assert file.stat().st_size > KEYS * len(VALUE), "it is written on, though nobody reads"
    bench.store.close()


def test_who_waits_for_a_part_hears_why_its_file_is_not_written_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardworker.spool.STEP_BYTES", 1)
    bench = filled(tmp_path)
    call = being_filled(bench)
    bench.disk.free = 0
    bench.tick()
    with pytest.raises(errors.CursorNotFound, match="the disk of node 1 had 0 bytes left"):
        bench.answer(call)
    assert bench.jobs.waiting_count == 1, "a thread is at it, and nobody removes it"
    bench.jobs.may_end = True
    bench.work()
    assert not files_of_snapshots(tmp_path)
    bench.store.close()


def test_a_disk_that_takes_no_more_of_a_file_ends_its_cursor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardworker.spool.STEP_BYTES", 1)
    bench = filled(tmp_path)
    call = being_filled(bench)

    def fail(path: Path, _offset: int, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(bench.disk, "write", fail, raising=False)
    bench.jobs.may_end = True
    bench.work()
    with pytest.raises(errors.NoSpace, match="the disk did not take"):
        bench.answer(call)
    assert not files_of_snapshots(tmp_path)
    assert bench.replica.status().statistics["cursors_open"] == 0
    bench.store.close()


def test_the_pairs_of_a_small_table_need_no_room_on_the_disk(tmp_path: Path) -> None:
    bench = filled(tmp_path)
    bench.disk.free = 0
    reply = bench.answer(bench.ask(frames.TABLE_PAIRS))
    assert reply.body
    assert reply.cursor
    assert not files_of_snapshots(tmp_path)
    bench.tick()
    assert read_on(bench, reply.cursor).body, "it holds no file that the disk wants back"
    bench.store.close()


def test_pairs_that_have_no_room_on_the_disk_leave_without_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardworker.replica.cursors.PAIRS_IN_FILE_FROM_BYTES", KEYS * len(VALUE))
    bench = filled(tmp_path)
    reserve = bench.cluster.store.disk_free_bytes_min
    bench.disk.free = reserve + (KEYS + 1) * len(VALUE)  # no twice of it: it has no past
    assert bench.answer(bench.ask(frames.TABLE_PAIRS)).body
    assert len(files_of_snapshots(tmp_path)) == 1
    bench.disk.free = reserve + (KEYS - 1) * len(VALUE)
    assert bench.answer(bench.ask(frames.TABLE_PAIRS)).body
    assert len(files_of_snapshots(tmp_path)) == 1
    bench.store.close()


def files_of_snapshots(folder: Path) -> list[str]:
    return [file.name for file in folder.rglob("snapshot-of-table-*")]


def test_a_file_that_cannot_be_read_ends_its_cursor_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = filled(tmp_path)

    def fail(path: Path, _offset: int, _length: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(bench.disk, "read", fail, raising=False)
    call = bench.ask(frames.TABLE_BACKUP)
    with pytest.raises(errors.CursorNotFound, match="can't be read: Input/output error"):
        bench.answer(call)
    bench.work()
    assert not files_of_snapshots(tmp_path)
    assert bench.replica.status().statistics["cursors_open"] == 0
    bench.store.close()


def test_a_file_is_removed_beside_the_loop(tmp_path: Path) -> None:
    bench = filled(tmp_path)
    reply = bench.answer(bench.ask(frames.TABLE_BACKUP))
    assert files_of_snapshots(tmp_path)
    bench.jobs.may_end = False
    bench.answer(bench.ask(frames.CURSOR_CLOSE, cursor=reply.cursor))
    assert files_of_snapshots(tmp_path), "it may be large"
    bench.jobs.may_end = True
    bench.work()
    assert not files_of_snapshots(tmp_path)
    bench.store.close()


def test_a_cursor_that_is_unknown_is_said_to_be(alone: Bench) -> None:
    with pytest.raises(
        errors.CursorNotFound, match="was never opened here, has ended, or the worker restarted"
    ):
        read_on(alone, 77)


def test_one_client_cannot_take_all_cursors(tmp_path: Path) -> None:
    bench = filled(tmp_path, cursors_per_client_max=2, cursors_per_table_max=3)
    opened(bench, client=1)
    second = opened(bench, client=1)
    with pytest.raises(errors.TooManyCursors, match="this client has 2 iterations open"):
        opened(bench, client=1)
    opened(bench, client=2)
    with pytest.raises(errors.TooManyCursors, match="3 iterations of this table are open"):
        opened(bench, client=3)
    bench.answer(bench.ask(frames.CURSOR_CLOSE, cursor=second))
    opened(bench, client=1)
    bench.replica.status()
    bench.store.close()


def test_the_cursors_of_a_replica_are_bounded(tmp_path: Path) -> None:
    bench = filled(tmp_path, cursors_max=1)
    opened(bench)
    with pytest.raises(errors.TooManyCursors, match="1 iterations are open on this replica"):
        opened(bench)
    assert bench.replica.status().tables[-1].id == TABLE
    bench.store.close()


def test_an_iteration_ends_with_its_table(tmp_path: Path) -> None:
    bench = filled(tmp_path)
    cursor = opened(bench)
    name = bench.replica.status().tables[0].name
    bench.write(frames.TABLE_DELETE, frames.TableSpec(id=TABLE, name=name).SerializeToString())
    assert bench.replica.status().statistics["cursors_open"] == 0
    with pytest.raises(errors.TableNotFound, match="deleted while it was read"):
        read_on(bench, cursor)
    bench.store.close()


def test_a_disk_that_takes_nothing_any_more_ends_the_oldest_once_nothing_is_held_back(tmp_path: Path) -> None:
    bench = filled(tmp_path)
    bench.tick()
    first, second = opened(bench), opened(bench)
    assert bench.store.spare.held_bytes
    make_room = bench.replica._disk_space.make_room
    make_room()
    assert not bench.store.spare.held_bytes
    assert bench.replica.status().statistics["cursors_open"] == 2
    make_room()
    with pytest.raises(errors.CursorNotFound, match="the disk of node 1 is full"):
        read_on(bench, first)
    read_on(bench, second)
    bench.store.close()
