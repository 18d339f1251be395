"""How the leader keeps its shard's books: quotas from its file, and what its sweep has removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.catalog import WITHOUT_QUOTA
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.raft import MessageKind
from shardworker.replica.quotas import ROUND_MS
from tests.unit.raft.lab import message
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import CLIENT, TABLE, Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUOTA = 20_000
USER_TABLE = 10_001


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Bench]:
    """The only replica of a shard whose tables may hold QUOTA."""
    bench = Bench(tmp_path, members(1), limits={"table_quota": QUOTA}, table=USER_TABLE)
    bench.core.campaign()
    bench.replica.turn()
    spec = frames.TableSpec(id=USER_TABLE, name="t", history=1)
    bench.write(frames.TABLE_CREATE, spec.SerializeToString())
    told(bench, {USER_TABLE: WITHOUT_QUOTA})
    yield bench
    bench.store.close()


def told(bench: Bench, quotas: dict[int, int]) -> None:
    """By a coordinator, of what the catalog says."""
    bench.replica.handle(CLIENT, frames.Envelope(table_quotas=frames.TableQuotas(quotas=quotas)))
    bench.work()


def status(bench: Bench) -> frames.TableStatus:
    (table,) = bench.replica.status().tables
    return table


def a_round(bench: Bench) -> None:
    for _ in range(ROUND_MS // bench.cluster.raft.tick_ms):
        bench.tick()
    bench.work()


def put(bench: Bench, size: int) -> None:
    body = etcd.PutRequest(key=b"k", value=bytes(size)).SerializeToString()
    bench.write(frames.ETCD_PUT, body)


def test_the_leader_makes_its_files_quota_the_shards(limited: Bench) -> None:
    assert status(limited).quota_bytes == QUOTA
    last = limited.core.log.last_index
    a_round(limited)
    assert limited.core.log.last_index == last, "there was nothing more to say"


def test_what_a_table_was_made_with_counts_more_than_what_the_file_says_of_all(limited: Bench) -> None:
    for quota_bytes in (5_000, 0):
        told(limited, {USER_TABLE: quota_bytes})
        assert status(limited).quota_bytes == quota_bytes
    told(limited, {USER_TABLE + 1: 7})
    a_round(limited)
    assert status(limited).quota_bytes == 0, "who does not know of the table has said nothing of it"


@pytest.mark.parametrize("is_told_before", [True, False])
def test_a_table_is_held_to_its_quota_from_its_first_write_on(tmp_path: Path, is_told_before: bool) -> None:
    """No tick passes, and whoever writes to a table has told of it on the same link."""
    bench = Bench(tmp_path, members(1), table=USER_TABLE)
    bench.core.campaign()
    bench.replica.turn()
    quotas = frames.Envelope(table_quotas=frames.TableQuotas(quotas={USER_TABLE: QUOTA}))
    spec = frames.TableSpec(id=USER_TABLE, name="t", history=1).SerializeToString()
    large = etcd.PutRequest(key=b"k", value=bytes(QUOTA)).SerializeToString()
    if is_told_before:
        bench.replica.handle(CLIENT, quotas)
    bench.ask(frames.TABLE_CREATE, spec, work=False, request_id=bytes(16))
    if not is_told_before:
        bench.replica.handle(CLIENT, quotas)
    put = bench.ask(frames.ETCD_PUT, large, request_id=b"1" * 16)
    with pytest.raises(errors.QuotaExceeded):
        bench.answer(put)
    bench.store.close()


def test_a_table_that_the_file_limits_is_held_to_that_from_its_first_write_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, members(1), tables={"t": {"quota": QUOTA}}, table=USER_TABLE)
    bench.core.campaign()
    bench.replica.turn()
    spec = frames.TableSpec(id=USER_TABLE, name="t", history=1).SerializeToString()
    bench.ask(frames.TABLE_CREATE, spec, work=False, request_id=bytes(16))
    with pytest.raises(errors.QuotaExceeded):
        put(bench, QUOTA)
    bench.store.close()


def test_a_new_leader_looks_before_it_takes_a_write(tmp_path: Path) -> None:
    """What the one before it wanted to put into the log may be lost."""
    bench = Bench(tmp_path, members(1, 2, 3), tables={"t": {"quota": QUOTA}}, table=USER_TABLE)
    bench.lead()
    spec = frames.TableSpec(id=USER_TABLE, name="t", history=1).SerializeToString()
    bench.ask(frames.TABLE_CREATE, spec, work=False, request_id=bytes(16))
    create_index = bench.core.log.last_index
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1, commit=create_index))
    assert status(bench).quota_bytes == 0
    bench.lead()
    with pytest.raises(errors.QuotaExceeded):
        put(bench, QUOTA)
    bench.store.close()


def test_what_deleted_tables_were_made_with_is_forgotten(limited: Bench) -> None:
    """Tables come and go as long as the process lives."""
    quotas = limited.replica._quotas
    for table_id in range(USER_TABLE + 1, USER_TABLE + 100):
        told(limited, {USER_TABLE: 5_000, table_id: 7})
    told(limited, {USER_TABLE: 5_000})  # by who has not heard of the newest one yet, or that it is gone
    assert quotas._made_with == {USER_TABLE: 5_000, USER_TABLE + 99: 7}


def test_until_somebody_has_said_what_a_table_was_made_with_its_quota_stays(tmp_path: Path) -> None:
    """As of a leader that has just started: its shard has been told before."""
    bench = Bench(tmp_path, members(1), limits={"table_quota": QUOTA}, table=USER_TABLE)
    bench.core.campaign()
    bench.replica.turn()
    bench.write(frames.TABLE_CREATE, frames.TableSpec(id=USER_TABLE, name="t", history=1).SerializeToString())
    a_round(bench)
    assert status(bench).quota_bytes == 0
    told(bench, {USER_TABLE: WITHOUT_QUOTA})
    assert status(bench).quota_bytes == QUOTA
    bench.store.close()


def test_what_the_file_says_of_a_table_counts_most(tmp_path: Path) -> None:
    bench = Bench(tmp_path, members(1), tables={"t": {"quota": 9_000}}, table=USER_TABLE)
    bench.core.campaign()
    bench.replica.turn()
    bench.write(frames.TABLE_CREATE, frames.TableSpec(id=USER_TABLE, name="t", history=1).SerializeToString())
    told(bench, {USER_TABLE: 5_000})
    assert status(bench).quota_bytes == 9_000
    bench.store.close()


def test_a_table_whose_history_is_swept_never_gets_full(limited: Bench) -> None:
    a_round(limited)
    for _ in range(20):
        put(limited, QUOTA // 4)
        a_round(limited)
    a_round(limited)
    assert QUOTA // 4 < status(limited).size_bytes < QUOTA // 2


def test_a_full_table_says_so_until_it_is_swept(limited: Bench) -> None:
    a_round(limited)
    put(limited, QUOTA * 9 // 10)
    with pytest.raises(errors.QuotaExceeded):
        put(limited, QUOTA // 10)
    assert not status(limited).full
    with pytest.raises(errors.QuotaExceeded):
        put(limited, QUOTA)
    put(limited, 1)
    a_round(limited)
    a_round(limited)
    put(limited, QUOTA // 2)


def test_reserved_tables_have_no_quota(tmp_path: Path) -> None:
    bench = Bench(tmp_path, members(1), limits={"table_quota": QUOTA})
    bench.core.campaign()
    bench.replica.turn()
    bench.write(frames.TABLE_CREATE, frames.TableSpec(id=TABLE, name="t", history=-1).SerializeToString())
    a_round(bench)
    assert status(bench).quota_bytes == 0
    bench.store.close()
