"""Clients of the simulated cluster, each with a coordinator that asks for it.

A client does one operation at a time. What it was told goes into the recorded history: an answer, or that nothing
happened, or that nobody knows; in the last case it may say the same again to another coordinator, under the same
request id, as a client may that brings its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coordinator.shards.request_ids import RequestIds
from coordinator.shards.shard_call import LEADER, NEAREST, ShardCall
from proto.etcd import rpc_pb2
from proto.ids import NodeId, ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import Access
from proto.regatta import regatta_pb2
from tests.history.operations import Kind
from tests.simulation.violation import Violation
from tests.simulation.world import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable

    from proto import errors
    from tests.history.operations import Pending
    from tests.simulation.cluster import Cluster
    from tests.simulation.coordinator import Coordinator
    from tests.simulation.own_writes import Known

TABLE_ID: Final = 10_001
REGISTERS: Final = (b"r0", b"r1", b"r2")
COUNTERS: Final = (b"counter0", b"counter1")
PAIR: Final = (b"pair/a", b"pair/b")
"""Always written together, in one transaction, with one value."""

Asked = tuple[tuple[int, int, int], int]
"""A replica's disk in its present state, and the highest revision it had shown."""

REGATTA_SHARE: Final = 0.25

TIMEOUT_S: Final = 5.0
REPEAT_SHARE: Final = 0.5
"""Of the writes that nobody knows the fate of, so many are said again."""


@dataclass(slots=True)
class _Operation:
    """One operation from its invocation to its end."""

    call: Callable[[], ShardCall]
    """A new call of it, under the same request id."""
    pending: Pending | None
    ended: Callable[[frames.Reply], None]
    asked: Asked = ((0, 0, 0), 0)
    known: Known | None = None
    """Serializable reads only, as is the one before."""
    is_repetition: bool = False


class Client:
    """Alive until `stop()`; then it ends what it is at."""

    def __init__(self, cluster: Cluster, coordinator: Coordinator) -> None:
        self.address = coordinator.address
        self.number = int(self.address[1:])
        self._cluster = cluster
        self._world = cluster.world
        self._coordinator = coordinator
        self._rng = cluster.world.stream(f"client-{self.number}")
        self._ids = RequestIds(self._rng.randbytes(8))
        self._values = 0
        self._current: _Operation | None = None
        self._guesses: dict[bytes, bytes | None] = {}
        self._revision = 1
        # A client that only reads stays with a leader which has lost its followers: it is answered, or waits.
        self.only_reads = self.number > 1 and self._rng.random() < 0.5
        self.stopped = False
        self.think_us_max = 100 * MS
        self.completed = 0
        self.written = 0
        """Writes among the completed operations."""

    @property
    def idle(self) -> bool:
        return self._current is None

    def start(self) -> None:
        self._world.after(self._rng.randrange(50 * MS), self._next)

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
            frames.TABLE_CREATE, spec.SerializeToString(), None, lambda _reply: ended(), timeout_s=1e6
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

    # ---- calls --------------------------------------------------------------------------------------------------

    def _begin(
        self,
        method: frames.Method.ValueType,
        body: bytes,
        pending: Pending | None,
        ended: Callable[[frames.Reply], None],
        *,
        is_write: bool = True,
        linearizable: bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        request_id = self._ids.draw() if is_write else b""
        target = LEADER if linearizable else self._rng.choice((NEAREST, self._any_replica()))

        def call() -> ShardCall:
            return ShardCall(
                ShardId(self._cluster.shard),
                target,
                Access.WRITE if is_write else Access.READ,
                method,
                TABLE_ID,
                body,
                deadline=self._coordinator.now_s() + timeout_s,
                request_id=request_id,
                linearizable=linearizable and not is_write,
                shown_revision=0 if linearizable else self._coordinator.shown_revision,
            )

        operation = self._current = _Operation(call, pending, ended)
        self._ask(self._coordinator, operation, repeats=is_write and self._rng.random() < REPEAT_SHARE)

    def _any_replica(self) -> NodeId:
        return NodeId(self._rng.randint(1, len(self._cluster.hosts)))

    def _ask(self, coordinator: Coordinator, operation: _Operation, *, repeats: bool) -> None:
        def sent(node: int) -> None:
            operation.asked = self._cluster.stale.asked(node)
            if shown:
                operation.known = self._cluster.own_writes.asked(node, shown, coordinator.committed)

        def ended(call: ShardCall) -> None:
            error = call.error
            if error is not None and not error.definite and repeats:
                self._world.note(f"{self.address} repeats")
                operation.is_repetition = True
                other = self._rng.choice(self._cluster.coordinators)
                self._world.after(
                    self._rng.randrange(SECOND), lambda: self._ask(other, operation, repeats=False)
                )
            elif error is not None:
                self._failed(operation, error)
            else:
                self._answered(operation, call, coordinator)

        call = operation.call()
        shown = call.shown_revision
        coordinator.ask(call, sent=sent, ended=ended)

    def _failed(self, operation: _Operation, error: errors.BoathouseError) -> None:
        self._finish(type(error).__name__)
        if operation.pending is not None:
            # What a repetition was refused for says nothing about the first time.
            if error.definite and not operation.is_repetition:
                operation.pending.refused()
            else:
                operation.pending.lost()

    def _answered(self, operation: _Operation, call: ShardCall, coordinator: Coordinator) -> None:
        assert call.reply is not None
        assert call.node is not None
        self._revision = max(self._revision, call.reply.revision)
        if not call.linearizable and call.access is Access.READ:
            self._cluster.stale.answered(call.node, operation.asked, call.reply.revision)
            if operation.known is not None:
                self._cluster.own_writes.answered(operation.known, call.reply.revision, coordinator.applied)
        coordinator.shown_revision = max(coordinator.shown_revision, call.reply.revision)
        self.completed += 1
        self.written += call.access is Access.WRITE
        self._finish("ok")
        operation.ended(call.reply)

    def _finish(self, how: str) -> None:
        self._world.note(f"{self.address} {how}")
        self._current = None
        self._world.after(1 + self._rng.randrange(self.think_us_max), self._next)


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
