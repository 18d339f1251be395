"""Clients of the simulated cluster, speaking frames as a coordinator's link does.

A client does one operation at a time: it sends a request to the replica it takes for the leader, and tries again
elsewhere, under the same request id, when it is told to or hears nothing, until its deadline. What it was told goes
into the recorded history; whoever never got an answer, or "nobody knows" once, records an unknown end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proto import errors
from proto.errors import Retry
from proto.etcd import rpc_pb2
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2
from tests.history.operations import Kind
from tests.simulation.violation import Violation
from tests.simulation.world import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.history.operations import Pending
    from tests.simulation.cluster import Cluster

TABLE_ID: Final = 10_001
REGISTERS: Final = (b"r0", b"r1", b"r2")
COUNTERS: Final = (b"counter0", b"counter1")
PAIR: Final = (b"pair/a", b"pair/b")
"""Always written together, in one transaction, with one value."""

Asked = tuple[tuple[int, int, int], int]
"""A replica's disk in its present state, and the highest revision it had shown."""

REGATTA_SHARE: Final = 0.25

ATTEMPT_US: Final = 900 * MS
DEADLINE_US: Final = 5 * SECOND


@dataclass(slots=True)
class _Call:
    """One operation from its invocation to its end."""

    method: int
    body: bytes
    is_write: bool
    linearizable: bool
    pending: Pending | None
    ended: Callable[[frames.Reply], None]
    request_id: bytes
    deadline_us: int
    target: int
    calls: set[int] = field(default_factory=set)
    uncertain: bool = False
    """An attempt of it may have been applied."""
    asked: Asked = ((0, 0, 0), 0)
    """Serializable reads only."""
    attempts: int = 0


class Client:
    """Alive until `stop()`; then it ends what it is at."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.number = number
        self.address = f"c{number}"
        self._cluster = cluster
        self._world = cluster.world
        self._rng = cluster.world.stream(f"client-{number}")
        self._incarnation = self._rng.randbytes(8)
        self._sequence = 0
        self._calls = 0
        self._values = 0
        self._current: _Call | None = None
        self._leader = 1
        self._term = 0
        self._guesses: dict[bytes, bytes | None] = {}
        self._revision = 1
        # A client that only reads stays with a leader which has lost its followers: it is answered, or waits.
        self.only_reads = number > 1 and self._rng.random() < 0.5
        self.stopped = False
        self.think_us_max = 100 * MS
        self.completed = 0
        cluster.network.attach(self.address, self._receive)

    @property
    def idle(self) -> bool:
        return self._current is None

    def start(self) -> None:
        self._world.after(self._rng.randrange(50 * MS), self._next)

    def greet(self, node: int) -> None:
        """Introduce this client to a replica that has just started: it announces new leaders from then on."""
        envelope = frames.Envelope(hello=frames.Hello(node=self.number))
        envelope.group = self._cluster.config.group(self._cluster.shard)
        self._cluster.network.send(self.address, f"n{node}", envelope.SerializeToString())

    def stop(self) -> None:
        """Begin no new operation."""
        self.stopped = True

    def _next(self) -> None:
        if self.stopped or self._current is not None:
            return
        if self.only_reads:
            self._rng.choice((self._get, self._get, self._get, self._stale_get, self._read_pair))()
            return
        kinds = (
            self._put,
            self._get,
            self._stale_get,
            self._cas,
            self._delete,
            self._count,
            self._write_pair,
        )
        weights = (24, 22, 14, 16, 6, 12, 6)
        extra = (self._read_pair, self._compact)
        self._rng.choices(kinds + extra, (*weights, 6, 6 if self._cluster.plan.compacts else 0))[0]()

    # ---- operations ---------------------------------------------------------------------------------------------

    def _value(self) -> bytes:
        self._values += 1
        return b"%s-%d" % (self.address.encode(), self._values)

    def create_table(self, ended: Callable[[], None]) -> None:
        """The first thing that happens in a cluster."""
        spec = frames.TableSpec(id=TABLE_ID, name="table", history=-1)
        self._begin(
            frames.TABLE_CREATE, spec.SerializeToString(), None, lambda _reply: ended(), deadline_us=1 << 60
        )

    def _speaks_regatta(self) -> bool:
        """Now and then an operation goes through the other API, on the same keys."""
        return self._rng.random() < REGATTA_SHARE

    def _put(self) -> None:
        self._put_to(self._rng.choice(REGISTERS))

    def _put_to(self, key: bytes) -> None:
        value = self._value()
        pending = self._cluster.recorder.invoke(self.number, Kind.PUT, key, value=value)

        def ended(reply: frames.Reply) -> None:
            self._guesses[key] = value
            pending.succeeded(revision=reply.revision)

        if self._speaks_regatta():
            put = regatta_pb2.PutRequest(key=key, value=value)
            self._begin(frames.REGATTA_PUT, put.SerializeToString(), pending, ended)
        else:
            body = rpc_pb2.PutRequest(key=key, value=value).SerializeToString()
            self._begin(frames.ETCD_PUT, body, pending, ended)

    def _count(self) -> None:
        """A put to a key that is never deleted: its version counts the puts that took effect."""
        self._put_to(self._rng.choice(COUNTERS))

    def _delete(self) -> None:
        key = self._rng.choice(REGISTERS)
        pending = self._cluster.recorder.invoke(self.number, Kind.DELETE, key)

        def ended(reply: frames.Reply) -> None:
            # Both APIs number the count of deleted keys alike.
            answer = rpc_pb2.DeleteRangeResponse.FromString(reply.body)
            self._guesses[key] = None
            pending.succeeded(hit=answer.deleted > 0, revision=reply.revision)

        if self._speaks_regatta():
            delete = regatta_pb2.DeleteRangeRequest(key=key, count=True)
            self._begin(frames.REGATTA_DELETE_RANGE, delete.SerializeToString(), pending, ended)
        else:
            body = rpc_pb2.DeleteRangeRequest(key=key).SerializeToString()
            self._begin(frames.ETCD_DELETE_RANGE, body, pending, ended)

    def _cas(self) -> None:
        key, value = self._rng.choice(REGISTERS), self._value()
        expected = self._guesses.get(key)
        pending = self._cluster.recorder.invoke(self.number, Kind.CAS, key, value=value, expected=expected)
        txn = rpc_pb2.TxnRequest()
        compare = txn.compare.add(key=key, result=rpc_pb2.Compare.EQUAL)
        if expected is None:
            compare.target, compare.create_revision = rpc_pb2.Compare.CREATE, 0
        else:
            compare.target, compare.value = rpc_pb2.Compare.VALUE, expected
        txn.success.add(request_put=rpc_pb2.PutRequest(key=key, value=value))
        txn.failure.add(request_range=rpc_pb2.RangeRequest(key=key))

        def ended(reply: frames.Reply) -> None:
            answer = rpc_pb2.TxnResponse.FromString(reply.body)
            if answer.succeeded:
                self._guesses[key] = value
            else:
                found = answer.responses[0].response_range.kvs
                self._guesses[key] = found[0].value if found else None
            pending.succeeded(hit=answer.succeeded, revision=reply.revision)

        self._begin(frames.ETCD_TXN, txn.SerializeToString(), pending, ended)

    def _write_pair(self) -> None:
        value = self._value()
        pending = self._cluster.recorder.invoke(self.number, Kind.PUT, PAIR[0], value=value)
        txn = rpc_pb2.TxnRequest()
        for key in PAIR:
            txn.success.add(request_put=rpc_pb2.PutRequest(key=key, value=value))
        self._begin(
            frames.ETCD_TXN,
            txn.SerializeToString(),
            pending,
            lambda reply: _end(pending, reply),
        )

    def _get(self) -> None:
        self._read(self._rng.choice(REGISTERS + COUNTERS), linearizable=True)

    def _stale_get(self) -> None:
        self._read(self._rng.choice(REGISTERS + COUNTERS), linearizable=False)

    def _read_pair(self) -> None:
        self._read(PAIR[0], linearizable=self._rng.random() < 0.5, range_end=b"pair/c")

    def _read(self, key: bytes, *, linearizable: bool, range_end: bytes = b"") -> None:
        pending = self._cluster.recorder.invoke(self.number, Kind.GET, key, linearizable=linearizable)
        api, method = (
            (regatta_pb2, frames.REGATTA_RANGE) if self._speaks_regatta() else (rpc_pb2, frames.ETCD_RANGE)
        )

        def ended(reply: frames.Reply) -> None:
            kvs = api.RangeResponse.FromString(reply.body).kvs
            found = kvs[0].value if kvs else None
            if range_end and len({kv.value for kv in kvs}) > 1:
                raise Violation("atomic-txn", f"a read found half a transaction: {[kv.value for kv in kvs]}")
            if linearizable:
                self._guesses[key] = found
            mod_revision = kvs[0].mod_revision if kvs else 0
            pending.succeeded(found=found, revision=reply.revision, mod_revision=mod_revision)

        body = api.RangeRequest(key=key, range_end=range_end).SerializeToString()
        self._begin(method, body, pending, ended, is_write=False, linearizable=linearizable)

    def _compact(self) -> None:
        self._cluster.count("compaction")
        revision = max(1, self._revision - self._rng.randrange(12))
        body = rpc_pb2.CompactionRequest(revision=revision).SerializeToString()
        self._begin(frames.ETCD_COMPACT, body, None, lambda _reply: None)

    # ---- attempts -----------------------------------------------------------------------------------------------

    def _begin(
        self,
        method: int,
        body: bytes,
        pending: Pending | None,
        ended: Callable[[frames.Reply], None],
        *,
        is_write: bool = True,
        linearizable: bool = True,
        deadline_us: int = DEADLINE_US,
    ) -> None:
        self._sequence += 1
        target = self._leader if linearizable else self._any_replica()
        self._current = _Call(
            method=method,
            body=body,
            is_write=is_write,
            linearizable=linearizable,
            pending=pending,
            ended=ended,
            request_id=self._incarnation + struct.pack(">Q", self._sequence) if is_write else b"",
            deadline_us=self._world.now_us + deadline_us,
            target=target,
        )
        self._attempt(self._current)

    def _any_replica(self) -> int:
        return self._rng.randint(1, len(self._cluster.hosts))

    def _attempt(self, call: _Call) -> None:
        self._calls += 1
        number = self._calls
        call.calls.add(number)
        call.attempts += 1
        if not call.linearizable:
            call.asked = self._cluster.stale.asked(call.target)
        envelope = frames.Envelope(hello=frames.Hello(node=self.number))
        envelope.group = self._cluster.config.group(self._cluster.shard)
        envelope.requests.add(
            call=number,
            method=call.method,
            table_id=TABLE_ID,
            body=call.body,
            request_id=call.request_id,
            linearizable=call.linearizable,
        )
        self._cluster.network.send(self.address, f"n{call.target}", envelope.SerializeToString())
        self._world.after(ATTEMPT_US, lambda: self._unanswered(call, number))

    def _unanswered(self, call: _Call, number: int) -> None:
        if call is self._current and number in call.calls and number == self._calls:
            call.uncertain = call.uncertain or call.is_write
            self._again(call, self._any_replica())

    def _again(self, call: _Call, target: int) -> None:
        if self._world.now_us >= call.deadline_us or not call.linearizable:
            self._give_up(call)
        else:
            self._leader = call.target = target
            self._attempt(call)

    def _give_up(self, call: _Call) -> None:
        if call.pending is not None:
            if call.uncertain:
                call.pending.lost()
            else:
                call.pending.refused()
        self._finish("gave up")

    def _finish(self, how: str) -> None:
        self._world.note(f"{self.address} {how}")
        self._current = None
        self._world.after(1 + self._rng.randrange(self.think_us_max), self._next)

    def _receive(self, sender: str, payload: bytes) -> None:
        envelope = frames.Envelope.FromString(payload)
        if envelope.HasField("state") and envelope.state.leader and envelope.state.term > self._term:
            self._term = envelope.state.term
            self._follow(envelope.state.leader)
        for reply in envelope.replies:
            call = self._current
            if call is not None and reply.call in call.calls:
                self._answered(call, int(sender[1:]), reply)

    def _follow(self, leader: int) -> None:
        """Somebody leads a later term: what waits for an earlier leader's answer is asked there, under its old id."""
        self._leader = leader
        call = self._current
        if call is not None and call.linearizable and call.target != leader:
            call.uncertain = call.uncertain or call.is_write
            self._again(call, leader)

    def _answered(self, call: _Call, node: int, reply: frames.Reply) -> None:
        if not reply.error:
            self._revision = max(self._revision, reply.revision)
            if not call.linearizable:
                self._cluster.stale.answered(node, call.asked, reply.revision)
            self.completed += 1
            self._finish("ok")
            call.ended(reply)
            return
        error = errors.BY_FRAME_CODE[reply.error]
        call.uncertain = call.uncertain or (call.is_write and not error.definite)
        if error.retry is Retry.NOBODY:
            if error.definite and not call.uncertain:
                self._give_up(call)
            elif call.pending is not None:
                call.pending.lost()
                self._finish(error.__name__)
            else:
                self._finish(error.__name__)
            return
        # Only the newest attempt's answer starts another one: a late one has done so already.
        if reply.call == self._calls:
            self._calls += 1  # its time-out no longer matters
            target = reply.leader if reply.leader and reply.leader != node else self._any_replica()
            self._world.after(20 * MS + self._rng.randrange(80 * MS), lambda: self._retry(call, target))

    def _retry(self, call: _Call, target: int) -> None:
        if call is self._current:
            self._again(call, target)


def _end(pending: Pending, reply: frames.Reply) -> None:
    pending.succeeded(revision=reply.revision)


class StaleReads:
    """Serializable reads on one replica never go back in time.

    A replica that lost power may: it applied what it had not synced, which Raft allows, and does so again."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._shown: dict[tuple[int, int, int], int] = {}
        """Highest revision by (node, power cuts so far, disks so far)."""

    def asked(self, node: int) -> Asked:
        """Note what this replica has shown, when a read is about to be sent to it."""
        host = self._cluster.hosts[node - 1]
        disk = (node, host.disk.power_cuts, host.disks)
        return disk, self._shown.get(disk, 0)

    def answered(self, node: int, asked: Asked, revision: int) -> None:
        """The read that was sent with `asked` shows this revision."""
        disk, shown = asked
        if self.asked(node)[0] != disk:
            return  # nobody knows on which side of a power cut it was answered
        if revision < shown:
            raise Violation("stale-reads", f"n{node} showed revision {revision} after it had shown {shown}")
        self._shown[disk] = max(self._shown.get(disk, 0), revision)
