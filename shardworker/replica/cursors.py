"""Iterations: a range that is answered in parts, all of one state.

A cursor is a suspended generator inside a read transaction, which keeps SQLite from reusing its write-ahead log (WAL).
So a cursor ends when nobody reads on, when it is too old, when its table is deleted, and when the WAL has grown too
long while it was open, or can't grow any more; who asks for its next part then hears why. Where the answer waits in a
file instead, its reader may take its time, until the disk needs the room, be it for the file or for the WAL while the
file is written, which goes on by itself: a table of any size, however busy, can be read so. Their number is bounded,
per replica, per table and per client, so that nobody takes all of them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker import table_file
from shardworker.machine import Result
from shardworker.replica.long_reads import Patience
from shardworker.replica.part import Part
from shardworker.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    import apsw

    from shardworker.replica.logins import Logins
    from shardworker.replica.long_reads import LongReads
    from shardworker.replica.part import Handler, ReplicaContext
    from shardworker.store import Files

REASONS_KEPT: Final = 1_024
"""Cursors of which it is known why they were closed."""

PAIRS_IN_FILE_FROM_BYTES: Final = 64 << 20
"""A smaller table's pairs leave before its cursor gets too old, or the WAL too long."""


@dataclass(slots=True)
class _Cursor:
    connection: apsw.Connection
    parts: Generator[Result, None, None]
    table_id: int
    client: tuple[bytes, int]
    """Its link, and whom the coordinator there asks for; 0 if it does not say."""
    file: Path | None = None
    """Where its answer waits, or is going to wait, if it does in a file. It holds its read transaction for as long as
    that takes to be written, which is up to the disk and not to its reader."""
    spool: Spool | None = None
    """Where parts are read while that file is still being written."""
    age_ticks: int = 0
    idle_ticks: int = 0
    busy: bool = False
    """Somebody is owed its next part."""
    waiting: tuple[bytes, frames.Request] | None = None
    """Who that is, by link, if the part is not in the file yet."""
    filling: bool = False
    """A thread is about to write to its file, or does."""


class Cursors(Part):
    """The iterations that are open on one replica."""

    def __init__(
        self, context: ReplicaContext, long_reads: LongReads, logins: Logins, *, first_cursor: int
    ) -> None:
        """Cursors are numbered from first_cursor, which has to be drawn anew for each life: a client that reads on
        slowly still names the cursor of an earlier one, and must not be given a part of somebody else's iteration."""
        limits, tick_ms = context.cluster.limits, context.cluster.raft.tick_ms
        self._store = context.store
        self._machine = context.machine
        self._outgoing = context.outgoing
        self._background = context.background
        self._long_reads = long_reads
        self._logins = logins
        self._limits = limits
        self._idle_ticks_max = limits.cursor_idle_ms // tick_ms
        self._age_ticks_max = limits.cursor_lifetime_ms // tick_ms
        self._cursors: dict[int, _Cursor] = {}
        self._node = context.node
        self._disk_reserve_bytes = context.cluster.store.disk_free_bytes_min
        self._files = itertools.count(1)
        self._numbers = itertools.count(first_cursor)
        self._why_closed: dict[int, errors.BoathouseError] = {}

    def methods(self) -> Mapping[int, Handler]:
        return {frames.CURSOR_NEXT: self._next, frames.CURSOR_CLOSE: self._close_for_client}

    def open(self, identity: bytes, request: frames.Request) -> None:
        """Begin an iteration and answer its first part. Raises InvalidAuthToken, TooManyCursors, QueueFull."""
        self._open(identity, request, lambda parts: parts)

    def open_file(self, identity: bytes, request: frames.Request) -> None:
        """As open(), for a table's pieces that are to be a table's file before they leave. Raises NoSpace if the disk
        has no room for it."""
        self._check_room(request.table_id)
        file = self._file(request)
        self._open(identity, request, lambda parts: table_file.stream(parts, file), file)

    def open_spooled(self, identity: bytes, request: frames.Request) -> None:
        """As open(), for parts that are to wait for their reader in a file. Raises NoSpace if the disk has no room for
        it."""
        self._check_room(request.table_id)
        self._open_spool(identity, request)

    def open_pairs(self, identity: bytes, request: frames.Request) -> None:
        """As open_spooled(), for a table's newest pairs. Those of a small one, and all if the disk has no room for
        them, leave straight from their read transaction, as by open()."""
        table = self._machine.tables.get(request.table_id)
        size_bytes = 0 if table is None else table.size_bytes  # they are at most that: its past counts, too
        if size_bytes < PAIRS_IN_FILE_FROM_BYTES or size_bytes > self._room_bytes():
            self.open(identity, request)
        else:
            self._open_spool(identity, request)

    def _check_room(self, table_id: int) -> None:
        table = self._machine.tables.get(table_id)
        if table is not None and 2 * table.size_bytes > self._room_bytes():
            raise errors.NoSpace(
                f"the disk of node {self._node} has no room for a file of table {table.name}"
            )

    def _room_bytes(self) -> int:
        """What may be put into files beside the database."""
        return self._store.free_bytes() - self._disk_reserve_bytes

    def _file(self, request: frames.Request) -> Path:
        return self._store.path / f"snapshot-of-table-{request.table_id}-{next(self._files)}.tmp"

    def _open_spool(self, identity: bytes, request: frames.Request) -> None:
        number, cursor = self._opened(identity, request)
        cursor.file = self._file(request)
        cursor.spool = Spool(cursor.parts, cursor.file, self._store.files)
        cursor.parts = cursor.spool.read()
        self._fill(number, cursor, cursor.spool)
        self._read_on(identity, request, number)

    def _open(
        self,
        identity: bytes,
        request: frames.Request,
        made_of: Callable[[Generator[Result, None, None]], Generator[Result, None, None]],
        file: Path | None = None,
    ) -> None:
        number, cursor = self._opened(identity, request)
        cursor.file = file
        cursor.parts = made_of(cursor.parts)
        self._read_on(identity, request, number)

    def _opened(self, identity: bytes, request: frames.Request) -> tuple[int, _Cursor]:
        who = self._logins.identify(request)
        client = (identity, request.client)
        self._check_share(request.table_id, client)
        self._long_reads.check_room()
        connection = self._store.reader()
        parsed = self._machine.parse(request.method, request.table_id, request.body, who)
        parts = self._machine.iterate(connection, parsed)
        number = next(self._numbers)
        cursor = self._cursors[number] = _Cursor(connection, parts, request.table_id, client)
        return number, cursor

    def _check_share(self, table_id: int, client: tuple[bytes, int]) -> None:
        limits, cursors = self._limits, self._cursors.values()
        if len(cursors) >= limits.cursors_max:
            raise errors.TooManyCursors(f"{len(cursors)} iterations are open on this replica")
        tables = Counter(cursor.table_id for cursor in cursors)
        if tables[table_id] >= limits.cursors_per_table_max:
            raise errors.TooManyCursors(f"{tables[table_id]} iterations of this table are open")
        _, who = client
        clients = Counter(cursor.client for cursor in cursors)
        if who and clients[client] >= limits.cursors_per_client_max:
            raise errors.TooManyCursors(f"this client has {clients[client]} iterations open")

    def _next(self, identity: bytes, request: frames.Request) -> None:
        self._read_on(identity, request, request.cursor)

    def _read_on(self, identity: bytes, request: frames.Request, number: int) -> None:
        cursor = self._cursors.get(number)
        if cursor is None:
            raise self._why_closed.get(number) or _not_open(
                number, "it was never opened here, has ended, or the worker restarted"
            )
        if cursor.busy:
            raise errors.CursorNotFound(f"cursor {number} is read by another call")
        cursor.idle_ticks = 0
        if cursor.spool is not None and not cursor.spool.is_ready:
            cursor.busy, cursor.waiting = True, (identity, request)
            return
        # A file is written for as long as that takes, while its reader is told so.
        patience = Patience() if cursor.file is None else None
        self._long_reads.submit(
            identity,
            partial(_next_part, cursor, patience),
            partial(self._end_part, identity, request.call, number, cursor),
            patience,
        )
        cursor.busy = True

    def _end_part(self, identity: bytes, call: int, number: int, cursor: _Cursor, result: Result) -> None:
        cursor.busy = False
        if not (result.more and number in self._cursors):
            self._cursors.pop(number, None)
            self._let_go_unless_used(cursor)
        # Closed meanwhile: whoever asks for the next part hears why, and does not take this one for the last.
        self._outgoing.answer(identity, call, result, number if result.more else 0)

    def _fill(self, number: int, cursor: _Cursor, spool: Spool) -> None:
        """Write on, however little is read: what is written waits for no link."""
        self._long_reads.submit(b"", spool.fill, partial(self._end_step, number, cursor, spool))
        cursor.filling = True

    def _end_step(self, number: int, cursor: _Cursor, spool: Spool, result: Result) -> None:
        cursor.filling = False
        if number not in self._cursors:
            self._let_go_unless_used(cursor)
        elif result.error is not None:
            self._close_with(number, result.error)
        else:
            try:
                if result.more:
                    self._fill(number, cursor, spool)
                if cursor.waiting is not None and spool.is_ready:
                    cursor.busy = False
                    self._read_on(*cursor.waiting, number)
                    cursor.waiting = None
            except errors.QueueFull as error:
                self._close_with(number, error)

    def _close_for_client(self, identity: bytes, request: frames.Request) -> None:
        self._close(request.cursor, "its client closed it")
        self._outgoing.answer(identity, request.call, Result(0, b""))

    def _close(self, number: int, why: str) -> None:
        self._close_with(number, _not_open(number, why))

    def _close_with(self, number: int, why: errors.BoathouseError) -> None:
        cursor = self._cursors.pop(number, None)
        if cursor is None:
            return
        self._why_closed[number] = why
        if len(self._why_closed) > REASONS_KEPT:
            del self._why_closed[next(iter(self._why_closed))]
        if cursor.waiting is not None:
            identity, request = cursor.waiting
            self._outgoing.refuse(identity, request.call, why)
            cursor.busy, cursor.waiting = False, None
        self._let_go_unless_used(cursor)

    def _let_go_unless_used(self, cursor: _Cursor) -> None:
        """By a thread: it is let go when that has ended."""
        if cursor.busy or cursor.filling:
            return
        if cursor.spool is not None:
            cursor.spool.close()
        cursor.parts.close()  # ends its read transaction, which it could not do without the connection
        self._store.close_reader(cursor.connection)
        if cursor.file is not None:
            self._remove(cursor.file)

    def _remove(self, file: Path) -> None:
        """On a thread: a disk may take a while to give up a large file."""
        unlink = partial(_unlink, self._store.files, file)
        try:
            self._background.submit(unlink, lambda _: None)
        except errors.QueueFull:
            unlink()

    def tick(self) -> None:
        """Close what is idle or old, the oldest while the WAL is too long, and the oldest file while the disk is short
        of room."""
        if not self._cursors:
            return
        limits = self._limits
        for number, cursor in list(self._cursors.items()):
            cursor.age_ticks += 1
            cursor.idle_ticks += not cursor.busy
            if cursor.age_ticks > self._age_ticks_max and cursor.file is None:
                self._close(number, f"it was open for {limits.cursor_lifetime_ms / 1000:g} s")
            elif cursor.idle_ticks > self._idle_ticks_max:
                self._close(number, f"nobody read on for {limits.cursor_idle_ms / 1000:g} s")
        wal_bytes = self._store.wal_bytes
        if wal_bytes > limits.cursor_wal_bytes_max:
            self.close_oldest(f"the write-ahead log had grown to {wal_bytes} bytes")
        if any(one.file for one in self._cursors.values()):
            free_bytes = self._store.free_bytes()
            if free_bytes < self._disk_reserve_bytes:
                self._close_oldest(
                    lambda one: one.file is not None,
                    f"the disk of node {self._node} had {free_bytes} bytes left",
                )

    def close_oldest(self, why: str) -> None:
        """The oldest that keeps the WAL from starting over, however long it is."""
        self._close_oldest(lambda one: one.file is None, why)

    def _close_oldest(self, costs: Callable[[_Cursor], bool], why: str) -> None:
        oldest = next((number for number, one in self._cursors.items() if costs(one)), None)
        if oldest is not None:
            self._close(oldest, why)

    def end_turn(self) -> None:
        """Close what reads a table that the turn has deleted."""
        for number, cursor in list(self._cursors.items()):
            if cursor.table_id in self._machine.dead_tables:
                self._close_with(number, errors.TableNotFound("it was deleted while it was read"))

    def ticks_until_action(self) -> int:
        return 1 if self._cursors else super().ticks_until_action()

    def close_all(self, why: str) -> None:
        """Close every iteration: the database is about to be closed or replaced."""
        for number in list(self._cursors):
            self._close(number, why)

    def statistics(self) -> Mapping[str, int]:
        return {"cursors_open": len(self._cursors)}


def _next_part(cursor: _Cursor, patience: Patience | None) -> Result:
    """On a thread."""
    if patience is None:
        return _next(cursor.parts)
    try:
        with patience.of(cursor.connection):
            return _next(cursor.parts)
    except errors.ReadTimedOut as error:
        return Result(0, b"", error)


def _next(parts: Generator[Result, None, None]) -> Result:
    """The read transaction ends with the last part, and not only when that has left."""
    result = next(parts)
    if not result.more:
        parts.close()
    return result


def _unlink(files: Files, file: Path) -> None:
    """What can't be removed now is removed when the store is opened next."""
    with contextlib.suppress(OSError):
        files.unlink(file)


def _not_open(number: int, why: str) -> errors.CursorNotFound:
    return errors.CursorNotFound(f"cursor {number} is not open: {why}")
