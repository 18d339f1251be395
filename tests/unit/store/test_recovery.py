"""A replica that is made all of its shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shardworker.raft import (
    Entry,
    EntryKind,
    HardState,
    LogIndex,
    Membership,
    MembershipChange,
    NodeId,
    Step,
    StepKind,
    Term,
    encode_change,
)
from shardworker.recovery import TERM_STEP, CannotRecover, recover
from shardworker.store import Identity, ReplicaStore, StoreInUse

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = Identity(cluster_id=7, node=3, shard=1)
THREE = Membership(
    frozenset(map(NodeId, (1, 2, 3))), learners=frozenset({NodeId(4)}), directory=((NodeId(4), b"there"),)
)


def entry(index: int, kind: EntryKind = EntryKind.COMMANDS, data: bytes = b"put") -> Entry:
    return Entry(Term(2), LogIndex(index), kind, data)


def change(index: int) -> Entry:
    added = MembershipChange((Step(StepKind.ADD_VOTER, NodeId(4)),))
    return entry(index, EntryKind.MEMBERSHIP, encode_change(added))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a replica that has five entries, of which two are applied and the fourth adds a voter."""
    store = ReplicaStore.open(tmp_path / "shard-1", IDENTITY)
    with store.turn(sync=True) as turn:
        turn.append(
            HardState(Term(2), NodeId(1), LogIndex(2)), (entry(1), entry(2), entry(3), change(4), entry(5))
        )
        turn.set_applied(LogIndex(2), Term(2))
        turn.set_membership(THREE)
    store.close()
    return tmp_path / "shard-1"


def test_it_keeps_its_log_and_is_alone(folder: Path) -> None:
    assert recover(folder, IDENTITY) == 5
    store = ReplicaStore.open(folder, IDENTITY)
    departed = ((NodeId(1), b""), (NodeId(2), b""), (NodeId(4), b"there"))
    assert store.membership == Membership(frozenset({NodeId(3)}), generation=1, departed=departed)
    assert store.hard_state.term == 2 + TERM_STEP
    kept = store.log.entries(LogIndex(1), LogIndex(6), 1 << 20)
    assert [one.data for one in kept] == [b"put", b"put", b"put", b"", b"put"]
    assert {one.kind for one in kept} == {EntryKind.COMMANDS}
    assert store.verify() == []
    store.close()
    recover(folder, IDENTITY)  # again changes nothing but the term


def test_one_whose_worker_runs_is_left_alone(folder: Path) -> None:
    store = ReplicaStore.open(folder, IDENTITY)
    with pytest.raises(StoreInUse):
        recover(folder, IDENTITY)
    store.close()


def test_one_that_lacks_what_it_had_is_refused(folder: Path, tmp_path: Path) -> None:
    store = ReplicaStore.open(folder, IDENTITY)
    store.begin_rebuild("it was damaged")
    store.close()
    with pytest.raises(CannotRecover, match="up to index 5"):
        recover(folder, IDENTITY)
    with pytest.raises(CannotRecover, match="holds no replica"):
        recover(tmp_path, IDENTITY)
    ReplicaStore.open(tmp_path / "new", IDENTITY).close()
    with pytest.raises(CannotRecover, match="never belonged"):
        recover(tmp_path / "new", IDENTITY)
