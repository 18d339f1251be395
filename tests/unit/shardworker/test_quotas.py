"""How the leader keeps its shard's books: quotas from its file, and what its sweep has removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.replica.quotas import ROUND_MS
from tests.unit.raft.replica import members
from tests.unit.shardworker.bench import TABLE, Bench

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
    yield bench
    bench.store.close()


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
    assert status(limited).quota_bytes == 0
    a_round(limited)
    assert status(limited).quota_bytes == QUOTA
    last = limited.core.log.last_index
    a_round(limited)
    assert limited.core.log.last_index == last, "there was nothing more to say"


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
