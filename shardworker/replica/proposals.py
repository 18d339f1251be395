"""Writes between their arrival and their answer."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from google.protobuf.message import DecodeError

from proto import errors
from proto.internal import frames_pb2 as frames
from proto.methods import REQUEST_ID_BYTES
from shardworker.machine import FORMAT, UnreadableEntry
from shardworker.raft import Accepted
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from shardworker.raft import Entry, LogIndex, Term
    from shardworker.replica.part import ReplicaContext


TXN_BYTES_MAX: Final = 256 << 10
"""Of transactions in one log entry: some 30,000 operations of the smallest kind, about what an entry's commands may do
together (machine/budget.py). With more, some would be refused for their neighbours' sake; and all of an entry is
applied before the next heartbeat."""

_TXN: Final = frozenset({frames.ETCD_TXN, frames.REGATTA_TXN})
_OWN: Final = struct.Struct(">QQQQ")


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who gets the answer of a request: a coordinator's link and the call on it."""

    identity: bytes
    call: int


class Proposed(NamedTuple):
    """One log entry's commands, and who waits for the result of each; None: nobody."""

    batch: frames.CommandBatch
    waiters: list[Waiter | None]


class WriteQueue:
    """Writes that the next turn proposes, and how many callers wait for a result.

    A request id may come again while its first command is under way (a coordinator that retries, or another request
    under the same id). It is proposed again all the same, and whoever brought it waits for what comes of just this
    command: only the state machine can tell whether it was applied, and whether it is the same request."""

    def __init__(self, *, requests_max: int, bytes_max: int, batch_bytes_max: int) -> None:
        """Bounds: calls waiting for an answer, bytes not yet proposed, bytes of one log entry (at least one
        command goes in whatever its size). See TXN_BYTES_MAX, too."""
        self._requests_max = requests_max
        self._bytes_max = bytes_max
        self._batch_bytes_max = batch_bytes_max
        self._queue: list[tuple[frames.Request, Waiter | None]] = []
        self._queue_bytes = 0
        self._waiting_count = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def waiting_count(self) -> int:
        """Calls without an answer yet, proposed or not."""
        return self._waiting_count

    def admit(self, identity: bytes, request: frames.Request) -> None:
        """Queue a write. Raises QueueFull, or MalformedRequest for an id that is not REQUEST_ID_BYTES long."""
        if len(request.request_id) != REQUEST_ID_BYTES:
            raise errors.MalformedRequest(f"a write needs a request id of {REQUEST_ID_BYTES} bytes")
        size = len(request.body)
        if self._waiting_count >= self._requests_max or self._queue_bytes + size > self._bytes_max:
            raise errors.QueueFull(f"{self._waiting_count} writes are waiting on this shard")
        self._queue.append((request, Waiter(identity, request.call)))
        self._queue_bytes += size
        self._waiting_count += 1

    def add(self, request: frames.Request) -> None:
        """Queue a write that nobody waits for."""
        assert len(request.request_id) == REQUEST_ID_BYTES
        self._queue.append((request, None))
        self._queue_bytes += len(request.body)

    def take(self, time_ms: int) -> Iterator[Proposed]:
        """Empty the queue into batches, one per log entry, in order of arrival."""
        queue, self._queue, self._queue_bytes = self._queue, [], 0
        proposed = Proposed(frames.CommandBatch(time_ms=time_ms, format=FORMAT), [])
        batch_bytes = txn_bytes = 0
        for request, waiter in queue:
            size = len(request.body)
            txn_size = size if request.method in _TXN else 0
            if (batch_bytes and batch_bytes + size > self._batch_bytes_max) or (
                txn_bytes and txn_size and txn_bytes + txn_size > TXN_BYTES_MAX
            ):
                yield proposed
                proposed = Proposed(frames.CommandBatch(time_ms=time_ms, format=FORMAT), [])
                batch_bytes = txn_bytes = 0
            proposed.batch.commands.add(
                method=request.method,
                table_id=request.table_id,
                body=request.body,
                request_id=request.request_id,
                user=request.user,
                auth_revision=request.auth_revision,
            )
            proposed.waiters.append(waiter)
            batch_bytes += size + 1
            txn_bytes += txn_size
        if batch_bytes:
            yield proposed

    def forget(self, proposed: Proposed) -> None:
        """Who waits for it is told now."""
        self._waiting_count -= len(proposed.waiters) - proposed.waiters.count(None)

    def abandon(self) -> list[Waiter]:
        """Drop the queue, count nobody any more, and say who waited in it."""
        waiters = [waiter for _, waiter in self._queue if waiter is not None]
        self._queue, self._queue_bytes = [], 0
        self._waiting_count = 0
        return waiters


class Proposals(Part):
    """Makes log entries of what waits, and knows who waits for what comes of it."""

    def __init__(self, context: ReplicaContext, wall_clock_ms: Callable[[], int], life: int) -> None:
        """life: as of Replica."""
        limits, raft = context.cluster.limits, context.cluster.raft
        self._core = context.core
        self._machine = context.machine
        self._outgoing = context.outgoing
        self._wall_clock_ms = wall_clock_ms
        self._last_time_ms = 0
        self._failed_count = 0
        self._queue = WriteQueue(
            requests_max=limits.pending_requests_max,
            bytes_max=limits.pending_bytes_max,
            batch_bytes_max=raft.entry_bytes_max,
        )
        self._who = (context.shard, context.node, life)
        self._own_numbers = itertools.count(1)
        self._own: dict[tuple[LogIndex, Term], Proposed] = {}
        """What this leader has proposed and not answered: it need not parse what it has just built."""

    def admit(self, identity: bytes, request: frames.Request) -> None:
        """Take a write for the next turn. Raises QueueFull or MalformedRequest."""
        self._queue.admit(identity, request)

    def add_own(self, method: frames.Method.ValueType, body: bytes, *, table_id: int = 0) -> None:
        """Take a command of this leader's own for the next turn. Like any it may be lost with its leadership, or be
        applied all the same. Whoever asks for it again brings another command: it must change nothing to apply both.

        Its id is no other's in any shard, whose results of requests come here with the tables that move."""
        which = _OWN.pack(*self._who, next(self._own_numbers))
        request_id = blake2b(which, digest_size=REQUEST_ID_BYTES, person=b"own command").digest()
        self._queue.add(frames.Request(method=method, table_id=table_id, body=body, request_id=request_id))

    def propose(self) -> None:
        """Give the core what has arrived, as one entry if it fits."""
        if not self._queue:
            return
        self._last_time_ms = max(self._last_time_ms + 1, self._machine.time_ms, self._wall_clock_ms())
        for proposed in self._queue.take(self._last_time_ms):
            outcome = self._core.propose(proposed.batch.SerializeToString())
            if isinstance(outcome, Accepted):
                self._own[outcome.index, outcome.term] = proposed
            else:
                self._queue.forget(proposed)
                self._give_up(proposed.waiters, f"not proposed: {outcome.reason.value}")

    def _give_up(self, waiters: Iterable[Waiter | None], why: str) -> None:
        """What was proposed may still be applied, and any id may have been proposed before: nobody hears that nothing
        happened, and all have to ask elsewhere, with the same request id."""
        lost = errors.LeaderLost(why)
        for waiter in waiters:
            if waiter is not None:
                self._failed_count += 1
                self._outgoing.refuse(waiter.identity, waiter.call, lost)

    def batch(self, entry: Entry) -> frames.CommandBatch:
        """The commands of a committed entry, which is applied next. Raises UnreadableEntry."""
        own = self._own.get((entry.index, entry.term))
        if own is not None:
            return own.batch
        try:
            return frames.CommandBatch.FromString(entry.data)
        except DecodeError:
            raise UnreadableEntry(
                f"log entry {entry.index} of term {entry.term} is no batch of commands, though its checksum is right:"
                " who led in that term wrote it so"
            ) from None

    def take_waiters(self, entry: Entry) -> list[Waiter | None]:
        """Who waits for the result of each command of an entry that was applied, and is the caller's to answer now;
        nobody at all, and an empty list, if it is none of this leader's."""
        own = self._own.pop((entry.index, entry.term), None)
        if own is None:
            return []
        self._queue.forget(own)
        return own.waiters

    def has_work(self) -> bool:
        return bool(self._queue)

    def abandon(self, why: str) -> None:
        own, self._own = self._own, {}
        for proposed in own.values():
            self._give_up(proposed.waiters, why)
        self._give_up(self._queue.abandon(), why)

    def drained(self) -> bool:
        return not self._queue.waiting_count

    def statistics(self) -> Mapping[str, int]:
        # The node's own clock beside the figures, so that whoever compares nodes sees one that is off.
        return {
            "writes_waiting": self._queue.waiting_count,
            "writes_failed": self._failed_count,
            "wall_clock_ms": self._wall_clock_ms(),
        }
