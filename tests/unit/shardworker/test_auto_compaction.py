"""When a table compacts itself, and how far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto.catalog import FIRST_TABLE_ID as TABLE
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.raft import MessageKind
from shardworker.replica.auto_compaction import (
    REVISION_INTERVAL_S,
    SAMPLES_PER_INTERVAL,
    ByRevisions,
    ByTime,
)
from tests.unit.raft.lab import message
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import Bench

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HOUR_S = 3_600
TICK_MS = 60_000


def test_by_revisions_the_newest_are_kept() -> None:
    retention = ByRevisions(10)
    assert retention.interval_s == 5 * 60
    assert [retention.look(revision) for revision in (1, 10, 11, 100)] == [None, None, 1, 90]


@pytest.mark.parametrize(("retention_s", "interval_s"), [(90, 9), (HOUR_S, 360), (5 * HOUR_S, 360)])
def test_by_time_a_table_is_looked_at_ten_times_a_round(retention_s: int, interval_s: int) -> None:
    assert ByTime(retention_s).interval_s == interval_s


def test_by_time_what_is_older_than_the_retention_goes_every_round() -> None:
    """Two hours: the first time after two, then every hour. A look comes with the revision of its number."""
    retention = ByTime(2 * HOUR_S)
    compacted = {look: retention.look(look) for look in range(60)}
    per_hour = SAMPLES_PER_INTERVAL
    assert {look: at for look, at in compacted.items() if at is not None} == {
        2 * per_hour: 0,
        3 * per_hour: per_hour,
        4 * per_hour: 2 * per_hour,
        5 * per_hour: 3 * per_hour,
    }


def test_a_short_retention_is_its_own_round() -> None:
    retention = ByTime(90)
    compacted = {look: retention.look(look) for look in range(35)}
    assert {look: at for look, at in compacted.items() if at is not None} == {10: 0, 20: 10, 30: 20}


def bench_with(folder: Path, compaction: Mapping[str, object], *voters: int) -> Bench:
    bench = Bench(
        folder,
        members(*voters),
        raft={"tick_ms": TICK_MS},
        limits={"write_timeout_ms": 86_400_000, "read_timeout_ms": 86_400_000},
        table=TABLE,
        tables={"t": {"compaction": compaction}, "other": {}},
    )
    if len(voters) == 1:
        bench.core.campaign()
        bench.replica.turn()
    else:
        bench.lead()
    for number, name in enumerate(("t", "other")):
        spec = frames.TableSpec(id=TABLE + number, name=name, history=-1)
        bench.write(frames.TABLE_CREATE, spec.SerializeToString())
    for number in range(20):
        bench.write(frames.ETCD_PUT, etcd.PutRequest(key=b"%d" % number).SerializeToString())
    return bench


def compacted(bench: Bench) -> list[int]:
    return [table.compacted_revision for table in bench.replica.status().tables]


def minutes(bench: Bench, count: int) -> None:
    for _ in range(count):
        bench.tick()
        bench.work()


def test_the_leader_compacts_the_tables_that_say_so(tmp_path: Path) -> None:
    bench = bench_with(tmp_path, {"mode": "revision", "retention": 5}, 1)
    minutes(bench, 1)
    assert compacted(bench) == [16, -1]
    last = bench.core.log.last_index
    minutes(bench, REVISION_INTERVAL_S * 1_000 // TICK_MS)
    assert bench.core.log.last_index == last, "nothing is compacted twice"
    bench.write(frames.ETCD_PUT, etcd.PutRequest(key=b"k").SerializeToString())
    minutes(bench, REVISION_INTERVAL_S * 1_000 // TICK_MS)
    assert compacted(bench) == [17, -1]
    bench.store.close()


def test_what_is_old_is_compacted_on_time(tmp_path: Path) -> None:
    bench = bench_with(tmp_path, {"mode": "periodic", "retention": "30m"}, 1)
    minutes(bench, 1)
    bench.write(frames.ETCD_PUT, etcd.PutRequest(key=b"k").SerializeToString())
    minutes(bench, 29)
    assert compacted(bench) == [-1, -1]
    minutes(bench, 1)
    assert compacted(bench) == [21, -1]
    bench.store.close()


def test_a_follower_compacts_nothing(tmp_path: Path) -> None:
    bench = bench_with(tmp_path, {"mode": "revision", "retention": 5}, 1, 2, 3)
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1))
    bench.tick()
    bench.work()
    assert compacted(bench) == [-1, -1]
    bench.store.close()


def test_what_holds_for_all_tables_holds_for_those_that_are_made_later(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path,
        members(1),
        raft={"tick_ms": TICK_MS},
        limits={
            "write_timeout_ms": 86_400_000,
            "read_timeout_ms": 86_400_000,
            "table_compaction": {"mode": "revision", "retention": 5},
        },
        table=TABLE,
        tables={"keeps": {"compaction": "none"}, "own": {"compaction": {"mode": "revision", "retention": 2}}},
    )
    bench.core.campaign()
    bench.replica.turn()
    minutes(bench, 3)
    specs = [
        frames.TableSpec(id=TABLE, name="made later", history=-1),
        frames.TableSpec(id=TABLE + 1, name="keeps", history=-1),
        frames.TableSpec(id=TABLE + 2, name="own", history=-1),
        frames.TableSpec(id=TABLE + 3, name="copy", history=-1, origin=20_000),
    ]
    for spec in specs:
        bench.write(frames.TABLE_CREATE, spec.SerializeToString())
    for number in range(20):
        for table in range(3):
            put = etcd.PutRequest(key=b"%d" % number).SerializeToString()
            bench.write(frames.ETCD_PUT, put, table_id=TABLE + table)
    minutes(bench, 1)
    assert compacted(bench) == [16, -1, 19, -1]
    bench.store.close()
