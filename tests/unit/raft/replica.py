"""One core with a disk in memory, driven exactly as types.Ready demands.

The disk remembers which turns were synced: a crash takes the others with it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from shardworker.raft import (
    NO_NODE,
    Entry,
    EntryKind,
    HardState,
    LogIndex,
    Membership,
    Message,
    NodeId,
    Raft,
    ReadState,
    Ready,
    Rng,
    Settings,
    SnapshotMeta,
    Term,
)
from tests.unit.raft.memory_log import MemoryLog

START = LogIndex(0)
FRESH = HardState(Term(0), NO_NODE, START)


def node_ids(*numbers: int) -> frozenset[NodeId]:
    return frozenset(NodeId(number) for number in numbers)


def members(*voters: int, learners: tuple[int, ...] = ()) -> Membership:
    return Membership(voters=node_ids(*voters), learners=node_ids(*learners))


def settings_of(
    node: int,
    *,
    election_ticks: int = 10,
    heartbeat_ticks: int = 1,
    append_bytes_max: int = 1 << 20,
    inflight_appends_max: int = 64,
    uncommitted_bytes_max: int = 1 << 20,
    pre_vote: bool = True,
    check_quorum: bool = True,
    eager_commit: bool = True,
) -> Settings:
    return Settings(
        node=NodeId(node),
        election_ticks=election_ticks,
        heartbeat_ticks=heartbeat_ticks,
        append_bytes_max=append_bytes_max,
        inflight_appends_max=inflight_appends_max,
        uncommitted_bytes_max=uncommitted_bytes_max,
        pre_vote=pre_vote,
        check_quorum=check_quorum,
        eager_commit=eager_commit,
    )


@dataclass
class Disk:
    log: MemoryLog = field(default_factory=MemoryLog)
    hard_state: HardState = FRESH
    membership: Membership = field(default_factory=members)
    applied: LogIndex = START
    state: tuple[Entry, ...] = ()
    """What the state machine applied, in order; a snapshot of it is the tuple itself."""

    def copy(self) -> Disk:
        return Disk(self.log.copy(), self.hard_state, self.membership, self.applied, self.state)


class Replica:
    """`snapshots` stands for the side channel on which snapshot contents travel: all replicas share one."""

    def __init__(
        self,
        settings: Settings,
        membership: Membership,
        *,
        seed: int = 0,
        raft_class: type[Raft] = Raft,
        rng: Rng | None = None,
        disk: Disk | None = None,
        snapshots: dict[LogIndex, tuple[Entry, ...]] | None = None,
    ) -> None:
        self.settings = settings
        self.disk = disk or Disk(membership=membership)
        self.reads: list[ReadState] = []
        self.disk_is_full = False
        self._seed = seed
        self._raft_class = raft_class
        self._rng = rng
        self._snapshots = {} if snapshots is None else snapshots
        self._synced = self.disk.copy()
        self.raft = self._start()

    def _start(self) -> Raft:
        disk = self.disk
        rng = self._rng or random.Random(f"{self._seed}/{self.settings.node}")
        return self._raft_class(self.settings, disk.log, disk.hard_state, disk.membership, disk.applied, rng)

    def turn(self) -> tuple[Ready, list[Message]]:
        """Carry out one Ready; it and what has to be sent, early messages first."""
        ready = self.raft.ready()
        if self.disk_is_full:
            self.raft.advance(ready, durable=False)
            self.reads += ready.reads
            return ready, list(ready.early_messages)
        self._save(ready)
        self.raft.advance(ready)
        self.reads += ready.reads
        return ready, [*ready.early_messages, *ready.messages]

    def _save(self, ready: Ready) -> None:
        disk = self.disk
        if ready.snapshot is not None:
            disk.log.install(ready.snapshot)
            disk.membership = ready.snapshot.membership
            disk.applied = ready.snapshot.index
            disk.state = self._snapshots[ready.snapshot.index]
        if ready.hard_state is not None:
            disk.hard_state = ready.hard_state
        disk.log.append(ready.entries)
        for entry in ready.committed:
            assert entry.index == disk.applied + 1, "applied out of order"
            if entry.kind is EntryKind.MEMBERSHIP:
                disk.membership = self.raft.apply_membership(entry)
            disk.state = (*disk.state, entry)
            disk.applied = entry.index
        if ready.committed:
            self._offer_snapshot()
        if ready.must_sync:
            self._synced = disk.copy()

    def _offer_snapshot(self) -> SnapshotMeta:
        """As with SQLite, a snapshot can be made of the applied state at any time."""
        disk = self.disk
        meta = SnapshotMeta(disk.applied, disk.log.term(disk.applied), disk.membership)
        self._snapshots[meta.index] = disk.state
        disk.log.set_snapshot(meta)
        return meta

    def compact(self, *, keep_entries: int = 0) -> SnapshotMeta:
        """Drop the applied log but for its last keep_entries; what a snapshot would now stand for."""
        cut = LogIndex(max(self.disk.applied - keep_entries, self.disk.log.first_index() - 1))
        self.disk.log.compact(cut)
        self._synced = self.disk.copy()
        return self._offer_snapshot()

    def crash_and_restart(self) -> None:
        """The process dies; turns that were not synced are gone with it."""
        self.disk = self._synced.copy()
        self._seed += 1
        self.raft = self._start()
