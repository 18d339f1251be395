"""Who waits for a physical compaction, for how long, and what becomes of those who wait in vain."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

import apsw
import pytest

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.raft import Entry, EntryKind, LogIndex, MessageKind, Term
from shardworker.replica import history_sweep
from shardworker.replica.giving_way import LATELY_S
from tests.simulation.disk import SimulatedDisk
from tests.unit.raft.lab import message
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import CLIENT, TABLE, Bench

if TYPE_CHECKING:
    from pathlib import Path

ROWS_PER_STEP: Final = 10


def bench_with_versions(folder: Path, *voters: int, history: int = -1) -> Bench:
    """A table with three steps' worth of versions of one key; steps come with ticks only, if the test wants it so."""
    bench = Bench(folder, members(*voters), store={"compaction_rows_max": ROWS_PER_STEP})
    if len(voters) == 1:
        bench.core.campaign()
        bench.replica.turn()
    else:
        bench.lead()
    bench.write(
        frames.TABLE_CREATE, frames.TableSpec(id=TABLE, name="t", history=history).SerializeToString()
    )
    for _ in range(3 * ROWS_PER_STEP):
        put(bench)
    return bench


def put(bench: Bench) -> None:
    bench.write(frames.ETCD_PUT, etcd.PutRequest(key=b"k", value=b"v").SerializeToString())


def compact(bench: Bench, revision: int, *, physical: bool = True) -> int:
    """The call of a compaction; the bench takes one turn and no more."""
    body = etcd.CompactionRequest(revision=revision, physical=physical).SerializeToString()
    envelope = frames.Envelope()
    call = 5_000 + revision
    envelope.requests.add(
        call=call, method=frames.ETCD_COMPACT, table_id=TABLE, body=body, request_id=call.to_bytes(16, "big")
    )
    bench.replica.handle(CLIENT, envelope)
    bench.replica.turn()
    return call


def test_a_physical_compaction_is_answered_once_its_rows_are_gone(tmp_path: Path) -> None:
    bench = bench_with_versions(tmp_path, 1)
    call = compact(bench, 25)
    assert not bench.replica.drained(), "an answer is owed"
    steps = 0
    while call not in bench.replies:
        assert bench.replica.has_work()
        bench.replica.turn()
        steps += 1
    assert steps >= 2
    bench.answer(call)
    assert bench.replica.drained()
    assert not bench.replica.status().statistics["compactions_waiting"]
    bench.store.close()


def test_while_others_want_the_loop_it_takes_a_share_of_the_time(tmp_path: Path) -> None:
    bench = bench_with_versions(tmp_path, 1)
    for _ in range(30 * ROWS_PER_STEP):
        put(bench)
    bench.disk.sync_s = (
        0.001  # so long takes each look at the clock, of which a turn has some and a step a few
    )
    revision = bench.replica.status().tables[-1].revision
    compact(bench, revision, physical=False)
    bench.tick()
    rows = [rows_of(bench)]
    for number in range(60):
        body = etcd.PutRequest(key=b"k", value=b"v").SerializeToString()
        bench.ask(frames.ETCD_PUT, body, work=False, request_id=number.to_bytes(16, "big"))
        rows.append(rows_of(bench))
    steps = sum(after < before for before, after in pairwise(rows))
    assert 6 <= steps <= 40, "neither never nor always"
    for _ in range(200):  # each with a look at the clock
        bench.work()
    assert rows_of(bench) <= 62, "all the time is its own when nobody asks"
    bench.store.close()


def test_who_rests_does_not_keep_the_loop_awake(tmp_path: Path) -> None:
    bench = bench_with_versions(tmp_path, 1)
    bench.disk.sync_s = 0.001  # so long takes each look at the clock
    compact(bench, 25, physical=False)
    bench.tick()
    assert not bench.replica.has_work(), "a step was taken, and clients were here just now"
    assert bench.replica.ticks_until_action() == 1, "but it is not forgotten"
    looks = 0
    while not bench.replica.has_work():
        looks += 1
    assert looks * bench.disk.sync_s <= LATELY_S
    bench.work()
    bench.store.close()


def test_a_follower_gives_way_to_what_it_applies(tmp_path: Path) -> None:
    """It has no clients, and shares a host with leaders that do."""
    bench = Bench(tmp_path, members(1, 2, 3), store={"compaction_rows_max": ROWS_PER_STEP})
    spec = frames.TableSpec(id=TABLE, name="t", history=-1).SerializeToString()
    hear_entry(bench, frames.TABLE_CREATE, spec)
    for _ in range(30 * ROWS_PER_STEP):
        hear_entry(bench, frames.ETCD_PUT, etcd.PutRequest(key=b"k", value=b"v").SerializeToString())
    bench.disk.sync_s = 0.001  # so long takes each look at the clock
    revision = bench.replica.status().tables[-1].revision
    hear_entry(bench, frames.ETCD_COMPACT, etcd.CompactionRequest(revision=revision).SerializeToString())
    bench.tick()
    rows = [rows_of(bench)]
    for _ in range(40):
        hear_entry(bench, frames.ETCD_PUT, etcd.PutRequest(key=b"k", value=b"v").SerializeToString())
        rows.append(rows_of(bench))
    steps = sum(after < before for before, after in pairwise(rows))
    assert 2 <= steps <= 20, "neither never nor always"
    for _ in range(200):  # each with a look at the clock
        bench.work()
    assert rows_of(bench) <= 42, "all the time is its own when nothing comes"
    bench.store.close()


def hear_entry(bench: Bench, method: frames.Method.ValueType, body: bytes) -> None:
    """The leader, node 2, has committed one more command."""
    before = bench.core.log.last_index
    batch = frames.CommandBatch(format=1)
    batch.commands.add(method=method, table_id=TABLE, body=body, request_id=before.to_bytes(16, "big"))
    entry = Entry(Term(1), LogIndex(before + 1), EntryKind.COMMANDS, batch.SerializeToString())
    bench.hear(
        message(
            MessageKind.APPEND,
            2,
            1,
            index=before,
            log_term=1 if before else 0,
            entries=(entry,),
            commit=before + 1,
        )
    )


def rows_of(bench: Bench) -> int:
    return int(bench.store.connection.execute(f"SELECT count(*) FROM t{TABLE}_rev").get)  # noqa: S608 - a number


def test_a_compaction_that_is_not_physical_waits_for_nothing(tmp_path: Path) -> None:
    bench = bench_with_versions(tmp_path, 1)
    bench.answer(compact(bench, 25, physical=False))
    bench.store.close()


def test_a_floor_that_moves_on_does_not_hold_up_an_earlier_compaction(tmp_path: Path) -> None:
    """A table that keeps a number of revisions is never swept while it is written."""
    bench = bench_with_versions(tmp_path, 1, history=5)
    bench.work()
    revision = bench.replica.status().tables[-1].revision
    call = compact(bench, revision)
    for _ in range(6):
        put(bench)
        bench.tick()
    bench.answer(call)
    bench.store.close()


def test_a_leader_that_is_deposed_says_so_to_who_waits(tmp_path: Path) -> None:
    bench = bench_with_versions(tmp_path, 1, 2, 3)
    call = compact(bench, 25)
    for peer in (2, 3):
        bench.acknowledge(peer)
    assert call not in bench.replies
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1))
    with pytest.raises(errors.LeaderLost):
        bench.answer(call)
    bench.work()
    bench.store.close()


def test_compactions_that_wait_are_bounded(tmp_path: Path) -> None:
    bench = bench_with_versions(tmp_path, 1)
    with patch.object(history_sweep, "WAITING_MAX", 1):
        first, second = compact(bench, 25), compact(bench, 26)
        with pytest.raises(errors.QueueFull, match="1 compactions wait"):
            bench.answer(second)
    bench.work()
    bench.answer(first)
    bench.store.close()


def test_what_a_follower_lacks_is_kept_from_the_first_step_of_a_life_on(tmp_path: Path) -> None:
    bench = bench_with_versions(tmp_path, 1)
    position = frames.FollowerPosition(table_id=TABLE, follower="island", revision=5)
    bench.write(frames.FOLLOWER_POSITION, position.SerializeToString())
    compact(bench, 25, physical=False)
    bench.store.close()
    again = Bench(tmp_path, members(1))
    again.core.campaign()
    for _ in range(10):
        again.replica.turn()
    assert bench_rows_from(again) == 5
    assert again.replica._sweep.statistics()["tables_history_held"] == 1


def bench_rows_from(bench: Bench) -> int:
    """The oldest revision that a row is of."""
    oldest = bench.store.connection.execute(f"SELECT min(id) >> 24 FROM t{TABLE}_rev").get  # noqa: S608 - a number
    return int(oldest)


def test_a_compaction_is_answered_though_a_follower_came_to_hold_what_is_left_of_it(tmp_path: Path) -> None:
    """Its position is taken while the sweep rests; the sweep then has nothing to do, and was not done."""
    bench = bench_with_versions(tmp_path, 1)
    bench.disk.sync_s = 0.001  # so long takes each look at the clock
    call = compact(bench, 25)
    position = frames.FollowerPosition(table_id=TABLE, follower="island", revision=5)
    bench.ask(
        frames.FOLLOWER_POSITION, position.SerializeToString(), work=False, request_id=b"position".rjust(16)
    )
    assert call not in bench.replies, "the sweep rests"
    bench.tick()
    bench.work()
    bench.answer(call)
    bench.store.close()


def test_what_is_held_back_is_given_up_for_the_sweep(tmp_path: Path) -> None:
    """The disk has taken the compaction, and then somebody else took the rest of it."""
    disk = SimulatedDisk(seed=1)
    store = {"compaction_rows_max": ROWS_PER_STEP, "disk_free_bytes_min": 1, "spare_bytes": 1 << 20}
    bench = Bench(tmp_path, members(1), simulated=disk, store=store)
    bench.core.campaign()
    bench.replica.turn()
    bench.tick()
    assert bench.store.spare.held_bytes
    spec = frames.TableSpec(id=TABLE, name="t", history=-1)
    bench.write(frames.TABLE_CREATE, spec.SerializeToString())
    for _ in range(3 * ROWS_PER_STEP):
        put(bench)
    bench.disk.sync_s = 0.001  # so long takes each look at the clock
    call = compact(bench, 25)
    assert call not in bench.replies, "the sweep rests"
    bench.store.connection.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
    disk.capacity_bytes -= disk.free_bytes()
    for _ in range(5):
        bench.tick()
        bench.work()
    bench.answer(call)
    assert not bench.store.spare.held_bytes
    bench.store.close()
    disk.close()
