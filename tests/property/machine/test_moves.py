"""Random programs on a table that is copied to another shard meanwhile, swept and compacted as it goes: what comes to
be there is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from shardworker.machine.moves import copying
from tests.property.machine import requests
from tests.unit.machine.moving import CANCEL, LEAVE, Moving
from tests.unit.machine.shard import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from tests.unit.machine.shard import Shard


@pytest.fixture(autouse=True, scope="module")
def small_parts() -> Iterator[None]:
    """So that a move of a few rows takes several."""
    with mock.patch.object(copying, "PART_ROWS_MAX", 3):
        yield


programs = st.lists(st.lists(requests.writes, min_size=1, max_size=4), max_size=25)
happenings = st.lists(
    st.sampled_from(["copy", "copy", "sweep", "sweep a little", "wait"]), min_size=25, max_size=25
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([-1, 0, 3]), programs, happenings, st.integers(0, 10))
def test_what_arrives_is_what_departed(
    kept: int, program: list[list[Message]], happenings: list[str], begins_at: int
) -> None:
    moving = Moving(history=kept)
    stays = Moving(history=kept).source
    for number, (entry, happening) in enumerate(zip(program, happenings, strict=False)):
        if number == begins_at:
            moving.begin()
        write(moving, stays, entry)
        happen(moving, happening, moves=number >= begins_at)
    if len(program) <= begins_at:
        moving.begin()
    moving.finish()
    moving.take(moving.source, LEAVE)
    assert seen(moving.target) == seen(stays)
    moving.target.sweep()
    assert seen(moving.target) == seen(stays)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([-1, 0, 3]), programs, happenings, programs)
def test_a_table_that_stays_after_all_is_as_if_nothing_had_been(
    kept: int, program: list[list[Message]], happenings: list[str], later: list[list[Message]]
) -> None:
    moving = Moving(history=kept)
    stays = Moving(history=kept).source
    moving.begin()
    for entry, happening in zip(program, happenings, strict=False):
        write(moving, stays, entry)
        happen(moving, happening, moves=True)
    moving.take(moving.target, CANCEL)
    moving.take(moving.source, CANCEL)
    for entry in later:
        write(moving, stays, entry)
    for shard in (moving.source, stays):
        shard.sweep()
    assert seen(moving.source) == seen(stays)
    assert moving.source.rows() == stays.rows()


def write(moving: Moving, stays: Shard, entry: list[Message]) -> None:
    """To both tables, under one index, by which leases are told apart."""
    stays.index = moving.source.index
    for shard in (moving.source, stays):
        shard.apply(*[shard.command(request) for request in entry])


def happen(moving: Moving, what: str, *, moves: bool) -> None:
    if what == "copy" and moves:
        moving.copy_part()
    elif what == "sweep":
        moving.source.sweep()
    elif what == "sweep a little":
        moving.source.sweep_once(2)


def seen(shard: Shard) -> tuple[object, ...]:
    """Everything of a table that somebody can see, but for its size."""
    (status,) = shard.machine.table_status()
    status.ClearField("size_bytes")
    floor = max(status.compacted_revision, 1)
    past = [
        shard.read(etcd.RangeRequest(key=b"\0", range_end=b"\0", revision=revision)).body
        for revision in range(floor, status.revision + 1)
    ]
    request = shard.machine.parse(frames.ETCD_HASH_KV, TABLE, b"")
    hashed = [part.body for part in shard.machine.iterate(shard.connection, request)][-1]
    leases = [
        (lease.id, lease.ttl_s, shard.lease_keys(lease.id))
        for _, lease in sorted(shard.machine.leases.of_table(TABLE).items())
    ]
    return status, past, hashed, leases
