"""Reads: linearizable ones wait for the core's word, long ones run beside the loop, iterations keep a cursor.

A linearizable read is recorded with the core (`read_index`), confirmed by a majority, and answered once this replica
has applied the index that was committed when it arrived (Raft thesis 6.4). A serializable one is answered from the
state as it is. Long reads run on a thread with a connection of their own: it sees the newest committed turn, which is
never older than what the read was promised.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine import Result
from shardworker.raft import Accepted, LogIndex

if TYPE_CHECKING:
    from collections.abc import Generator

    import apsw

    from config import ClusterConfig
    from shardworker.background import Background
    from shardworker.machine import Parsed, StateMachine
    from shardworker.raft import Raft, ReadState
    from shardworker.store import ReplicaStore

ITERATE: Final = frames.REGATTA_ITERATE
NEXT: Final = frames.CURSOR_NEXT
CLOSE: Final = frames.CURSOR_CLOSE


class Answer(NamedTuple):
    """What the call of a link is told."""

    identity: bytes
    call: int
    result: Result
    cursor: int = 0
    """Not 0: the iteration goes on behind it."""


@dataclass(slots=True)
class _Cursor:
    connection: apsw.Connection
    parts: Generator[Result, None, None]
    idle_ticks: int = 0
    busy: bool = False


class Reads:
    """All reads of one replica, from arrival to answer."""

    def __init__(
        self,
        *,
        core: Raft,
        store: ReplicaStore,
        machine: StateMachine,
        background: Background,
        cluster: ClusterConfig,
        first_cursor: int,
    ) -> None:
        """The cluster's limits bound the reads that wait and the iterations that are open. Cursors are numbered from
        first_cursor, which has to be drawn anew for each life: a client that reads on slowly still names the cursor of
        an earlier one, and must not be given a part of somebody else's iteration."""
        self._core = core
        self._store = store
        self._machine = machine
        self._background = background
        self._requests_max = cluster.limits.pending_requests_max
        self._cursors_max = cluster.limits.cursors_max
        self._cursor_idle_ticks_max = cluster.limits.cursor_idle_ms // cluster.raft.tick_ms
        self._arrived: list[tuple[bytes, frames.Request]] = []
        self._asked: dict[int, list[tuple[bytes, frames.Request]]] = {}
        self._confirmed: list[tuple[LogIndex, list[tuple[bytes, frames.Request]]]] = []
        self._waiting_count = 0
        self._late: list[Answer] = []
        self._contexts = itertools.count(1)
        self._cursors: dict[int, _Cursor] = {}
        self._cursor_ids = itertools.count(first_cursor)

    def __bool__(self) -> bool:
        return bool(self._arrived)

    @property
    def waiting_count(self) -> int:
        """Linearizable reads without an answer yet."""
        return self._waiting_count

    def admit(self, identity: bytes, request: frames.Request) -> None:
        """Take a linearizable read. Raises QueueFull."""
        if self._waiting_count >= self._requests_max:
            raise errors.QueueFull(f"{self._waiting_count} reads are waiting on this shard")
        self._arrived.append((identity, request))
        self._waiting_count += 1

    def ask(self) -> list[Answer]:
        """Record everything that has arrived with the core, under one context. Answers what the core refuses."""
        if not self._arrived:
            return []
        arrived, self._arrived = self._arrived, []
        context = next(self._contexts)
        if isinstance(self._core.read_index(context), Accepted):
            self._asked[context] = arrived
            return []
        return self._refuse(arrived, errors.NotLeader())

    def confirm(self, states: tuple[ReadState, ...]) -> None:
        """The core has confirmed these contexts at these indexes."""
        for state in states:
            requests = self._asked.pop(state.context, None)
            if requests:
                self._confirmed.append((state.index, requests))

    def serve(self, applied: LogIndex) -> list[Answer]:
        """Answer what is confirmed up to the applied index."""
        if not self._confirmed:
            return []
        ready = [requests for index, requests in self._confirmed if index <= applied]
        self._confirmed = [(index, requests) for index, requests in self._confirmed if index > applied]
        answers: list[Answer] = []
        for requests in ready:
            self._waiting_count -= len(requests)
            for identity, request in requests:
                answer = self.read(identity, request)
                if answer is not None:
                    answers.append(answer)
        return answers

    def abandon(self) -> list[Answer]:
        """This replica leads no longer: what is not confirmed goes elsewhere."""
        pending = [pair for requests in self._asked.values() for pair in requests] + self._arrived
        self._asked.clear()
        self._arrived = []
        return self._refuse(pending, errors.NotLeader())

    def refuse(self, fault: errors.Corrupt) -> list[Answer]:
        """No answer may come from these tables: neither to what is confirmed nor to long reads that have ended."""
        pending = [pair for _, requests in self._confirmed for pair in requests]
        self._confirmed = []
        late = [answer._replace(result=Result(0, b"", fault), cursor=0) for answer in self.late()]
        return self._refuse(pending, fault) + late

    def _refuse(
        self, pending: list[tuple[bytes, frames.Request]], refusal: errors.BoathouseError
    ) -> list[Answer]:
        self._waiting_count -= len(pending)
        return [_failed(identity, request, refusal) for identity, request in pending]

    def read(self, identity: bytes, request: frames.Request) -> Answer | None:
        """Answer from the state as it is, or None if the answer comes later, through late()."""
        try:
            if request.method in (ITERATE, NEXT, CLOSE):
                return self._iterate(identity, request)
            parsed = self._machine.parse(request.method, request.table_id, request.body)
            if self._machine.is_heavy(parsed):
                self._background.submit(
                    lambda: self._read_beside(parsed),
                    lambda result: self._late.append(Answer(identity, request.call, result)),
                )
                return None
        except errors.BoathouseError as error:
            return _failed(identity, request, error)
        result = self._machine.read(self._store.connection, parsed)
        return Answer(identity, request.call, result)

    def _read_beside(self, request: Parsed) -> Result:
        connection = self._store.reader()
        try:
            return self._machine.read(connection, request)
        finally:
            self._store.close_reader(connection)

    # ---- iterations ---------------------------------------------------------------------------------------------

    def _iterate(self, identity: bytes, request: frames.Request) -> Answer | None:
        if request.method == CLOSE:
            self._close(request.cursor)
            return Answer(identity, request.call, Result(0, b""))
        if request.method == ITERATE:
            cursor_id = self._open(request)
        else:
            cursor_id = request.cursor
        cursor = self._cursors.get(cursor_id)
        if cursor is None or cursor.busy:
            raise errors.CursorNotFound(f"cursor {cursor_id} is not open")
        cursor.busy = True
        cursor.idle_ticks = 0
        try:
            self._background.submit(
                lambda: next(cursor.parts),
                lambda result: self._end_part(identity, request, cursor_id, cursor, result),
            )
        except errors.QueueFull:
            cursor.busy = False
            self._close(cursor_id)
            raise
        return None

    def _open(self, request: frames.Request) -> int:
        # Each holds a read transaction, which keeps the WAL from being reused.
        if len(self._cursors) >= self._cursors_max:
            raise errors.TooManyCursors(f"{self._cursors_max} iterations are open on this replica")
        connection = self._store.reader()
        parsed = self._machine.parse(request.method, request.table_id, request.body)
        parts = self._machine.iterate(connection, parsed)
        cursor_id = next(self._cursor_ids)
        self._cursors[cursor_id] = _Cursor(connection, parts)
        return cursor_id

    def _end_part(
        self, identity: bytes, request: frames.Request, cursor_id: int, cursor: _Cursor, result: Result
    ) -> None:
        cursor.busy = False
        goes_on = result.more and cursor_id in self._cursors
        if not goes_on:
            self._cursors.pop(cursor_id, None)
            self._let_go(cursor)
        self._late.append(Answer(identity, request.call, result, cursor_id if goes_on else 0))

    def late(self) -> list[Answer]:
        """Answers of long reads that ended since the last call."""
        answers, self._late = self._late, []
        return answers

    def _close(self, cursor_id: int) -> None:
        cursor = self._cursors.pop(cursor_id, None)
        if cursor is not None and not cursor.busy:
            self._let_go(cursor)  # a busy one is closed when its job has ended

    def _let_go(self, cursor: _Cursor) -> None:
        cursor.parts.close()  # ends its read transaction, which it could not do without the connection
        self._store.close_reader(cursor.connection)

    def tick(self) -> None:
        """Close iterations that nobody continues."""
        for cursor_id, cursor in list(self._cursors.items()):
            if cursor.busy:
                continue
            cursor.idle_ticks += 1
            if cursor.idle_ticks > self._cursor_idle_ticks_max:
                self._close(cursor_id)

    def close(self) -> None:
        """Close every iteration: the database is about to be closed or replaced."""
        for cursor_id in list(self._cursors):
            self._close(cursor_id)


def _failed(identity: bytes, request: frames.Request, error: errors.BoathouseError) -> Answer:
    return Answer(identity, request.call, Result(0, b"", error))
