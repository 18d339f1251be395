"""Small replicas for the store's tests: a table of rows stands in for the state machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.raft.types import Entry, EntryKind, HardState, LogIndex, Membership, NodeId, Term
from shardworker.store import NO_CRASH_POINTS, REAL_FILES, Identity, ReplicaStore, StoreSettings

if TYPE_CHECKING:
    from pathlib import Path

    from shardworker.store import CrashPoints, Files

IDENTITY = Identity(cluster_id=0xB0A7, node=1, shard=2, cluster_name="demo")
MEMBERSHIP = Membership(frozenset({NodeId(1), NodeId(2), NodeId(3)}))


def open_replica(
    folder: Path,
    *,
    identity: Identity = IDENTITY,
    settings: StoreSettings | None = None,
    files: Files = REAL_FILES,
    crash_points: CrashPoints = NO_CRASH_POINTS,
    alone: bool = False,
) -> ReplicaStore:
    """A replica whose state machine is the table kv."""
    store = ReplicaStore.open(folder, identity, settings, files=files, crash_points=crash_points, alone=alone)
    if not store.connection.table_exists("main", "kv"):
        with store.turn(sync=True) as turn:
            turn.connection.execute("CREATE TABLE kv(k INTEGER PRIMARY KEY, v BLOB)")
            turn.set_membership(MEMBERSHIP)
    return store


def entry(index: int, term: int = 1, data: bytes = b"data") -> Entry:
    return Entry(Term(term), LogIndex(index), EntryKind.COMMANDS, data)


def put(store: ReplicaStore, value: bytes = b"value", *, sync: bool = True) -> int:
    """One turn as a single voter takes it: append, commit and apply the next entry. Returns its index."""
    index = LogIndex(store.log.last_index() + 1)
    term = Term(max(store.state.term, 1))
    with store.turn(sync=sync) as turn:
        turn.append(HardState(term, NodeId(1), index), [entry(index, term, value)])
        turn.connection.execute("INSERT INTO kv VALUES(?, ?)", (index, value))
        turn.set_applied(index, term)
    return index


def rows(store: ReplicaStore) -> int:
    """How many the state machine holds."""
    count = store.connection.execute("SELECT count(*) FROM kv").get
    assert isinstance(count, int)
    return count
