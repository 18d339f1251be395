"""A range in parts: merged, it is what Range answers."""

from __future__ import annotations

import pytest

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.machine import view
from shardworker.machine.etcd import ranges
from tests.unit.machine.shard import TABLE, Shard

KEYS = 200


@pytest.fixture(scope="module")
def shard() -> Shard:
    """KEYS keys, of which every third was deleted and every fifth put twice."""
    made = Shard()
    for number in range(KEYS):
        made.put(b"k%03d" % number, bytes(100))
    for number in range(0, KEYS, 3):
        made.write(etcd.DeleteRangeRequest(key=b"k%03d" % number))
    for number in range(0, KEYS, 5):
        made.put(b"k%03d" % number, b"again")
    return made


def streamed(shard: Shard, request: etcd.RangeRequest) -> list[etcd.RangeResponse]:
    parsed = shard.machine.parse(frames.ETCD_RANGE_STREAM, TABLE, request.SerializeToString())
    results = list(shard.machine.iterate(shard.connection, parsed))
    assert [result.more for result in results] == [True] * (len(results) - 1) + [False]
    if results[-1].error is not None:
        raise results[-1].error
    return [etcd.RangeResponse.FromString(result.body) for result in results]


ALL = {"key": b"\0", "range_end": b"\0"}
SPAN = {"key": b"k010", "range_end": b"k150"}


@pytest.mark.parametrize(
    "extent", [ALL, SPAN, {"key": b"k001"}, {"key": b"x"}, {"key": b"x", "range_end": b"y"}]
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"limit": 1},
        {"limit": 77},
        {"limit": KEYS},
        {"keys_only": True},
        {"count_only": True},
        {"revision": 100},
        {"revision": 240, "limit": 50, "keys_only": True},
        {"sort_order": etcd.RangeRequest.DESCEND},
        {"sort_order": etcd.RangeRequest.ASCEND, "sort_target": etcd.RangeRequest.MOD, "limit": 9},
        {"min_mod_revision": 90},
    ],
)
def test_the_parts_merged_are_ranges_answer(
    shard: Shard, extent: dict[str, bytes], options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "PART_BYTES", 1_000)
    request = etcd.RangeRequest(**extent, **options)  # type: ignore[arg-type]
    parts = streamed(shard, request)
    merged = etcd.RangeResponse()
    for part in parts:
        merged.MergeFrom(part)
    assert merged == etcd.RangeResponse.FromString(shard.read(request).body)
    assert all(part.kvs and not part.count and not part.more for part in parts[:-1])


def test_a_large_range_comes_in_many_parts(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PART_BYTES", 1_000)
    assert len(streamed(shard, etcd.RangeRequest(**ALL))) >= 2  # type: ignore[arg-type]
    assert len(streamed(shard, etcd.RangeRequest(**ALL, revision=150))) >= 10  # type: ignore[arg-type]
    # The order that it has anyway.
    by_key = etcd.RangeRequest(**ALL, revision=150, sort_order=etcd.RangeRequest.ASCEND)  # type: ignore[arg-type]
    assert len(streamed(shard, by_key)) >= 10


def test_revisions_that_cannot_be_read_are_refused(shard: Shard) -> None:
    with pytest.raises(errors.FutureRevision):
        streamed(shard, etcd.RangeRequest(**ALL, revision=1_000_000))  # type: ignore[arg-type]
    with pytest.raises(errors.EmptyKey):
        streamed(shard, etcd.RangeRequest())


def test_a_part_leaves_before_the_next_one_is_read(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PART_BYTES", 1_000)
    monkeypatch.setattr(view, "SCAN_ROWS_MAX", 16)
    request = etcd.RangeRequest(**ALL)  # type: ignore[arg-type]
    parsed = shard.machine.parse(frames.ETCD_RANGE_STREAM, TABLE, request.SerializeToString())
    scans = 0

    def count(_cursor: object, statement: str, _bindings: object) -> bool:
        nonlocal scans
        scans += "group_concat" in statement
        return True

    shard.connection.exec_trace = count
    try:
        parts = shard.machine.iterate(shard.connection, parsed)
        assert next(parts).more
        assert scans == 2  # what is in it, and what tells that others follow
        parts.close()
    finally:
        shard.connection.exec_trace = None
