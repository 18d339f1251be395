"""A replica with everything real but sockets, time and peers, for tests of its parts: the test is all of those."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from config import ClusterConfig
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import LEVEL
from proto.regatta import regatta_pb2 as regatta
from shardworker import raft_frames
from shardworker.machine import REGISTRY, Registry, StateMachine
from shardworker.machine.level import MachineLevel
from shardworker.raft import Membership, MessageKind, NodeId, Raft, Role
from shardworker.replica.replica import Replica
from shardworker.settings import raft_settings
from shardworker.store import REAL_FILES, Identity, ReplicaStore, StoreSettings
from tests.unit.raft.lab import message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from shardworker.raft import Message
    from tests.simulation.disk import SimulatedDisk

CLIENT: Final = b"client"
SHARD: Final = 2
TABLE: Final = 7
KEYS: Final = 4
VALUE: Final = bytes(1 << 20)
"""Large enough that a range of KEYS of them runs beside the loop, and is iterated in parts."""


class Disk:
    """The real files, with as much space, and as slow, as the test says; or those of a simulated disk, which runs out
    of space in earnest."""

    def __init__(self, simulated: SimulatedDisk | None = None) -> None:
        self._simulated = simulated
        self.free = 1 << 40
        self.sync_s = 0.0
        """How long each sync takes."""
        self._now_s = 0.0

    def steady_s(self) -> float:
        self._now_s += self.sync_s
        return self._now_s

    def free_bytes(self, _path: Path) -> int:
        return self.free if self._simulated is None else self._simulated.free_bytes()

    def __getattr__(self, name: str) -> Any:
        return getattr(REAL_FILES if self._simulated is None else self._simulated.files, name)


class Jobs:
    """A background whose jobs end when a turn comes after the test has said so."""

    def __init__(self) -> None:
        self.may_end = True
        self._waiting: list[Callable[[], None]] = []

    @property
    def waiting_count(self) -> int:
        return len(self._waiting)

    @property
    def can_end(self) -> bool:
        return self.may_end and bool(self._waiting)

    def submit(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self._waiting.append(lambda: done(job()))

    def rest(self, seconds: float) -> None:
        """Whoever ends a job has no time for that."""

    def collect(self) -> None:
        while self.may_end and self._waiting:
            self._waiting.pop(0)()

    def end_one(self) -> None:
        """The oldest, whether or not they may."""
        self._waiting.pop(0)()


class Bench:
    """One replica, node 1. The test is its peers, its clients and its clock."""

    def __init__(
        self,
        folder: Path,
        membership: Membership,
        *,
        has_begun: bool = True,
        shard: int = SHARD,
        table: int = TABLE,
        registry: Registry = REGISTRY,
        simulated: SimulatedDisk | None = None,
        **settings: Mapping[str, Any],
    ) -> None:
        """has_begun: otherwise its disk is empty, and it would be one of these members. table: that requests are about,
        without being told otherwise. registry: what its build can carry out. simulated: the
        disk, if not the real one."""
        self._table = table
        nodes = {f"n{node}": {"host": f"127.0.0.{node}"} for node in membership.nodes()}
        self.cluster = ClusterConfig.model_validate({"cluster": "bench", "nodes": nodes} | settings)
        self.other_clients: set[bytes] = set()
        self.disk = Disk(simulated)
        files: Any = self.disk
        self.store = ReplicaStore.open(
            folder,
            Identity(cluster_id=1, node=1, shard=shard),
            StoreSettings(exclusive=simulated is not None),
            files=files,
            vfs=None if simulated is None else simulated.vfs,
        )
        if has_begun and not self.store.membership.voters:
            with self.store.turn(sync=True) as turn:
                turn.set_membership(membership)
                MachineLevel(self.store.connection, LEVEL).rise(LEVEL)  # as long ago
        machine = StateMachine(self.store.connection, shard, registry=registry)
        self.core = Raft(
            raft_settings(self.cluster, NodeId(1)),
            self.store.log,
            self.store.hard_state,
            self.store.membership,
            self.store.applied_index,
            _Rng(),
        )
        self.jobs = Jobs()
        self.sent: list[tuple[NodeId, Message]] = []
        self.level_questions: list[NodeId] = []
        self.sync_reports: list[tuple[NodeId, frames.SyncReport]] = []
        self.states: list[frames.ReplicaState] = []
        self.noticed: list[frames.Superseded] = []
        self.generations: list[int] = []
        """Of what was sent to peers."""
        self.endpoints: dict[NodeId, str] = {}
        self.member_keys: dict[int, bytes] = {}
        self.replies: dict[int, frames.Reply] = {}
        self.committed = frames.CommitPoint()
        """As the last replies came with it."""
        self.largest_answers_bytes = 0
        self._calls = 0
        self.replica = Replica(
            shard=shard,
            node=NodeId(1),
            core=self.core,
            store=self.store,
            machine=machine,
            outbox=self,
            background=self.jobs,
            cluster=self.cluster,
            wall_clock_ms=lambda: 1_000,
            founders=None if has_begun else membership,
            life=1,
        )

    # ---- the outbox

    def send_peer(self, node: NodeId, envelope: frames.Envelope) -> None:
        self.sent += [(node, raft_frames.decode_message(one)) for one in envelope.raft]
        self.generations += [envelope.generation] if envelope.raft else []
        self.sync_reports += [(node, envelope.sync)] if envelope.HasField("sync") else []
        if envelope.level.asks:
            self.level_questions.append(node)

    def send_client(
        self, identity: bytes, envelope: frames.Envelope, attachments: Sequence[bytes] = ()
    ) -> None:
        assert identity == CLIENT or identity in self.other_clients
        self.largest_answers_bytes = max(self.largest_answers_bytes, envelope.ByteSize())
        if envelope.HasField("superseded"):
            self.noticed.append(envelope.superseded)
        if envelope.HasField("state"):
            self.states.append(envelope.state)
        if envelope.replies:
            self.committed = envelope.committed
        for reply in envelope.replies:
            if reply.attachment:
                reply.body = attachments[reply.attachment - 1]
            self.replies[reply.call] = reply

    def know_keys(self, keys: Mapping[int, bytes]) -> None:
        self.member_keys = dict(keys)

    def know_peers(self, endpoints: Mapping[NodeId, str]) -> None:
        self.endpoints = dict(endpoints)

    # ---- what arrives

    def hear(self, *messages: Message) -> None:
        """Messages of peers, and the turn they cause."""
        self.replica.handle(
            b"peer", frames.Envelope(raft=[raft_frames.encode_message(one) for one in messages])
        )
        self.replica.turn()

    def tick(self) -> None:
        self.replica.tick()
        self.replica.turn()

    def ask(
        self, method: frames.Method.ValueType, body: bytes = b"", *, work: bool = True, **fields: Any
    ) -> int:
        """Send a request, and let the replica take a turn, or all that it has work for; the number of the call."""
        self._calls += 1
        envelope = frames.Envelope()
        fields.setdefault("table_id", self._table)
        envelope.requests.add(call=self._calls, method=method, body=body, **fields)
        self.replica.handle(CLIENT, envelope)
        self.replica.turn()
        if work:
            self.work()
        return self._calls

    def work(self) -> None:
        """Take turns while there is something to do, as the loop does."""
        while self.replica.has_work() or self.jobs.can_end:
            self.replica.turn()

    def answer(self, call: int) -> frames.Reply:
        """What the call was told. Raises the error that it was told."""
        assert call in self.replies, "the call was not answered"
        reply = self.replies[call]
        if reply.error:
            raise errors.from_frame(reply.error, reply.detail)
        return reply

    def fill(self) -> None:
        """A table with KEYS keys of VALUE."""
        spec = frames.TableSpec(id=TABLE, name="t", history=-1)
        self.write(frames.TABLE_CREATE, spec.SerializeToString())
        for number in range(KEYS):
            self.write(frames.ETCD_PUT, etcd.PutRequest(key=b"%d" % number, value=VALUE).SerializeToString())

    def write(self, method: frames.Method.ValueType, body: bytes, **fields: Any) -> None:
        """A write under an id of its own, which everybody acknowledges."""
        call = self.ask(method, body, request_id=(self._calls + 1).to_bytes(16, "big"), **fields)
        for peer in sorted(self.core.membership.voters - {NodeId(1)}):
            self.acknowledge(peer)
        self.answer(call)

    def lead(self) -> None:
        """Win an election against the other voters, who then have all of the log."""
        self.be_elected()
        for peer in sorted(self.core.membership.voters - {NodeId(1)}):
            self.acknowledge(peer)

    def be_elected(self) -> None:
        """Win an election against the other voters."""
        self.core.campaign()
        self.replica.turn()
        peers = sorted(self.core.membership.voters - {NodeId(1)})
        for peer in peers:
            self.hear(message(MessageKind.PRE_VOTE_REPLY, peer, self.core.term + 1))
        for peer in peers:
            self.hear(message(MessageKind.VOTE_REPLY, peer, self.core.term))
        assert self.core.role is Role.LEADER

    def acknowledge(self, peer: int) -> None:
        """The peer has all of the log."""
        self.hear(message(MessageKind.APPEND_REPLY, peer, self.core.term, index=self.core.log.last_index))


class _Rng:
    """The longest election timeout there is."""

    def randrange(self, start: int, stop: int) -> int:
        return stop - 1


def everything() -> bytes:
    return etcd.RangeRequest(key=b"\0", range_end=b"\0").SerializeToString()


def everything_deleted() -> bytes:
    return etcd.DeleteRangeRequest(key=b"\0", range_end=b"\0").SerializeToString()


def iteration() -> bytes:
    return regatta.RangeRequest(table=b"t", key=b"\0", range_end=b"\0").SerializeToString()
