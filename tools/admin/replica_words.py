"""What a replica says of itself, in an operator's words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.catalog import history_word
from proto.etcd import rpc_pb2 as rpc
from proto.internal import frames_pb2 as frames
from tools.admin.snapshot import Replica, Table, TableMove

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tools.admin.probe import Answered

QUEUES: Final = ("writes_waiting", "reads_waiting", "long_reads_waiting")
"""Statistics of a replica's parts that count requests in it."""


def replica_of(answer: Answered, names: Mapping[int, str]) -> Replica:
    """What a replica said, in an operator's words. names: of the nodes, by id."""
    status = answer.status
    statistics = status.statistics
    return Replica(
        shard=status.shard,
        node=names.get(status.node, str(status.node)),
        is_answering=True,
        answered_at=answer.answered_at,
        role=status.role,
        leader=names.get(status.leader, ""),
        term=status.term,
        commit_index=status.commit_index,
        applied_index=status.applied_index,
        database_bytes=status.database_bytes,
        wal_bytes=statistics.get("wal_bytes"),
        disk_free_bytes=statistics.get("disk_free_bytes"),
        queued=sum(statistics[queue] for queue in QUEUES if queue in statistics),
        sync_p99_us=statistics.get("sync_p99_us") or None,  # 0: none of late
        syncs_of_late=statistics.get("syncs_of_late"),
        commands_applied=statistics.get("commands_applied"),
        reads_served=statistics.get("reads_served"),
        build_level=statistics.get("build_level"),
        clock_skew_ms=_clock_skew_ms(answer),
        no_space=status.no_space,
        fault=status.fault,
        newer_protocol=status.newer_protocol or None,
        voters=[names.get(node, str(node)) for node in status.voters],
        learners=[names.get(node, str(node)) for node in status.learners],
        tables=[_table(status, table) for table in status.tables if not table.name.startswith("_")],
        arriving={
            move.table_id: move.keys for move in status.moves if move.state == frames.MoveState.ARRIVING
        },
    )


def _clock_skew_ms(answer: Answered) -> int | None:
    """The least that explains the reading: it was taken between the question and the answer."""
    if "wall_clock_ms" not in answer.status.statistics:
        return None
    reading_ms = answer.status.statistics["wall_clock_ms"]
    asked_ms, answered_ms = int(answer.asked_at * 1000), int(answer.answered_at * 1000) + 1
    return min(0, reading_ms - asked_ms) or max(0, reading_ms - answered_ms)


_LEAVING: Final = (frames.MoveState.COPYING, frames.MoveState.FENCED)


def _table(status: frames.ReplicaStatus, table: frames.TableStatus) -> Table:
    moves = [
        TableMove(target=move.shard, is_fenced=move.state == frames.MoveState.FENCED)
        for move in status.moves
        if move.table_id == table.id and move.state in _LEAVING
    ]
    return Table(
        name=table.name,
        shard=status.shard,
        id=table.id,
        move=moves[0] if moves else None,
        revision=table.revision,
        keys=table.keys,
        compacted_revision=table.compacted_revision if table.compacted_revision >= 0 else None,
        history=str(history_word(table.history)),
        followers={follower.follower: follower.revision for follower in table.followers},
        size_bytes=table.size_bytes,
        quota_bytes=table.quota_bytes or None,
        is_full=table.full,
        alarms=sorted({rpc.AlarmType.Name(rpc.AlarmType.ValueType(alarm.alarm)) for alarm in table.alarms}),
    )
