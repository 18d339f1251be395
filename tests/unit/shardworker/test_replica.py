"""A replica's turn with everything real but sockets, time and peers: what each call is told, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from config import ClusterConfig
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2 as regatta
from shardworker import raft_frames
from shardworker.machine import FORMAT, StateMachine
from shardworker.raft import Entry, EntryKind, LogIndex, Membership, MessageKind, NodeId, Raft, Role
from shardworker.replica.disk_space import FULL_ELECTIONS
from shardworker.replica.integrity import SCRUB_INTERVAL_S
from shardworker.replica.outgoing import ENVELOPE_BYTES_MAX
from shardworker.replica.replica import APPLY_ANSWER_BYTES_MAX, Replica
from shardworker.store import REAL_FILES, Identity, ReplicaStore
from tests.unit.raft.lab import message
from tests.unit.raft.replica import members, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from shardworker.raft import Message

CLIENT: Final = b"client"
SHARD: Final = 2
TABLE: Final = 7
KEYS: Final = 4
VALUE: Final = bytes(1 << 20)
"""Large enough that a range of KEYS of them runs beside the loop, and is iterated in parts."""


class Disk:
    """The real files, with as much space as the test says."""

    def __init__(self) -> None:
        self.free = 1 << 40

    def free_bytes(self, _path: Path) -> int:
        return self.free

    def __getattr__(self, name: str) -> Any:
        return getattr(REAL_FILES, name)


class Jobs:
    """A background whose jobs end when a turn comes after the test has said so."""

    def __init__(self) -> None:
        self.may_end = True
        self._waiting: list[Callable[[], None]] = []

    @property
    def can_end(self) -> bool:
        return self.may_end and bool(self._waiting)

    def submit(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self._waiting.append(lambda: done(job()))

    def collect(self) -> None:
        while self.may_end and self._waiting:
            self._waiting.pop(0)()


class Bench:
    """One replica, node 1. The test is its peers, its clients and its clock."""

    def __init__(self, folder: Path, membership: Membership) -> None:
        nodes = {f"n{node}": {"host": f"127.0.0.{node}"} for node in membership.nodes()}
        self.cluster = ClusterConfig.model_validate({"cluster": "bench", "nodes": nodes})
        self.disk = Disk()
        files: Any = self.disk
        self.store = ReplicaStore.open(folder, Identity(cluster_id=1, node=1, shard=SHARD), files=files)
        if not self.store.membership.voters:
            with self.store.turn(sync=True) as turn:
                turn.set_membership(membership)
        machine = StateMachine(self.store.connection, SHARD)
        self.core = Raft(
            settings_of(1, election_ticks=self.cluster.raft.election_ticks),
            self.store.log,
            self.store.hard_state,
            self.store.membership,
            self.store.applied_index,
            _Rng(),
        )
        self.jobs = Jobs()
        self.sent: list[tuple[NodeId, Message]] = []
        self.replies: dict[int, frames.Reply] = {}
        self.largest_answers_bytes = 0
        self._calls = 0
        self.replica = Replica(
            shard=SHARD,
            node=NodeId(1),
            core=self.core,
            store=self.store,
            machine=machine,
            outbox=self,
            background=self.jobs,
            cluster=self.cluster,
            wall_clock_ms=lambda: 1_000,
            founders=None,
            life=1,
        )

    # ---- the outbox

    def send_peer(self, node: NodeId, envelope: frames.Envelope) -> None:
        self.sent += [(node, raft_frames.decode_message(one)) for one in envelope.raft]

    def send_client(
        self, identity: bytes, envelope: frames.Envelope, attachments: Sequence[bytes] = ()
    ) -> None:
        assert identity == CLIENT
        self.largest_answers_bytes = max(self.largest_answers_bytes, envelope.ByteSize())
        for reply in envelope.replies:
            if reply.attachment:
                reply.body = attachments[reply.attachment - 1]
            self.replies[reply.call] = reply

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

    def ask(self, method: frames.Method.ValueType, body: bytes = b"", **fields: Any) -> int:
        """Send a request, and let the replica take a turn; the number of the call."""
        self._calls += 1
        envelope = frames.Envelope()
        envelope.requests.add(call=self._calls, method=method, table_id=TABLE, body=body, **fields)
        self.replica.handle(CLIENT, envelope)
        self.replica.turn()
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

    def write(self, method: frames.Method.ValueType, body: bytes) -> None:
        """A write under an id of its own, which everybody acknowledges."""
        call = self.ask(method, body, request_id=(self._calls + 1).to_bytes(16, "big"))
        for peer in sorted(self.core.membership.voters - {NodeId(1)}):
            self.acknowledge(peer)
        self.answer(call)

    def lead(self) -> None:
        """Win an election against the other voters."""
        self.core.campaign()
        self.replica.turn()
        peers = sorted(self.core.membership.voters - {NodeId(1)})
        for peer in peers:
            self.hear(message(MessageKind.PRE_VOTE_REPLY, peer, self.core.term + 1))
        for peer in peers:
            self.hear(message(MessageKind.VOTE_REPLY, peer, self.core.term))
        for peer in peers:
            self.acknowledge(peer)
        assert self.core.role is Role.LEADER

    def acknowledge(self, peer: int) -> None:
        """The peer has all of the log."""
        self.hear(message(MessageKind.APPEND_REPLY, peer, self.core.term, index=self.core.log.last_index))


class _Rng:
    """The longest election timeout there is."""

    def randrange(self, start: int, stop: int) -> int:
        return stop - 1


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Bench]:
    """The only replica of its shard, with a table."""
    bench = Bench(tmp_path / "alone", members(1))
    bench.core.campaign()
    bench.replica.turn()
    bench.fill()
    yield bench
    bench.store.close()


@pytest.fixture
def led(tmp_path: Path) -> Iterator[Bench]:
    """One of three, with a table; it has led, and now node 2 leads."""
    bench = Bench(tmp_path / "led", members(1, 2, 3))
    bench.lead()
    bench.fill()
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1))
    yield bench
    bench.store.close()


def everything() -> bytes:
    return etcd.RangeRequest(key=b"\0", range_end=b"\0").SerializeToString()


def everything_deleted() -> bytes:
    return etcd.DeleteRangeRequest(key=b"\0", range_end=b"\0").SerializeToString()


def iteration() -> bytes:
    return regatta.RangeRequest(table=b"t", key=b"\0", range_end=b"\0").SerializeToString()


def test_an_iteration_that_its_client_leaves_ends_without_a_complaint(alone: Bench) -> None:
    """Python reports what fails in an abandoned generator on stderr only; pytest makes an error of it."""
    cursor = alone.answer(alone.ask(frames.REGATTA_ITERATE, iteration())).cursor
    assert cursor
    alone.answer(alone.ask(frames.CURSOR_CLOSE, cursor=cursor))
    with pytest.raises(errors.CursorNotFound):
        alone.answer(alone.ask(frames.CURSOR_NEXT, cursor=cursor))


def test_a_read_that_ends_when_the_tables_are_known_to_be_wrong_is_refused(alone: Bench) -> None:
    alone.jobs.may_end = False
    read = alone.ask(frames.ETCD_RANGE, everything())
    assert read not in alone.replies
    alone.store.connection.execute(f"UPDATE t{TABLE}_rev SET crc = crc + 1")  # noqa: S608 - a number
    for _ in range(SCRUB_INTERVAL_S * 1000 // alone.cluster.raft.tick_ms):
        alone.tick()
    alone.jobs.may_end = True  # the read's first, then that of the scrub
    alone.replica.turn()
    with pytest.raises(errors.Corrupt, match="checksum"):
        alone.answer(read)


def test_a_read_that_ends_in_doubt_is_refused(led: Bench) -> None:
    led.jobs.may_end = False
    read = led.ask(frames.ETCD_RANGE, everything())
    assert read not in led.replies
    doubt = frames.DigestVerdict(
        sender=2, term=led.core.term, outcome=frames.DigestVerdict.DOUBT, index=led.store.applied_index
    )
    led.replica.handle(b"peer", frames.Envelope(verdict=doubt))
    led.jobs.may_end = True
    led.replica.turn()
    with pytest.raises(errors.Corrupt, match="no majority agrees"):
        led.answer(read)


def test_a_full_replica_that_comes_to_lead_hands_over(led: Bench) -> None:
    led.disk.free = 0
    led.tick()
    assert led.replica.status().no_space
    led.lead()
    for _ in range(FULL_ELECTIONS * led.cluster.raft.election_ticks + 1):  # one more: peers have to answer
        led.tick()
        led.hear(*(message(MessageKind.HEARTBEAT_REPLY, peer, led.core.term) for peer in (2, 3)))
    asked = [node for node, one in led.sent if one.kind is MessageKind.TIMEOUT_NOW]
    assert asked == [2]


def test_a_nearly_full_disk_takes_what_frees_space_and_then_everything(alone: Bench) -> None:
    least = alone.cluster.store.disk_free_bytes_min
    one = etcd.DeleteRangeRequest(key=b"1")
    put = etcd.PutRequest(key=b"new", value=b"v")
    get = etcd.RangeRequest(key=b"1")

    def txn(*ops: etcd.RequestOp) -> bytes:
        return etcd.TxnRequest(success=ops).SerializeToString()

    alone.disk.free = least - 1
    alone.tick()
    refused = [
        (frames.ETCD_PUT, put.SerializeToString()),
        (frames.ETCD_TXN, txn(etcd.RequestOp(request_put=put))),
        (frames.ETCD_TXN, txn(etcd.RequestOp(request_delete_range=one), etcd.RequestOp(request_put=put))),
        (frames.ETCD_TXN, txn(etcd.RequestOp())),
        (frames.ETCD_TXN, b"\xff"),
    ]
    for number, (method, body) in enumerate(refused):
        with pytest.raises(errors.NoSpace):
            alone.answer(alone.ask(method, body, request_id=b"refused-%08d" % number))
    nested = etcd.TxnRequest(failure=[etcd.RequestOp(request_delete_range=one)])
    taken = [
        (frames.ETCD_TXN, txn(etcd.RequestOp(request_range=get), etcd.RequestOp(request_delete_range=one))),
        (frames.ETCD_TXN, txn(etcd.RequestOp(request_txn=nested))),
        (frames.ETCD_DELETE_RANGE, everything_deleted()),
    ]
    for number, (method, body) in enumerate(taken):
        alone.answer(alone.ask(method, body, request_id=b"taken---%08d" % number))
    revision = alone.answer(alone.ask(frames.ETCD_RANGE, everything(), linearizable=True)).revision
    compaction = etcd.CompactionRequest(revision=revision, physical=True).SerializeToString()
    alone.ask(frames.ETCD_COMPACT, compaction, request_id=b"compaction------")
    wait = 0
    while alone.store.reusable_bytes() < KEYS * len(VALUE) // 2 and wait < 100:
        wait += 1
        alone.tick()
    # The file is as long as before, and the disk as full.
    assert alone.store.reusable_bytes() >= KEYS * len(VALUE) // 2
    alone.disk.free = 2 * least - alone.store.reusable_bytes() + 8192
    alone.tick()
    alone.answer(alone.ask(frames.ETCD_PUT, put.SerializeToString(), request_id=b"taken at last---"))


def test_what_is_said_to_another_replica_is_not_heard(tmp_path: Path) -> None:
    """A peer that still has an address of old may reach the wrong one. The entry here is a deposed leader's, and the
    commit index what node 3 is known to have."""
    bench = Bench(tmp_path, members(1, 2, 3))
    bench.lead()
    spec = frames.TableSpec(id=TABLE, name="never", history=-1)
    bench.ask(frames.TABLE_CREATE, spec.SerializeToString(), request_id=bytes(16))
    last = bench.core.log.last_index
    bench.hear(message(MessageKind.HEARTBEAT, 2, bench.core.term + 1, to=3, commit=last))
    assert bench.core.log.commit < last
    bench.store.close()


def test_a_turn_does_not_collect_the_answers_of_all_that_waits_to_be_applied(led: Bench) -> None:
    """Each entry here is small, and its answers are all that one transaction may collect."""
    core, previous = led.core, led.core.log.last_index
    body = etcd.TxnRequest(
        success=[etcd.RequestOp(request_range=etcd.RangeRequest(key=b"0", range_end=b"\0"))]
    ).SerializeToString()
    count = APPLY_ANSWER_BYTES_MAX // (KEYS * len(VALUE))

    def batch(entry: int) -> bytes:
        ids = [(entry * count + number).to_bytes(16, "little") for number in range(count)]
        commands = [
            frames.Command(method=frames.ETCD_TXN, table_id=TABLE, body=body, request_id=request_id)
            for request_id in ids
        ]
        return frames.CommandBatch(time_ms=2_000, format=FORMAT, commands=commands).SerializeToString()

    entries = tuple(
        Entry(core.term, LogIndex(previous + 1 + n), EntryKind.COMMANDS, batch(n)) for n in range(3)
    )
    append = message(
        MessageKind.APPEND,
        2,
        core.term,
        index=previous,
        log_term=core.log.last_term,
        entries=entries,
        commit=entries[-1].index,
    )
    led.hear(append)
    for entry in entries:
        assert led.store.applied_index == entry.index
        assert led.replica.has_work() == (entry is not entries[-1])
        led.replica.turn()
    assert led.store.log.last_index() == entries[-1].index


def test_many_answers_of_one_turn_leave_in_more_than_one_envelope(alone: Bench) -> None:
    value = bytes(200 << 10)  # too small to travel beside the envelope
    alone.write(frames.ETCD_PUT, etcd.PutRequest(key=b"k", value=value).SerializeToString())
    envelope = frames.Envelope()
    calls = range(1_000, 1_000 + 2 * ENVELOPE_BYTES_MAX // len(value))
    body = etcd.RangeRequest(key=b"k").SerializeToString()
    for call in calls:
        envelope.requests.add(call=call, method=frames.ETCD_RANGE, table_id=TABLE, body=body)
    alone.replica.handle(CLIENT, envelope)
    alone.replica.turn()
    for call in calls:
        assert len(alone.answer(call).body) > len(value)
    assert ENVELOPE_BYTES_MAX - len(value) < alone.largest_answers_bytes < ENVELOPE_BYTES_MAX + len(value)


def test_a_leader_says_whether_anybody_can_take_over(alone: Bench, led: Bench) -> None:
    with pytest.raises(errors.NoSuccessor):
        alone.answer(alone.ask(frames.TRANSFER_LEADER))
    led.lead()
    led.answer(led.ask(frames.TRANSFER_LEADER))
    assert [node for node, one in led.sent if one.kind is MessageKind.TIMEOUT_NOW] == [2]


def transfer(target: int) -> bytes:
    return frames.TransferLeader(target=target).SerializeToString()


def test_a_leader_hands_over_to_whom_it_is_told(led: Bench) -> None:
    led.lead()
    led.answer(led.ask(frames.TRANSFER_LEADER, transfer(1)))  # it leads already
    assert [one for _, one in led.sent if one.kind is MessageKind.TIMEOUT_NOW] == []
    led.answer(led.ask(frames.TRANSFER_LEADER, transfer(3)))
    assert [node for node, one in led.sent if one.kind is MessageKind.TIMEOUT_NOW] == [3]


def test_nobody_leads_who_does_not_vote(tmp_path: Path) -> None:
    bench = Bench(tmp_path, members(1, 2, learners=(3,)))
    bench.lead()
    for target, why in ((3, "node 3 is a learner of shard 2"), (4, "node 4 has no replica of shard 2")):
        with pytest.raises(errors.BadTransferee, match=why):
            bench.answer(bench.ask(frames.TRANSFER_LEADER, transfer(target)))
    with pytest.raises(errors.MalformedRequest):
        bench.answer(bench.ask(frames.TRANSFER_LEADER, b"\xff"))
    assert [one for _, one in bench.sent if one.kind is MessageKind.TIMEOUT_NOW] == []
    bench.store.close()


@pytest.mark.parametrize("unknown", [frames.RaftMessage(kind=99), frames.RaftEntry(kind=99)])
def test_what_a_newer_peer_says_is_lost_and_the_rest_is_heard(
    led: Bench, unknown: frames.RaftMessage | frames.RaftEntry
) -> None:
    """An entry that this version could not apply is neither stored nor acknowledged."""
    last, term = led.core.log.last_index, led.core.term
    append = raft_frames.encode_message(
        message(MessageKind.APPEND, 2, term, index=last, log_term=led.core.log.term(last), commit=last + 1)
    )
    if isinstance(unknown, frames.RaftEntry):
        append.entries.add(index=last + 1, term=term, kind=unknown.kind)
    else:
        append.kind = unknown.kind
    heard = raft_frames.encode_message(message(MessageKind.HEARTBEAT, 2, term, context=77))
    led.sent.clear()
    led.replica.handle(b"peer", frames.Envelope(raft=[append, heard]))
    led.replica.turn()
    assert led.core.log.last_index == last
    assert [(one.kind, one.context) for _, one in led.sent] == [(MessageKind.HEARTBEAT_REPLY, 77)]
