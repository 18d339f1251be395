"""Random programs on a table, told in random batches from memory or from its log: its copy comes to the same."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from shardworker.machine import history
from tests.property.machine import requests
from tests.unit.machine.copying import (
    COPY,
    contents,
    follower,
    leader,
    past,
    position,
    replicate,
    snapshot_of,
    take_part,
    told,
)
from tests.unit.machine.shard import TABLE

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from proto.internal import frames_pb2 as frames
    from shardworker.machine import Change
    from tests.unit.machine.shard import Shard


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([-1, 0, 3]),
    st.lists(st.lists(requests.writes, min_size=1, max_size=4), max_size=25),
    st.lists(
        st.sampled_from(["memory", "log", "snapshot", "repeat", "wait", "sweep"]), min_size=25, max_size=25
    ),
)
def test_a_copy_comes_to_the_same(kept: int, program: list[list[Message]], deliveries: list[str]) -> None:
    one, other = leader(history=kept), follower(history=kept)
    taken: list[Change] = []
    for entry, how in zip(program, deliveries, strict=False):
        one.apply(*[one.command(request) for request in entry])
        taken += one.machine.take_changes()
        deliver(one, other, taken, how)
    deliver(one, other, taken, "memory")
    assert position(other, COPY) == position(one, TABLE)
    assert contents(other, COPY) == contents(one, TABLE)
    floor = max(status_floor(one, TABLE), status_floor(other, COPY))
    assert past(other, COPY, floor + 1) == past(one, TABLE, floor + 1)


def status_floor(shard: Shard, table: int) -> int:
    (status,) = [one for one in shard.machine.table_status() if one.id == table]
    return status.compacted_revision


def deliver(one: Shard, other: Shard, taken: list[Change], how: str) -> None:
    """Bring the copy up to the table, unless it waits."""
    at = position(other, COPY)[0]
    if how == "sweep":
        one.sweep()
        other.sweep()
    if how == "snapshot":
        for part in snapshot_of(one):
            assert take_part(other, part).error is None
        assert position(other, COPY) == position(one, TABLE)
    if how == "log" and at + 1 > status_floor(one, TABLE):
        batch = told(history(one.connection, TABLE, at + 1), at + 1)
        batch.checksum = position(one, TABLE)[1]
        apply(one, other, batch)
    if how in ("memory", "repeat"):
        behind = 2 if how == "repeat" else 0
        rest = list(itertools.dropwhile(lambda change: change.revision <= at - behind, taken))
        if rest:
            apply(one, other, told(rest, rest[0].revision))


def apply(one: Shard, other: Shard, batch: frames.TableChanges) -> None:
    (status,) = [each for each in one.machine.table_status() if each.id == TABLE]
    result = replicate(other, batch)
    assert result.error is None, result.error
    assert position(other, COPY)[:2] == (status.revision, status.checksum)
