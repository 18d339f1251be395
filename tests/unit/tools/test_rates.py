"""Per second, between two snapshots: only what can be told."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.histogram import CALL_BOUNDS_S, Histogram
from tests.unit.tui.clusters import NODES, healthy
from tools.admin.node_pages import Series
from tools.admin.rates import Called, rates
from tools.admin.snapshot import make_shard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tools.admin.snapshot import Snapshot


def test_a_shard_counts_each_command_once_and_reads_where_they_were_served() -> None:
    found = rates(healthy(), healthy(seconds=2))
    assert found.writes[1] == 900
    assert found.reads[1] == 4_500
    assert found.operations(1) == 5_400
    assert found.revisions == {"default": 450, "users": 450, "events": 450}
    assert found.all_operations == 4 * 5_400


def test_a_process_that_began_anew_is_left_out_of_its_shard() -> None:
    before, after = healthy(), healthy(seconds=2)
    restarted = [
        replace(replica, commands_applied=3, reads_served=1) if replica.is_leader else replica
        for replica in after.shards[0].replicas
    ]
    found = rates(before, replace(after, shards=[make_shard(1, restarted, NODES), *after.shards[1:]]))
    assert found.writes[1] == 900, "its followers have counted too"
    assert found.reads[1] == 0


def test_without_two_looks_apart_nothing_can_be_told() -> None:
    found = rates(healthy(), healthy())
    assert (found.writes, found.operations(1), found.all_operations) == ({}, None, None)


@pytest.mark.parametrize("missing", ["commands_applied", "reads_served"])
def test_what_is_not_counted_is_unknown(missing: str) -> None:
    unknown: dict[str, Any] = {missing: None}

    def without(snapshot: Snapshot) -> Snapshot:
        replicas = [replace(each, **unknown) for each in snapshot.shards[0].replicas]
        return replace(snapshot, shards=[make_shard(1, replicas, NODES)])

    found = rates(without(healthy()), without(healthy(seconds=1)))
    assert (1 in found.writes, 1 in found.reads) == (missing != "commands_applied", missing != "reads_served")


# ---- calls of clients ------------------------------------------------------------------------------------------------

PUT = "/etcdserverpb.KV/Put"


def counted(**calls: Sequence[float]) -> dict[Series, Sequence[int]]:
    """What these processes have counted: puts into `t` that took so many seconds."""
    told: dict[Series, Sequence[int]] = {}
    for process, durations in calls.items():
        histogram = Histogram(CALL_BOUNDS_S)
        for seconds in durations:
            histogram.observe(seconds)
        told[Series(process, PUT, "t")] = histogram.counts
    return told


def put_between(before: dict[Series, Sequence[int]], after: dict[Series, Sequence[int]]) -> Called | None:
    return rates(replace(healthy(), calls=before), replace(healthy(seconds=2), calls=after)).calls.get(
        (PUT, "t")
    )


def test_calls_of_all_coordinators_count_together() -> None:
    found = put_between(counted(n1=[0.003], n2=[0.003]), counted(n1=[0.003] * 3, n2=[0.003, 0.3]))
    assert found is not None
    assert found.per_s == 1.5
    assert sum(found.counts) == 3


def test_a_coordinator_that_began_anew_is_left_out_once() -> None:
    assert put_between(counted(n1=[0.003] * 5), counted(n1=[0.003])) is None
    assert put_between(counted(), counted(n1=[0.003])) is None, "nobody knows since when"


def test_a_table_that_is_called_for_the_first_time_began_with_nothing() -> None:
    before, after = counted(n1=[0.003]), counted(n1=[0.003])
    after[Series("n1", PUT, "new")] = counted(n1=[0.003] * 4)[Series("n1", PUT, "t")]
    found = rates(replace(healthy(), calls=before), replace(healthy(seconds=2), calls=after))
    assert found.calls[PUT, "new"].per_s == 2
    both = found.called({"t", "new", "unheard-of"})
    assert both is not None
    assert both.per_s == 2
    assert found.called({"unheard-of"}) is None


@given(st.lists(st.floats(0.00001, 29.0), min_size=1, max_size=300))
def test_a_percentile_lies_in_the_range_of_the_call_that_it_means(durations: list[float]) -> None:
    found = put_between(counted(n1=[], n2=[]), counted(n1=durations, n2=[]))
    assert found is not None
    p99_s = found.p99_s
    assert p99_s is not None
    exact = sorted(durations)[math.ceil(0.99 * len(durations)) - 1]
    upper = next(bound for bound in CALL_BOUNDS_S if exact <= bound)
    lower = max((bound for bound in CALL_BOUNDS_S if bound < exact), default=0.0)
    assert lower <= p99_s <= upper


def test_without_calls_there_is_no_percentile_and_beyond_all_ranges_a_least_one() -> None:
    nothing = put_between(counted(n1=[]), counted(n1=[]))
    assert nothing is not None
    assert (nothing.per_s, nothing.p99_s) == (0, None)
    long = put_between(counted(n1=[]), counted(n1=[100.0]))
    assert long is not None
    assert long.p99_s == CALL_BOUNDS_S[-1]
