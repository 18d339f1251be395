"""Copies in transit: each belongs to the leadership that began it, and nothing that goes wrong with one is fatal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from config import ClusterConfig
from proto import errors
from shardworker.raft import MessageKind, NodeId, Role
from shardworker.replica.giving_way import Demand
from shardworker.replica.outgoing import Outgoing
from shardworker.replica.part import ReplicaContext
from shardworker.replica.snapshots import (
    CHUNKS_AHEAD,
    SHARE_MAX,
    TAIL_SHARE_FIRST,
    TAIL_SHARE_LAST,
    Snapshots,
)
from shardworker.store import Identity
from tests.unit.raft.lab import give, lead, message, of_kind, replica_with
from tests.unit.store.replicas import open_replica, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from proto.internal import frames_pb2 as frames
    from shardworker.raft import Message

RECEIVER: Final = NodeId(1)
SENDER: Final = NodeId(2)
THIRD: Final = NodeId(3)
CLUSTER: Final = ClusterConfig.model_validate({"cluster": "snapshots", "nodes": {"n1": {}}})


class Jobs:
    """A background whose jobs end when the test says so."""

    def __init__(self) -> None:
        self.is_full = False
        self.rested_s = 0.0
        self._waiting: list[Callable[[], None]] = []

    def submit(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        if self.is_full:
            raise errors.QueueFull("as the test wants it")
        self._waiting.append(lambda: done(job()))

    def rest(self, seconds: float) -> None:
        self.rested_s += seconds

    def collect(self) -> None:
        while self._waiting:
            self._waiting.pop(0)()


class Side:
    """One replica's share of a transfer: its core, its store, and what it sent."""

    def __init__(
        self, folder: Path, node: NodeId, *, rows: int, term: int, cluster: ClusterConfig = CLUSTER
    ) -> None:
        self.core = replica_with(node=node, term=term)
        self.raft = self.core.raft
        self.store = open_replica(folder, identity=Identity(cluster_id=0xB0A7, node=node, shard=2))
        for _ in range(rows):
            put(self.store)
        self.jobs = Jobs()
        self.now_s = 0.0
        self.demand = Demand(lambda: self.now_s)
        self.sent: list[frames.Envelope] = []
        machine: Any = None  # a copy is of files: nobody looks at tables
        self.snapshots = Snapshots(
            ReplicaContext(
                shard=2,
                node=node,
                core=self.raft,
                store=self.store,
                machine=machine,
                background=self.jobs,
                cluster=cluster,
                outgoing=Outgoing(self.raft, self, turn_answer_bytes_max=1, link_answer_bytes_max=1),
                demand=self.demand,
            )
        )

    def send_peer(self, node: NodeId, envelope: frames.Envelope) -> None:
        self.sent.append(envelope)

    def know_keys(self, keys: Mapping[int, bytes]) -> None:
        """Nobody asks for one here."""

    def know_peers(self, endpoints: Mapping[NodeId, str]) -> None:
        raise AssertionError("it knows them")

    def send_client(
        self, identity: bytes, envelope: frames.Envelope, attachments: Sequence[bytes] = ()
    ) -> None:
        raise AssertionError("a copy goes to peers only")

    def take_sent(self) -> list[frames.Envelope]:
        sent, self.sent = self.sent, []
        return sent

    def hear_chunks_of(self, other: Side) -> None:
        """All that the other side has sent; the last chunk starts the check of the copy."""
        for envelope in other.take_sent():
            self.snapshots.handle(b"peer", envelope)

    def leads_in(self, term: int, leader: NodeId) -> list[Message]:
        """Hear that this one leads in that term."""
        return give(self.core, message(MessageKind.HEARTBEAT, leader, term))


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Side]:
    """Leads in term 1, and holds five entries' worth of state."""
    side = Side(tmp_path / "sender", SENDER, rows=5, term=0)
    lead(side.core)
    yield side
    side.store.close()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Side]:
    """Follows in term 1."""
    side = Side(tmp_path / "receiver", RECEIVER, rows=0, term=1)
    side.leads_in(1, SENDER)
    yield side
    side.store.close()


def files_in_transit(side: Side) -> list[str]:
    return [file.name for file in side.store.path.glob("*.tmp")]


def test_a_copy_arrives_whole_and_is_offered_to_the_core(sender: Side, receiver: Side) -> None:
    sender.snapshots.start(RECEIVER)
    sender.jobs.collect()
    receiver.hear_chunks_of(sender)
    receiver.jobs.collect()
    pending = receiver.raft.log.pending_snapshot
    assert pending is not None
    assert pending.index == 5
    assert receiver.snapshots.received(pending).meta == pending


def test_a_copy_that_cannot_be_made_now_is_tried_again(sender: Side) -> None:
    sender.core.compact()
    ask = message(MessageKind.APPEND_REPLY, RECEIVER, 1, to=SENDER, reject=True)
    give(sender.core, ask)
    sender.raft.tick()
    wanted = of_kind(
        give(sender.core, message(MessageKind.HEARTBEAT_REPLY, RECEIVER, 1)), MessageKind.SNAPSHOT
    )
    assert [one.to for one in wanted] == [RECEIVER]
    sender.jobs.is_full = True
    sender.snapshots.start(RECEIVER)
    assert sender.raft.status().progress[RECEIVER].state == "probe"
    sender.jobs.is_full = False
    sender.snapshots.start(RECEIVER)
    sender.jobs.collect()
    assert sender.take_sent()


def test_a_copy_of_an_earlier_leader_does_not_disturb_a_later_one(sender: Side, receiver: Side) -> None:
    sender.snapshots.start(RECEIVER)
    sender.jobs.collect()
    receiver.hear_chunks_of(sender)
    lead(receiver.core)
    receiver.jobs.collect()  # only now the check of the copy has ended
    assert (receiver.raft.role, receiver.raft.leader) == (Role.LEADER, RECEIVER)
    receiver.snapshots.end_turn()
    assert not files_in_transit(receiver)


def test_who_leads_no_longer_does_not_send_in_the_name_of_the_new_leader(
    sender: Side, receiver: Side
) -> None:
    sender.snapshots.start(RECEIVER)
    for side in (sender, receiver):
        side.leads_in(2, THIRD)
    sender.jobs.collect()
    receiver.hear_chunks_of(sender)
    receiver.jobs.collect()
    assert receiver.raft.leader == THIRD


def test_who_leads_again_starts_again(sender: Side, receiver: Side) -> None:
    sender.snapshots.start(RECEIVER)
    sender.leads_in(2, THIRD)
    lead(sender.core)
    sender.snapshots.start(RECEIVER)
    sender.jobs.collect()
    receiver.leads_in(sender.raft.term, SENDER)
    receiver.hear_chunks_of(sender)
    receiver.jobs.collect()
    assert receiver.raft.log.pending_snapshot is not None


def test_a_copy_that_waits_to_be_installed_is_not_replaced(
    sender: Side, receiver: Side, tmp_path: Path
) -> None:
    sender.snapshots.start(RECEIVER)
    sender.jobs.collect()
    receiver.hear_chunks_of(sender)
    receiver.jobs.collect()
    pending = receiver.raft.log.pending_snapshot
    assert pending is not None  # and there it stays, while the disk has no room for what belongs to it
    behind = Side(tmp_path / "behind", THIRD, rows=2, term=1)
    try:
        lead(behind.core)
        receiver.raft.step(message(MessageKind.HEARTBEAT, THIRD, behind.raft.term))
        behind.snapshots.start(RECEIVER)
        behind.jobs.collect()
        receiver.hear_chunks_of(behind)
        receiver.jobs.collect()
    finally:
        behind.store.close()
    assert receiver.snapshots.received(pending).meta == pending


CHUNK_BYTES: Final = 4_096
STEP_S: Final = 0.01


class Busy:
    """A copy of many chunks on its way. The peer takes each STEP_S after it was sent, and so long is a round."""

    def __init__(self, folder: Path, *, tail_entries: int) -> None:
        settings = {
            "store": {"snapshot_chunk_bytes": CHUNK_BYTES},
            "raft": {"log_tail_entries": tail_entries},
        }
        cluster = ClusterConfig.model_validate({"cluster": "snapshots", "nodes": {"n1": {}}} | settings)
        self.sender = Side(folder / "sender", SENDER, rows=0, term=0, cluster=cluster)
        for _ in range(50):
            put(self.sender.store, bytes(2 * CHUNK_BYTES), sync=False)
        lead(self.sender.core)
        self.receiver = Side(folder / "receiver", RECEIVER, rows=0, term=1)
        self.receiver.leads_in(1, SENDER)
        self.sender.snapshots.start(RECEIVER)
        self.most_under_way = 0

    def rounds_until_there(self, *, wanted: bool, entries_a_round: int = 0) -> int:
        """How many it takes until the copy has arrived."""
        if wanted:
            self.sender.demand.notice()
        self.sender.jobs.collect()
        rounds = 0
        while self.receiver.raft.log.pending_snapshot is None:
            rounds += 1
            assert rounds < 5_000, "it does not get on"
            under_way = [one for one in self.sender.take_sent() if one.HasField("snapshot_chunk")]
            self.most_under_way = max(self.most_under_way, len(under_way))
            for _ in range(entries_a_round):
                put(self.sender.store, sync=False)
            self.sender.now_s += STEP_S
            if wanted:
                self.sender.demand.notice()
            for envelope in under_way:
                self.receiver.snapshots.handle(b"peer", envelope)
            self.receiver.jobs.collect()
            for envelope in self.receiver.take_sent():
                self.sender.snapshots.handle(b"peer", envelope)
            self.sender.snapshots.end_turn()
        return rounds

    def close(self) -> None:
        self.sender.store.close()
        self.receiver.store.close()


def test_a_copy_gives_way_to_clients_and_goes_on(tmp_path: Path) -> None:
    rounds: dict[bool, int] = {}
    for wanted in (False, True):
        busy = Busy(tmp_path / str(wanted), tail_entries=10_000)
        rounds[wanted] = busy.rounds_until_there(wanted=wanted)
        assert busy.most_under_way == (1 if wanted else CHUNKS_AHEAD)
        assert (busy.sender.jobs.rested_s > 0.0) == wanted, "who makes the copy rests, too"
        busy.close()
    chunks = rounds[False] * CHUNKS_AHEAD
    assert rounds[True] == pytest.approx(chunks / SHARE_MAX, rel=0.15)


def test_a_copy_is_there_before_the_log_has_lost_what_follows_it(tmp_path: Path) -> None:
    """At its own pace it would come after the last entry of the tail that follows it has gone."""
    slow = Busy(tmp_path / "slow", tail_entries=1_000_000)
    tail_entries = slow.rounds_until_there(wanted=True, entries_a_round=1)
    slow.close()
    busy = Busy(tmp_path / "busy", tail_entries=tail_entries)
    rounds = busy.rounds_until_there(wanted=True, entries_a_round=1)
    assert tail_entries * TAIL_SHARE_FIRST < rounds <= tail_entries * TAIL_SHARE_LAST + CHUNKS_AHEAD
    busy.close()
