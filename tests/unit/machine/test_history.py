"""What can be read of the past, and what compaction takes of it, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw

from proto import errors
from proto.etcd.rpc_pb2 import CompactionRequest, RangeRequest
from proto.internal import frames_pb2 as frames
from tests.unit.machine.shard import TABLE, Shard, get, put

if TYPE_CHECKING:
    from pathlib import Path


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
