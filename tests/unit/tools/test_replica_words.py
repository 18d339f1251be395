"""What a replica says of itself, in an operator's words."""

from __future__ import annotations

import pytest

from proto.internal import frames_pb2 as frames
from tools.admin.probe import Answered
from tools.admin.replica_words import replica_of
from tools.admin.snapshot import TableMove

NAMES = {1: "n1", 2: "n2", 3: "n3"}


def answered(status: frames.ReplicaStatus) -> Answered:
    return Answered(status, asked_at=100.0, answered_at=100.5)


def test_a_full_answer() -> None:
    status = frames.ReplicaStatus(
        shard=4, node=2, term=9, leader=3, role="follower", commit_index=7, applied_index=6, voters=[1, 2, 3]
    )
    status.tables.add(name="users", revision=12, keys=3, compacted_revision=-1, history=0)
    status.tables[0].MergeFrom(frames.TableStatus(size_bytes=9, quota_bytes=8, full=True))
    status.tables[0].alarms.add(member=7, alarm=2)
    status.tables.add(name="_catalog", revision=5)
    for name, value in {
        "writes_waiting": 2,
        "reads_waiting": 3,
        "sync_p99_us": 800,
        "syncs_of_late": 12,
        "wal_bytes": 4096,
    }.items():
        status.statistics[name] = value
    replica = replica_of(answered(status), NAMES)
    assert (replica.shard, replica.node, replica.leader, replica.voters) == (
        4,
        "n2",
        "n3",
        ["n1", "n2", "n3"],
    )
    assert (replica.queued, replica.sync_p99_us, replica.syncs_of_late, replica.wal_bytes) == (
        5,
        800,
        12,
        4096,
    )
    assert [(table.name, table.history, table.compacted_revision) for table in replica.tables] == [
        ("users", "none", None)
    ]
    assert replica.revision == 12
    (table,) = replica.tables
    assert (table.size_bytes, table.quota_bytes, table.is_full, table.alarms) == (9, 8, True, ["CORRUPT"])


def test_tables_that_leave_and_come() -> None:
    state = frames.MoveState
    status = frames.ReplicaStatus(shard=1, node=1)
    for number, name in enumerate(("copied", "fenced", "stays"), start=10_001):
        status.tables.add(id=number, name=name)
    status.moves.add(table_id=10_001, state=state.COPYING, shard=2)
    status.moves.add(table_id=10_002, state=state.FENCED, shard=3)
    status.moves.add(table_id=10_003, state=state.HERE, shard=2)
    status.moves.add(table_id=10_004, state=state.ARRIVING, shard=2, keys=70)
    status.moves.add(table_id=10_005, state=state.MOVED, shard=2)
    replica = replica_of(answered(status), NAMES)
    assert [table.move for table in replica.tables] == [
        TableMove(target=2),
        TableMove(target=3, is_fenced=True),
        None,
    ]
    assert replica.arriving == {10_004: 70}


def test_an_older_build_leaves_gaps() -> None:
    replica = replica_of(answered(frames.ReplicaStatus(shard=1, node=1)), NAMES)
    assert (replica.sync_p99_us, replica.wal_bytes, replica.clock_skew_ms, replica.commands_applied) == (
        None,
        None,
        None,
        None,
    )
    assert (replica.leader, replica.revision) == ("", None)
    idle = frames.ReplicaStatus(shard=1, node=1, statistics={"sync_p99_us": 0})
    assert replica_of(answered(idle), NAMES).sync_p99_us is None, "none was seen of late"


@pytest.mark.parametrize(
    ("reading_ms", "skew_ms"), [(100_000, 0), (100_300, 0), (100_500, 0), (98_000, -2_000), (103_501, 3_000)]
)
def test_a_clock_is_off_by_no_more_than_the_answer_proves(reading_ms: int, skew_ms: int) -> None:
    status = frames.ReplicaStatus(shard=1, node=1)
    status.statistics["wall_clock_ms"] = reading_ms
    assert replica_of(answered(status), NAMES).clock_skew_ms == skew_ms
