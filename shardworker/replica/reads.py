"""Reads: a linearizable one waits for the core's word, and each for its share of a turn.

    arrived --ask--> asked --confirm--> confirmed --applied--> due --has room--> read and answered
                                 what may be stale begins here ^

A linearizable read is recorded with the core (`read_index`), confirmed by a majority, and due once this replica has
applied the index that was committed when it arrived (Raft thesis 6.4). All reads of a turn share one round. One that
may be stale is due at once, and sees the state as it is; only what its client's node has shown already is waited for,
for a moment, by a replica that lags. What is due is read when its answer may leave: an answer is
never made to wait in memory, and none is made for who has given up. Long ones run beside the loop (long_reads.py): they
see the newest committed turn, which is never older than what they were promised.

What is asked for more than once in a turn is read once: all of it sees the same state, and hot keys are what clients
read at the same moment.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from proto import errors
from proto.methods import COMMANDS, Access
from shardworker.machine import Result
from shardworker.raft import Accepted, LogIndex
from shardworker.replica.long_reads import Patience
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proto.internal import frames_pb2 as frames
    from shardworker.machine import Parsed, Who
    from shardworker.raft import ReadState
    from shardworker.replica.logins import Logins
    from shardworker.replica.long_reads import LongReads
    from shardworker.replica.part import Handler, ReplicaContext


TURN_S: Final = 0.05
"""How long one turn reads for those who wait; the rest comes after what else there is to do, heartbeats among it. What
a look takes for light may not be, and twenty thousand reads may wait."""

CATCH_UP_MS: Final = 2_000
"""A replica that does not get what was shown elsewhere for so long is cut off, and answers with what it has."""


class _Read(NamedTuple):
    identity: bytes
    request: frames.Request
    since_ticks: int


class _Question(NamedTuple):
    """All that the answer of a read depends on, besides the state that it is read from."""

    method: int
    table_id: int
    body: bytes
    who: Who


def _withdraw(reads: list[_Read] | deque[_Read]) -> list[_Read]:
    """Takes out what only a leader can answer."""
    needs_leader = [COMMANDS[read.request.method].access is Access.PROVEN_LEADER for read in reads]
    withdrawn = list(itertools.compress(reads, needs_leader))
    if withdrawn:
        kept = [read for read, needs in zip(reads, needs_leader, strict=True) if not needs]
        reads.clear()
        reads.extend(kept)
    return withdrawn


class Reads(Part):
    """All reads of one replica, from arrival to answer."""

    def __init__(
        self, context: ReplicaContext, long_reads: LongReads, logins: Logins, openers: Mapping[int, Handler]
    ) -> None:
        """openers: who takes over what is more than a look at the tables, by method."""
        self._core = context.core
        self._store = context.store
        self._machine = context.machine
        self._outgoing = context.outgoing
        self._long_reads = long_reads
        self._logins = logins
        self._openers = openers
        self._patience_ticks = context.cluster.limits.read_timeout_ms // context.cluster.raft.tick_ms
        self._catch_up_ticks = CATCH_UP_MS // context.cluster.raft.tick_ms
        self._ticks = 0
        self._requests_max = context.cluster.limits.pending_requests_max
        self._contexts = itertools.count(1)
        self._arrived: list[_Read] = []
        self._asked: dict[int, list[_Read]] = {}
        self._confirmed: list[tuple[LogIndex, list[_Read]]] = []
        self._behind: list[_Read] = []
        """Those that may be stale, but not so much."""
        self._due: dict[bytes, deque[_Read]] = {}
        self._results: dict[_Question, Result] = {}
        self._waiting_count = 0
        self._failed_count = 0
        self._slow_count = 0
        """Rounds that leadership was confirmed for only when no read waited any more, or never."""
        self.served: Counter[int] = Counter()
        """Since the process began, by method."""

    def admit(self, identity: bytes, request: frames.Request) -> None:
        """Take a read. Raises QueueFull."""
        if self._waiting_count >= self._requests_max:
            raise errors.QueueFull(f"{self._waiting_count} reads are waiting on this shard")
        self._waiting_count += 1
        read = _Read(identity, request, self._ticks)
        if request.linearizable:
            self._arrived.append(read)
        elif self._lags(read):
            self._behind.append(read)
        else:
            self._make_due(read)

    def _lags(self, read: _Read) -> bool:
        """Whether a read that may be stale has to wait for what was shown already."""
        request = read.request
        if not request.shown_revision or self._ticks - read.since_ticks > self._catch_up_ticks:
            return False
        table = self._machine.tables.get(request.table_id)
        return table is not None and table.revision < request.shown_revision

    def ask(self) -> None:
        """Record everything that has arrived with the core, under one context."""
        if not self._arrived:
            return
        arrived, self._arrived = self._arrived, []
        context = next(self._contexts)
        if isinstance(self._core.read_index(context), Accepted):
            self._asked[context] = arrived
        else:
            self._refuse(arrived, errors.NotLeader())

    def confirm(self, states: tuple[ReadState, ...]) -> None:
        """The core has confirmed these contexts at these indexes."""
        for state in states:
            reads = self._asked.pop(state.context, None)
            if reads:
                self._note_slow(reads)
                self._confirmed.append((state.index, reads))

    def _note_slow(self, reads: list[_Read]) -> None:
        """Of one round, which has ended."""
        if self._ticks - reads[0].since_ticks > self._patience_ticks:
            self._slow_count += 1

    def serve(self, applied: LogIndex, fault: errors.BoathouseError | None) -> None:
        """Answer what is due at the applied index, as far as there is room; or everything due with the fault."""
        if self._confirmed:
            for index, reads in self._confirmed:
                if index <= applied:
                    for read in reads:
                        self._make_due(read)
            self._confirmed = [(index, reads) for index, reads in self._confirmed if index > applied]
        if self._behind:
            behind, self._behind = self._behind, []
            for read in behind:
                if fault is None and self._lags(read):
                    self._behind.append(read)
                else:
                    self._make_due(read)
        if fault is not None:
            due, self._due = self._due, {}
            for queue in due.values():
                self._refuse(queue, fault)
            return
        until_s = self._store.steady_s() + TURN_S
        has_time = True
        for identity, queue in list(self._due.items()):
            if not has_time:
                break
            while queue and has_time and self._outgoing.has_room(identity):
                self._waiting_count -= 1
                read = queue.popleft()
                self.served[read.request.method] += 1
                self._serve(read)
                has_time = self._store.steady_s() < until_s
            del self._due[identity]
            if queue:
                self._due[identity] = queue  # behind the others: next turn they come first
        self._results.clear()

    def _make_due(self, read: _Read) -> None:
        queue = self._due.get(read.identity)
        if queue is None:
            queue = self._due[read.identity] = deque()
        queue.append(read)

    def _serve(self, read: _Read) -> None:
        identity, request, since_ticks = read
        try:
            if self._ticks - since_ticks > self._patience_ticks:
                raise errors.ReadTimedOut("it was not this read's turn in time")
            if request.linearizable:
                # What may be stale is told as long as the table is here, which no other shard has changed by then.
                self._machine.check_serves(request)
            opener = self._openers.get(request.method)
            if opener is not None:
                opener(identity, request)
                return
            who = self._logins.identify(request)
            question = _Question(request.method, request.table_id, request.body, who)
            result = self._results.get(question)
            if result is None:
                parsed = self._machine.parse(*question)
                if self._machine.is_heavy(parsed):
                    answer = partial(self._outgoing.answer, identity, request.call)
                    patience = Patience()
                    beside = partial(self._read_beside, parsed, patience)
                    self._long_reads.submit(identity, beside, answer, patience)
                    return
                result = self._results[question] = self._machine.read(self._store.connection, parsed)
        except errors.BoathouseError as error:
            self._outgoing.refuse(identity, request.call, error)
            return
        self._outgoing.answer(identity, request.call, result)

    def _read_beside(self, request: Parsed, patience: Patience) -> Result:
        connection = self._store.reader()
        try:
            with patience.of(connection):
                return self._machine.read(connection, request)
        except errors.ReadTimedOut as error:
            return Result(0, b"", error)
        finally:
            self._store.close_reader(connection)

    def abandon(self, why: str) -> None:
        """What is not confirmed goes elsewhere, and what is confirmed too, if the tables alone do not answer it."""
        for reads in self._asked.values():
            self._note_slow(reads)
        pending = [read for reads in self._asked.values() for read in reads] + self._arrived
        self._asked.clear()
        self._arrived = []
        for _, confirmed in self._confirmed:
            pending += _withdraw(confirmed)
        for due in self._due.values():
            pending += _withdraw(due)
        self._refuse(pending, errors.NotLeader(why))

    def _refuse(self, reads: Iterable[_Read], error: errors.BoathouseError) -> None:
        for identity, request, _ in reads:
            self._waiting_count -= 1
            self._failed_count += 1
            self._outgoing.refuse(identity, request.call, error)

    def tick(self) -> None:
        self._ticks += 1

    def has_work(self) -> bool:
        return bool(self._arrived) or any(self._outgoing.has_room(identity) for identity in self._due)

    def drained(self) -> bool:
        return not self._waiting_count

    def statistics(self) -> Mapping[str, int]:
        return {
            "reads_waiting": self._waiting_count,
            "reads_served": self.served.total(),
            "reads_failed": self._failed_count,
            "slow_read_rounds": self._slow_count,
        }
