"""Per second, between two snapshots: only what can be told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.tui.clusters import NODES, healthy
from tools.admin.rates import rates
from tools.admin.snapshot import make_shard

if TYPE_CHECKING:
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
