"""What a replica tells those who follow a table: when, from where, and what it does not keep for anybody."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.machine import history
from shardworker.raft import MessageKind
from shardworker.replica import feed, recent_changes
from tests.unit.machine import copying
from tests.unit.machine.shard import TABLE as ORIGIN
from tests.unit.raft.lab import message
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import CLIENT, SHARD, TABLE, Bench

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from google.protobuf.message import Message

    from tests.unit.machine.shard import Shard


class Reader(Bench):
    """A replica with one table, and somebody who asks what has changed there."""

    def create(self, history: int = -1) -> None:
        spec = frames.TableSpec(id=self._table, name="t", history=history)
        self.write(frames.TABLE_CREATE, spec.SerializeToString())

    def put(self, key: bytes, value: bytes = b"v") -> None:
        self.write(frames.ETCD_PUT, etcd.PutRequest(key=key, value=value).SerializeToString())

    def compact(self, revision: int) -> None:
        self.write(frames.ETCD_COMPACT, etcd.CompactionRequest(revision=revision).SerializeToString())

    def changes(
        self,
        first: int,
        wait_ms: int = 0,
        *,
        prev: bool = True,
        exact: bool = False,
        checksum: int | None = None,
    ) -> int:
        request = frames.ChangesRequest(
            from_revision=first, wait_ms=wait_ms, prev=prev, exact=exact, checksum=checksum
        )
        return self.ask(frames.TABLE_CHANGES, request.SerializeToString())

    def told(self, call: int) -> frames.TableChanges:
        return frames.TableChanges.FromString(self.answer(call).body)

    def figures(self) -> Mapping[str, int]:
        (part,) = (part for part in self.replica._parts if isinstance(part, feed.Feed))
        return part.statistics()

    def follow(self, first: int, *, prev: bool = True) -> frames.TableChanges:
        return self.told(self.changes(first, wait_ms=1000, prev=prev))


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with _reader(tmp_path, TABLE) as bench:
        yield bench


@contextmanager
def _reader(folder: Path, table: int) -> Iterator[Reader]:
    bench = Reader(folder / "alone", members(1), table=table)
    bench.core.campaign()
    bench.replica.turn()
    yield bench
    bench.store.close()


def said(told: frames.TableChanges) -> list[tuple[int, list[tuple[bytes, bytes | None, bytes | None]]]]:
    return [
        (each.revision, [(key.key, value(key.kv), value(key.prev)) for key in each.keys])
        for each in told.revisions
    ]


def value(stored: bytes) -> bytes | None:
    return etcd.RangeResponse.FromString(stored).kvs[0].value if stored else None


def test_a_follower_waits_for_the_next_change_and_is_told_with_its_turn(reader: Reader) -> None:
    reader.create()
    call = reader.changes(2, wait_ms=1000)
    assert call not in reader.replies
    reader.put(b"a", b"1")
    told = reader.told(call)
    assert (told.first, told.through, said(told)) == (2, 2, [(2, [(b"a", b"1", None)])])


def test_who_watches_is_told_ahead_of_who_wrote(reader: Reader) -> None:
    reader.create()
    call = reader.changes(2, wait_ms=1000)
    reader.put(b"a")
    assert list(reader.replies)[-2:] == [call, max(reader.replies)]


def test_what_is_kept_and_what_the_log_holds_are_told_alike(reader: Reader) -> None:
    reader.create()
    for number in range(3):
        reader.put(b"a", b"%d" % number)
    from_log = reader.told(reader.changes(2))
    assert said(from_log) == [
        (2, [(b"a", b"0", None)]),
        (3, [(b"a", b"1", b"0")]),
        (4, [(b"a", b"2", b"1")]),
    ]
    assert (from_log.first, from_log.through) == (2, 4)
    waiting = reader.changes(5, wait_ms=1000)
    reader.put(b"a", b"3")
    reader.put(b"b", b"4")
    assert said(reader.told(waiting)) == [(5, [(b"a", b"3", b"2")])]
    assert said(reader.follow(5)) == [(5, [(b"a", b"3", b"2")]), (6, [(b"b", b"4", None)])]
    assert said(reader.follow(6)) == said(reader.told(reader.changes(6)))


def test_where_the_table_stands(reader: Reader) -> None:
    reader.create()
    reader.put(b"a")
    told = reader.told(reader.changes(0))
    assert (told.first, told.through, list(told.revisions)) == (3, 2, [])
    told = reader.told(reader.changes(1))
    assert (told.first, told.through) == (1, 2)
    with pytest.raises(errors.MalformedRequest):
        reader.answer(reader.ask(frames.TABLE_CHANGES, b"\xff"))


def test_nothing_is_told_when_the_wait_is_over(reader: Reader) -> None:
    reader.create()
    call = reader.changes(2, wait_ms=3 * reader.cluster.raft.tick_ms)
    assert reader.replica.ticks_until_action() <= 3
    for _ in range(2):
        reader.tick()
        assert call not in reader.replies
    reader.tick()
    told = reader.told(call)
    assert (told.first, told.through) == (2, 1)


def test_compaction_takes_nothing_from_a_follower_and_all_from_a_reader_of_the_past(reader: Reader) -> None:
    reader.create()
    reader.changes(2, wait_ms=1000)
    for number in range(4):
        reader.put(b"a", b"%d" % number)
    reader.compact(5)
    assert [revision for revision, _ in said(reader.follow(3))] == [3, 4, 5]
    told = reader.told(reader.changes(4))
    assert (told.floor, told.through) == (5, 3)
    at_floor = reader.told(reader.changes(5))
    assert said(at_floor) == [(5, [(b"a", b"3", None)])], "as the log would tell it"


def test_a_pair_before_is_told_only_if_its_revision_can_be_read(reader: Reader) -> None:
    reader.create()
    for number in range(3):
        reader.put(b"a", b"%d" % number)
    reader.compact(3)
    assert said(reader.told(reader.changes(3))) == [
        (3, [(b"a", b"1", None)]),
        (4, [(b"a", b"2", b"1")]),
    ]


@pytest.mark.parametrize("history", [-1, 0])
def test_pairs_before_are_looked_up_once_somebody_asks(reader: Reader, history: int) -> None:
    reader.create(history)
    reader.changes(2, wait_ms=1000, prev=False)
    for number in range(3):
        reader.put(b"a", b"%d" % number)
    told = reader.follow(2, prev=False)
    assert not told.prev
    assert said(told) == [(number + 2, [(b"a", b"%d" % number, None)]) for number in range(3)]
    told = reader.follow(3)
    assert told.prev
    kept = history != 0
    assert said(told) == [
        (3, [(b"a", b"1", b"0" if kept else None)]),
        (4, [(b"a", b"2", b"1" if kept else None)]),
    ]
    reader.put(b"a", b"3")
    told = reader.follow(5)
    assert told.prev
    assert said(told) == [(5, [(b"a", b"3", b"2")])]


def test_without_history_a_follower_misses_nothing(reader: Reader) -> None:
    reader.create(history=0)
    reader.changes(2, wait_ms=1000)
    for number in range(4):
        reader.put(b"a", b"%d" % number)
    assert said(reader.follow(2)) == [
        (2, [(b"a", b"0", None)]),
        (3, [(b"a", b"1", b"0")]),
        (4, [(b"a", b"2", b"1")]),
        (5, [(b"a", b"3", b"2")]),
    ]


def test_who_asks_where_a_table_stands_misses_nothing_from_there_on(reader: Reader) -> None:
    reader.create(history=0)
    stands = reader.told(reader.changes(0)).through
    for number in range(3):
        reader.put(b"a", b"%d" % number)
    told = reader.follow(stands + 1, prev=False)
    assert [each.revision for each in told.revisions] == [stands + 1, stands + 2, stands + 3]


def test_a_log_that_is_compacted_before_it_is_read_takes_nothing_from_a_follower(reader: Reader) -> None:
    reader.create(history=0)
    reader.told(reader.changes(0, prev=False))
    reader.put(b"a", b"1")
    reader.jobs.may_end = False
    call = reader.changes(
        2, wait_ms=1000, prev=True
    )  # nobody had asked for the pairs before: so from the log
    reader.put(b"a", b"2")
    assert call not in reader.replies
    reader.jobs.may_end = True
    reader.work()
    told = reader.told(call)
    assert [each.revision for each in told.revisions] == [2, 3]
    assert not told.floor


def test_what_is_kept_is_bounded_and_the_rest_comes_from_the_log(reader: Reader) -> None:
    reader.create()
    reader.changes(2, wait_ms=1000)
    count = 4 + recent_changes.KEPT_BYTES_MAX // (1 << 20)
    for number in range(count):
        reader.put(b"%d" % number, bytes(1 << 20))
    kept = reader.figures()["feed_bytes_kept"]
    assert kept <= recent_changes.KEPT_BYTES_MAX
    told: list[int] = []
    while len(told) < count:
        part = reader.follow(2 + len(told))
        assert part.first == 2 + len(told)
        told += [each.revision for each in part.revisions]
        assert part.through == told[-1]
    assert told == list(range(2, 2 + count))


def test_a_table_nobody_asks_about_is_forgotten(reader: Reader) -> None:
    reader.create()
    call = reader.changes(2, wait_ms=1)
    reader.put(b"a")
    assert call in reader.replies
    assert reader.figures()["tables_followed"] == 1
    for _ in range(feed.FORGET_MS // reader.cluster.raft.tick_ms):
        reader.replica.tick()
    reader.replica.turn()
    assert reader.figures()["tables_followed"] == 0
    assert reader.figures()["feed_bytes_kept"] == 0
    reader.put(b"b")
    assert said(reader.follow(2)) == [(2, [(b"a", b"v", None)]), (3, [(b"b", b"v", None)])]


def test_who_waits_at_a_leader_that_is_one_no_longer_asks_again(tmp_path: Path) -> None:
    bench = Reader(tmp_path / "led", members(1, 2, 3))
    bench.lead()
    bench.create()
    call = bench.changes(2, wait_ms=1000)
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1))
    assert bench.told(call).through == 1
    assert bench.changes(2, wait_ms=1000) not in bench.replies, "a follower serves as well"
    bench.store.close()


def test_a_table_that_does_not_exist(reader: Reader) -> None:
    with pytest.raises(errors.TableNotFound):
        reader.answer(reader.changes(2, wait_ms=1000))


def test_who_waits_is_told_by_a_table_that_left_and_came_back_within_a_turn(tmp_path: Path) -> None:
    with _reader(tmp_path, ORIGIN) as reader:
        reader.create()
        waiter = reader.changes(2, wait_ms=1000)
        calls = _leave_and_come_back(reader)
        assert [reader.answer(call).error for call in calls] == [0] * 5
        assert waiter not in reader.replies
        reader.put(b"k")
        assert said(reader.told(waiter)) == [(2, [(b"k", b"v", None)])]


def _leave_and_come_back(reader: Reader) -> list[int]:
    """The empty table goes to another shard and returns, all in one turn; gives the calls of the steps."""
    spec = frames.TableSpec(id=ORIGIN, name="t", history=-1)
    away = [
        frames.MoveStep(step=step, table=spec, number=1, source=SHARD, target=SHARD + 1)
        for step in (frames.MoveStep.DEPART, frames.MoveStep.FENCE, frames.MoveStep.LEAVE)
    ]
    back = frames.MoveStep(step=frames.MoveStep.ARRIVE, table=spec, number=2, source=SHARD + 1, target=SHARD)
    nothing = frames.MovePosition()
    part = frames.MovePart(after=nothing, through=nothing, whole=True)
    part.rest.revision, part.rest.compacted, part.rest.floor = 1, -1, -1
    asked: list[tuple[frames.Method.ValueType, Message]] = [
        *((frames.TABLE_MOVE, step) for step in (*away, back)),
        (frames.TABLE_IMPORT, frames.MoveImport(table_id=ORIGIN, number=2, part=part)),
    ]
    envelope = frames.Envelope()
    for call, (method, body) in enumerate(asked, 100):
        envelope.requests.add(
            call=call,
            method=method,
            table_id=ORIGIN,
            body=body.SerializeToString(),
            request_id=call.to_bytes(16),
        )
    reader.replica.handle(CLIENT, envelope)
    reader.replica.turn()
    return [request.call for request in envelope.requests]


def test_who_copies_is_told_the_checksum_wherever_it_is_known(reader: Reader) -> None:
    reader.create()
    for key in (b"a", b"b", b"c"):
        reader.put(key)
    (table,) = [one for one in reader.replica._machine.table_status() if one.id == TABLE]
    # From the log up to its end, with nothing new, and from memory.
    for first in (2, 5):
        told = reader.told(reader.changes(first, exact=True))
        assert (told.through, told.checksum) == (4, table.checksum)
    call = reader.changes(5, wait_ms=1000, exact=True)
    reader.put(b"d")
    told = reader.told(call)
    (table,) = [one for one in reader.replica._machine.table_status() if one.id == TABLE]
    assert (told.through, told.checksum) == (5, table.checksum)


def test_who_copies_is_not_told_from_the_floor_where_edits_may_be_missing(reader: Reader) -> None:
    reader.create()
    for key in (b"a", b"b", b"c"):
        reader.put(key)
    reader.compact(3)
    assert reader.told(reader.changes(3, exact=True)).through == 4  # nothing is swept yet
    reader.tick()
    assert reader.told(reader.changes(3, exact=True)).floor == 3
    assert not reader.told(reader.changes(3)).floor
    told = reader.told(reader.changes(4, exact=True))
    assert (told.through, told.floor, told.compacted) == (4, 0, 3)


class Copier(Reader):
    """The replica's table is a copy."""

    def create_copy(self) -> None:
        spec = frames.TableSpec(id=TABLE, name="t", history=-1, origin=ORIGIN)
        self.write(frames.TABLE_CREATE, spec.SerializeToString())

    def copy(self, leader: Shard, first: int) -> None:
        told = copying.told(history(leader.connection, ORIGIN, first), first)
        changes = frames.ReplicatedChanges(origin=ORIGIN, changes=told)
        self.write(frames.REPLICATE_CHANGES, changes.SerializeToString())

    def take_snapshot(self, leader: Shard) -> None:
        for part in copying.snapshot_of(leader):
            pairs = frames.ReplicatedPairs(origin=ORIGIN, part=part)
            self.write(frames.REPLICATE_SNAPSHOT, pairs.SerializeToString())


@pytest.fixture
def copier(tmp_path: Path) -> Iterator[Copier]:
    bench = Copier(tmp_path / "alone", members(1))
    bench.core.campaign()
    bench.replica.turn()
    bench.create_copy()
    yield bench
    bench.store.close()


def _two_pasts() -> tuple[Shard, Shard]:
    """At revisions 10 and 5."""
    longer, shorter = copying.leader(), copying.leader()
    for number in range(9):
        longer.put(b"k%d" % number, b"longer")
    for number in range(4):
        shorter.put(b"k%d" % number, b"shorter")
    return longer, shorter


def test_a_follower_is_told_that_the_table_was_taken_back(copier: Copier) -> None:
    longer, shorter = _two_pasts()
    copier.copy(longer, 2)
    checksum = copier.told(copier.changes(0)).checksum
    waits = copier.changes(11, wait_ms=60_000, checksum=checksum)
    copier.take_snapshot(shorter)
    assert copier.told(copier.changes(0)).through == 5
    for number in range(4):
        shorter.put(b"z%d" % number)
    copier.copy(shorter, 6)
    assert waits not in copier.replies, "this replica may lag behind what the follower has heard elsewhere"
    shorter.put(b"z")
    copier.copy(shorter, 10)
    told = copier.told(waits)
    assert (told.taken_back, told.through, said(told)) == (True, 10, [])
    shorter.put(b"z")
    copier.copy(shorter, 11)
    told = copier.told(copier.changes(11, wait_ms=1000, checksum=checksum))
    assert (told.taken_back, told.through, said(told)) == (True, 11, [])
    ours = copier.told(copier.changes(6, wait_ms=1000))
    assert (ours.taken_back, ours.through) == (False, 11)


def test_a_follower_who_has_heard_the_same_is_told_what_follows(reader: Reader) -> None:
    reader.create()
    heard = [reader.told(reader.changes(0)).checksum]
    for number in range(6):
        reader.put(b"%d" % number)
        heard.append(reader.follow(2 + number).checksum)
    for number, checksum in enumerate(heard[:-1]):
        told = reader.told(reader.changes(2 + number, wait_ms=1000, checksum=checksum))
        assert (told.first, told.through, told.taken_back) == (2 + number, 7, False)
        other = reader.told(reader.changes(2 + number, wait_ms=1000, checksum=checksum ^ 1))
        assert (other.through, other.taken_back) == (7, True)
    waits = reader.changes(8, wait_ms=1000, checksum=heard[-1])
    assert waits not in reader.replies
    reader.put(b"more")
    assert not reader.told(waits).taken_back
