"""What a table is counted to hold is what it holds, after every write and every step of a sweep."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.machine.statements import CHANGE_BYTES
from tests.unit.machine.shard import TABLE, Shard

keys = st.sampled_from([b"a", b"b", b"bb", b"c"])
puts = st.builds(etcd.PutRequest, key=keys, value=st.binary(max_size=20))
deletes = st.builds(etcd.DeleteRangeRequest, key=keys, range_end=st.sampled_from([b"", b"\0", b"c"]))
txns = st.builds(
    lambda key, value: etcd.TxnRequest(
        success=[
            etcd.RequestOp(request_delete_range=etcd.DeleteRangeRequest(key=key)),
            etcd.RequestOp(request_put=etcd.PutRequest(key=key, value=value)),
        ]
    ),
    keys,
    st.binary(max_size=20),
)
compactions = st.integers(0, 5).map(lambda behind: -behind)
sweeps = st.integers(1, 4)
entries = st.lists(st.one_of(puts, puts, deletes, txns), min_size=1, max_size=4)
steps = st.lists(st.one_of(entries, entries, compactions, sweeps), min_size=10, max_size=60)


def check(shard: Shard) -> None:
    table = shard.machine.tables.get(TABLE)
    assert table is not None
    text = f"SELECT total(length(key) + ifnull(length(kv), 0) + ?) FROM t{TABLE}_rev"  # noqa: S608
    held = shard.connection.execute(text, (CHANGE_BYTES,)).get
    assert table.written_bytes - table.swept_bytes == held
    assert table.size_bytes >= held


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([-1, 0, 3]), steps)
def test_sizes_are_those_of_a_recount(
    history: int, program: list[list[etcd.PutRequest | etcd.DeleteRangeRequest | etcd.TxnRequest] | int]
) -> None:
    shard = Shard(history=history)
    for step in program:
        if isinstance(step, list):
            shard.apply(*[shard.command(request) for request in step])
        elif step > 0:
            shard.sweep_once(step)
        else:
            table = shard.machine.tables.get(TABLE)
            assert table is not None
            shard.write(etcd.CompactionRequest(revision=table.revision + step))
        check(shard)
    while shard.machine.is_compacting:
        shard.sweep_once(2)
        check(shard)
    table = shard.machine.tables.get(TABLE)
    assert table is not None
    shard.write(frames.TableFreed(total_bytes=table.swept_bytes))
    text = f"SELECT total(length(key) + ifnull(length(kv), 0) + ?) FROM t{TABLE}_rev"  # noqa: S608
    assert table.size_bytes == shard.connection.execute(text, (CHANGE_BYTES,)).get
