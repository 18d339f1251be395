"""The replicated state machine of one shard: commands in, results and changes out, the same on every replica.

apply() runs inside the store's open transaction and reads nothing but the database, its own caches of it and the
commands: no clock, no randomness, no order of hashes. What a client can get wrong is a Result with an error; an
exception means that this code is too old for the log, or that it or the disk is broken, and the replica must stop.

What one method does is in registry.py and behind it. Here is what all have in common: a command's way through an entry,
and the life of what is kept in memory (counters, results, changes), which follows the transaction. committed() keeps
it, rollback() forgets it, reload() reads everything anew after the database was replaced.
"""

from __future__ import annotations

import struct
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from proto import errors
from proto.catalog import CATALOG_ID, CATALOG_NAME, CATALOG_SHARD
from proto.methods import REQUEST_ID_BYTES
from shardworker.machine import leftovers, quota, sweep
from shardworker.machine.auth import NOBODY, Caller, Who
from shardworker.machine.auth_store import AuthStore
from shardworker.machine.auth_writer import AuthWriter
from shardworker.machine.backup import restoring
from shardworker.machine.budget import EntryBudget
from shardworker.machine.changes import Change, Listen, Recorder
from shardworker.machine.dead_tables import DeadTables
from shardworker.machine.handler import Handler, Result, TooNew, UnreadableEntry
from shardworker.machine.internal.commands import table_status
from shardworker.machine.leases import Leases
from shardworker.machine.level import MachineLevel
from shardworker.machine.moves.commands import move_state
from shardworker.machine.moves.results import ArrivedResults
from shardworker.machine.moves.states import Moves
from shardworker.machine.registry import REGISTRY, Registry
from shardworker.machine.replication import snapshot as replication_snapshot
from shardworker.machine.replication.followers import Followers
from shardworker.machine.replication.origins import Origins
from shardworker.machine.snapshot import snapshot
from shardworker.machine.table_cache import TableCache
from shardworker.machine.tables import (
    REVISION_MAX,
    TableState,
    create_rows,
    create_schema,
    load_table,
    table_sql,
)
from shardworker.machine.view import View
from shardworker.machine.window import FINGERPRINT_BYTES, Remembered, ResultWindow, WindowLimits
from shardworker.machine.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    import apsw

    from proto.internal import frames_pb2 as frames
    from shardworker.machine.moves.results import Arrived

FORMAT: Final = 1
"""Of a log entry (CommandBatch.format)."""

ENTRY_ANSWERS_BYTES_MAX = 256 << 20
"""Of all commands of one log entry: their answers are in memory at once, and are stored together, in a row, which
SQLite ends at a billion bytes. Part of the replicated behaviour."""

UNKNOWN_TTL_S: Final = 60
"""A lease that a key of a copy names, and of which nothing else is known, is granted for so long when the copy becomes
a table of its own. Part of the replicated behaviour."""

_LEFTOVERS: Final = 0
"""Their turn among tables that are swept."""

_TIME_MS_MAX: Final = 1 << 48
"""Ten thousand years."""
_UNSIGNED_64: Final = (1 << 64) - 1
_METHOD_AND_TABLE: Final = struct.Struct("<iQ")


class Parsed(NamedTuple):
    """A request whose body was read, once."""

    handler: Handler[Any] | None
    """None for a method that this version does not know."""
    table_id: int
    op: Any
    """None if it could not be read."""
    error: errors.BoathouseError | None = None
    """What is wrong with the body alone; the table decides first."""
    who: Who = NOBODY
    """Whose request it is."""


class StateMachine:
    """See the module. `connection` is the store's writer."""

    def __init__(
        self,
        connection: apsw.Connection,
        shard: int,
        window_limits: WindowLimits | None = None,
        *,
        registry: Registry = REGISTRY,
        table_written: Callable[[], None] = lambda: None,
    ):
        """Raises TooNew for tables that this build cannot go on with, and Corrupt. registry: another build's, in
        simulations of upgrades. table_written is called when a table was created, before the transaction ends: a crash
        point of tests."""
        self._connection = connection
        self._table_written = table_written
        self._shard = shard
        self._registry = registry
        self._window_limits = window_limits or WindowLimits()
        self._last_swept = 0
        self.keep_bytes = 0
        """What may be written to a table before history that nobody can read is removed although a cluster that follows
        the table has not copied it. This replica's own."""
        self._recorder = Recorder()
        self._entry = EntryBudget(ENTRY_ANSWERS_BYTES_MAX)
        self._writers: dict[int, Writer] = {}
        self._in_transaction(self._load)

    # ---- life of the caches --------------------------------------------------------------------------------

    def _load(self) -> None:
        self._level = MachineLevel(self._connection, self._registry.level)
        create_schema(self._connection)
        replication_snapshot.create_schema(self._connection)
        restoring.create_schema(self._connection)
        leftovers.create_schema(self._connection)
        self._origins = Origins(self._connection)
        self.followers = Followers(self._connection)
        self._window = ResultWindow(self._connection, self._window_limits)
        self.auth = AuthStore(self._connection)
        self.tables = TableCache(self._connection)
        self.dead_tables = DeadTables(self._connection)
        self.leases = Leases(self._connection)
        self.moves = Moves(self._connection)
        self._arrived = ArrivedResults(self._connection, self._window_limits.age_ms_max)
        if self._shard == CATALOG_SHARD and self.tables.get(CATALOG_ID) is None:
            self.tables.create(TableState(CATALOG_ID, CATALOG_NAME, -1))

    def _in_transaction(self, work: Callable[[], None]) -> None:
        if self._connection.in_transaction:
            work()
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            work()
        except BaseException:
            # SQLite itself ends a transaction over some errors; a second error would hide what happened.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def committed(self) -> None:
        """The transaction is durable: its changes to the caches stay, and can be taken."""
        self._level.committed()
        self.tables.committed()
        self.auth.committed()
        self.dead_tables.committed()
        self.leases.committed()
        self.moves.committed()
        self._arrived.committed()
        self._window.committed()
        self._origins.committed()
        self.followers.committed()
        self._recorder.committed()

    def rollback(self) -> None:
        """The transaction was rolled back: the caches return to the last committed()."""
        self._writers.clear()
        self._level.rollback()
        self.tables.rollback()
        self.auth.rollback()
        self.dead_tables.rollback()
        self.leases.rollback()
        self.moves.rollback()
        self._arrived.rollback()
        self._window.rollback()
        self._origins.rollback()
        self.followers.rollback()
        self._recorder.rollback()

    def reload(self, connection: apsw.Connection | None = None) -> None:
        """The database was replaced, perhaps behind a new connection: forget everything, read it again."""
        self._connection = connection or self._connection
        self._recorder.rollback()
        self._in_transaction(self._load)

    # ---- writes --------------------------------------------------------------------------------------------

    def apply(self, index: int, batch: frames.CommandBatch) -> list[Result]:
        """Runs an entry's commands in order, inside the open transaction; one Result for each.

        A command whose request id is remembered changes nothing and gets its first result, errors included. Raises
        TooNew for what this version cannot apply, and UnreadableEntry for what no leader proposes, before anything is
        changed."""
        if batch.format != FORMAT:
            raise TooNew(f"log entry {index} has format {batch.format}; this version reads {FORMAT}")
        commands = list(batch.commands)
        request_ids = [command.request_id for command in commands]
        _check_sound(index, batch.time_ms, request_ids)
        parsed = [self._parse_command(index, command) for command in commands]
        self._entry = EntryBudget(ENTRY_ANSWERS_BYTES_MAX)
        self.leases.begin_entry(index)
        writers = self._writers
        self._fetch(parsed, writers)
        results: list[Result] = []
        fresh: dict[bytes, Remembered] = {}
        known_ids = self._window.known(request_ids) | self._arrived.known(request_ids)
        for command, request, request_id in zip(commands, parsed, request_ids, strict=True):
            fingerprint = _fingerprint(command)
            known = fresh.get(request_id)
            if known is None and request_id in known_ids:
                known = self._remembered(request_id)
            if known is None:
                result = self._run(index, request, writers)
                if not isinstance(result.error, errors.TableAway):  # no answer: it is asked for elsewhere
                    fresh[request_id] = Remembered(fingerprint, result)
            elif known.fingerprint == fingerprint:
                result = known.result
            else:
                result = Result(0, b"", errors.RequestIdReused())
            results.append(result)
        for writer in writers.values():
            writer.finish()
        writers.clear()
        self.tables.save()
        if fresh:
            self._window.add(index, batch.time_ms, fresh)
            self._arrived.prune(self._window.age_clock_ms)
        return results

    def _parse_command(self, index: int, command: frames.Command) -> Parsed:
        who = Who(command.user, command.auth_revision) if command.user else NOBODY
        request = self.parse(command.method, command.table_id, command.body, who)
        handler = request[0]
        if handler is None or not (handler.write or handler.administer or handler.on_shard):
            raise TooNew(
                f"log entry {index} holds a command of method {command.method}, which this version does not know:"
                " a newer one has written it. Install that version, or a later one, and start again"
            )
        return request

    def _fetch(self, parsed: Iterable[Parsed], writers: dict[int, Writer]) -> None:
        """Looks up, together, the rows that the commands will ask for."""
        wanted: dict[int, set[bytes]] = {}
        for handler, table_id, op, error, _ in parsed:
            if error is None and handler is not None and handler.add_keys is not None:
                keys = wanted.get(table_id)
                if keys is None:
                    keys = wanted[table_id] = set()
                handler.add_keys(op, keys)
        for table_id, keys in wanted.items():
            if keys and self.tables.get(table_id) is not None:
                self._writer(table_id, writers).fetch(keys)

    def _writer(self, table_id: int, writers: dict[int, Writer]) -> Writer:
        writer = writers.get(table_id)
        if writer is None:
            table = self.tables.get(table_id)
            assert table is not None
            self.tables.touch(table)
            writer = writers[table_id] = Writer(
                self._connection, table, self._entry, self._recorder, self.leases, self.auth
            )
        return writer

    def _remembered(self, request_id: bytes) -> Remembered | None:
        return self._window.find(request_id) or self._arrived.find(request_id)

    def _run(self, index: int, request: Parsed, writers: dict[int, Writer]) -> Result:
        handler = request.handler
        assert handler is not None
        if handler.on_shard is not None:
            return self._run_on_shard(handler.on_shard, request)
        table = self.tables.get(request.table_id)
        if table is None:
            return Result(0, b"", self.moves.absence(request.table_id))
        if request.error is not None:
            return Result(table.revision, b"", request.error)
        try:
            self._check_move(table.id, handler)
            # Again, and this time it counts: what the leader saw when it took the request may have changed since.
            self._check(request)
            self._check_origin(table.id, handler, request.op)
            if handler.administer is not None:
                body = handler.administer(AuthWriter(self.auth, table.id, index), request.op)
                return Result(table.revision, body)
        except errors.BoathouseError as error:
            return Result(table.revision, b"", error)
        writer = self._writer(request.table_id, writers)
        writer.begin()
        assert handler.write is not None
        try:
            quota.check_takes(table, handler, request.op)
            body = handler.write(writer, request.op)
        except errors.BoathouseError as error:
            if isinstance(error, errors.QuotaExceeded):
                quota.note_refused(table)
            writer.refuse()
            return Result(table.revision, b"", error)
        writer.end()
        return Result(table.revision, body)

    def _check_move(self, table_id: int, handler: Handler[Any]) -> None:
        """Raises for a write of a table that is on its way to another shard."""
        self.moves.check_serves(table_id)
        if handler.replaces_rows is not None and self.moves.is_departing(table_id):
            raise handler.replaces_rows("the table is on its way to another shard")

    def _check_origin(self, table_id: int, handler: Handler[Any], op: Any) -> None:
        """Raises unless a copy is written from its origin, and any other table not as a copy."""
        told = 0 if handler.origin_of is None else handler.origin_of(op)
        origin = self._origins.of(table_id)
        if told != origin and not handler.for_copies:
            raise _origin_refusal(told, origin)

    def _check(self, request: Parsed) -> None:
        """Raises unless who asks may have it."""
        if request.table_id in self.auth.guarded:
            handler = request.handler
            if handler is not None and handler.check is not None:
                handler.check(self._caller(request), request.op)

    def check_may_be_anybodys(self, method: int) -> None:
        """Raises UserEmpty for a method that, with authentication enabled, is for users only."""
        handler = self._registry.handlers.get(method)
        if handler is not None and handler.check is not None:
            raise errors.UserEmpty

    def _caller(self, request: Parsed) -> Caller:
        return self.caller(request.table_id, request.who)

    def caller(self, table_id: int, who: Who) -> Caller:
        """Who asks something of a table, to see whether he may have it."""
        return Caller(self.auth.of(table_id), who, partial(self.keys_of_lease, table_id))

    def _run_on_shard(self, work: Callable[[StateMachine, Any], Result], request: Parsed) -> Result:
        if request.error is not None:
            return Result(0, b"", request.error)
        try:
            return work(self, request.op)
        except errors.BoathouseError as error:
            return Result(0, b"", error)

    def origin_of(self, table_id: int) -> int:
        """For commands (handler.Shard)."""
        return self._origins.of(table_id)

    def create_table(self, table: TableState, origin: int = 0) -> None:
        """Begins a table; for commands (handler.Shard)."""
        self.tables.create(table)
        if origin:
            self._origins.add(table.id, origin)
        self._table_written()

    def change_origin(self, table: TableState, origin: int) -> None:
        """For commands (handler.Shard)."""
        leases = self.leases
        kept = {id_: lease.ttl_s for id_, lease in leases.of_table(table.id).items() if lease.ttl_s}
        ttls = kept | dict(leases.copied.of(table.id))
        attached: list[Any] = self._connection.execute(table.sql.attached_leases).fetchall()
        named = [lease_id for (lease_id,) in attached]
        self._origins.change(table.id, origin)
        leases.drop_table(table.id)
        if origin:
            leases.copied.note(table.id, {id_: ttls[id_] for id_ in named if id_ in ttls}, lambda: named)
        else:
            for id_ in named:
                leases.grant(table.id, id_, ttls.get(id_, UNKNOWN_TTL_S))

    def drop_table(self, table_id: int) -> None:
        """Ends a table; for commands (handler.Shard)."""
        self._forget_table(table_id)
        self.moves.forget(table_id)
        self.dead_tables.add(table_id)

    # ---- a table's move; for commands (handler.Shard) -------------------------------------------------------

    @property
    def number(self) -> int:
        """Of the shard."""
        return self._shard

    def arriving_writer(self, table: TableState) -> Writer:
        """See handler.Shard, as are the next ones."""
        return Writer(self._connection, table, self._entry, Recorder(), self.leases, self.auth)

    def take_results(self, coming: Iterable[Arrived]) -> None:
        now_ms = self._window.age_clock_ms
        self._arrived.add(each._replace(age_clock_ms=now_ms - each.age_clock_ms) for each in coming)

    def begin_rows(self, table_id: int) -> None:
        create_rows(self._connection, f"t{table_id}")

    def leave_rows(self, table_id: int) -> None:
        leftovers.put_aside(self._connection, f"t{table_id}")

    def open_table(
        self,
        table: TableState,
        origin: int,
        *,
        leases: Iterable[tuple[int, int]],
        auth: Iterable[tuple[int, bytes, str]],
        copied_leases: Mapping[int, int],
    ) -> None:
        self.tables.adopt(table)
        if origin:
            self._origins.add(table.id, origin)
        for lease_id, ttl_s in leases:
            self.leases.adopt(table.id, lease_id, ttl_s)
        self.leases.copied.note(table.id, copied_leases, copied_leases.keys)
        self.auth.adopt(table.id, auth)
        self._recorder.open(table)

    def give_up_table(self, table_id: int) -> None:
        self._forget_table(table_id)
        self.leave_rows(table_id)

    def _forget_table(self, table_id: int) -> None:
        """Nobody finds it any more; its rows are left."""
        table = self.tables.get(table_id)
        if table is not None:
            self.tables.drop(table)
            self.auth.drop_table(table_id)
            self.leases.drop_table(table_id)
            self._origins.remove(table_id)
            self.followers.drop_table(table_id)
            replication_snapshot.give_up(self._connection, table_id)
            restoring.give_up(self._connection, table_id)

    def check_serves(self, request: frames.Request) -> None:
        """Raises TableElsewhere or TableArriving for what another shard is to be asked for, or soon this one."""
        handler = self._registry.handlers.get(request.method)
        if handler is None or not (handler.of_move or handler.on_shard):
            self.moves.check_serves(request.table_id)

    def move_states(self) -> list[frames.MoveState]:
        """Of all tables that came, go, or went."""
        return [move_state(id_, move, self.tables.get(id_)) for id_, move in self.moves]

    def take_opened(self) -> list[tuple[int, int]]:
        """(table, revision) of tables that came from another shard since the last call."""
        return self._recorder.take_opened()

    def raise_level(self, level: int) -> None:
        """For commands (handler.Shard)."""
        self._level.rise(level)

    @property
    def level(self) -> int:
        """The shard's machine level as of the last command."""
        return self._level.current

    @property
    def build_level(self) -> int:
        """The newest machine level that this build can apply."""
        return self._registry.level

    def keys_of_lease(self, table_id: int, lease_id: int) -> list[bytes]:
        """The keys that are attached to this lease, as of the last command."""
        writer = self._writers.get(table_id)
        execute = self._connection.execute if writer is None else writer.execute  # which sees what is pending
        rows: Any = execute(table_sql(table_id).attached, (lease_id, -1))
        return [key for (key,) in rows]

    def check_takes(self, request: frames.Request) -> None:
        """Raises QuotaExceeded, CorruptAlarm, and why the table is not written here, for a write that would be refused
        now: it need not be proposed.

        One that may have been applied before is let through, to get its first answer."""
        self.check_serves(request)
        table = self.tables.get(request.table_id)
        if table is None or not (table.full or table.alarms) or self._remembered(request.request_id):
            return
        parsed = self.parse(request.method, request.table_id, request.body)
        if parsed.error is None and parsed.handler is not None:
            quota.check_takes(table, parsed.handler, parsed.op)

    @property
    def rows_visited(self) -> int:
        """What the last entry cost, in rows (budget.py)."""
        return self._entry.rows

    # ---- what was changed ----------------------------------------------------------------------------------

    def listen(self, tables: Mapping[int, Listen]) -> None:
        """From the next entry on, take down the changes of exactly these tables; see changes.py."""
        self._recorder.listen(tables)

    def take_changes(self) -> list[Change]:
        """What was committed since the last call, in the order of the log."""
        return self._recorder.take()

    # ---- reads ---------------------------------------------------------------------------------------------

    def parse(self, method: int, table_id: int, body: bytes, who: Who = NOBODY) -> Parsed:
        """Reads a request's body. What is wrong with it becomes the answer when its turn comes."""
        handler = self._registry.handlers.get(method)
        if handler is None:
            return Parsed(None, table_id, None, errors.MethodNotServed(f"method {method}"))
        try:
            return Parsed(handler, table_id, handler.parse(body), None, who)
        except DecodeError:
            return Parsed(handler, table_id, None, errors.MalformedRequest())
        except errors.BoathouseError as error:
            return Parsed(handler, table_id, None, error)

    def read(self, connection: apsw.Connection, request: Parsed) -> Result:
        """Any read, at the state that `connection` sees: the writer's between commands, or a reader's own.

        Safe on another thread with a connection of its own; the counters then come from that connection."""
        if connection is self._connection:
            return self._read(connection, self.tables.get(request.table_id), request)
        with snapshot(connection):
            return self._read(connection, load_table(connection, request.table_id), request)

    def iterate(self, connection: apsw.Connection, request: Parsed) -> Generator[Result, None, None]:
        """The parts of one range, all of one state, at least one part.

        The state is that of the first part's moment. `connection` is in a read transaction from then until the
        iterator ends or is closed, so it must be a reader's own; it may move between threads with the iterator."""
        with snapshot(connection):
            table = load_table(connection, request.table_id)
            handler = request.handler
            if table is None or request.error is not None or handler is None or handler.parts is None:
                yield self._read(connection, table, request)
                return
            try:
                for body, more in self._permitted(
                    request, handler.parts(View(connection, table), request.op)
                ):
                    yield Result(table.revision, body, more=more)
            except errors.BoathouseError as error:
                yield Result(table.revision, b"", error)

    def _permitted(
        self, request: Parsed, parts: Iterator[tuple[bytes, bool]]
    ) -> Iterator[tuple[bytes, bool]]:
        """The parts, as long as who asked for them may have them."""
        self._check(request)
        for part in parts:
            yield part
            # An iteration may be long, and does not end because somebody else was given something.
            self._check(request._replace(who=self.renewed(request.table_id, request.who)))

    def renewed(self, table_id: int, who: Who) -> Who:
        """The same user, by what he may do now."""
        return who._replace(revision=self.auth.of(table_id).revision) if who.revision else who

    def _read(self, connection: apsw.Connection, table: TableState | None, request: Parsed) -> Result:
        if table is None:
            return Result(0, b"", self.moves.absence(request.table_id))
        if request.error is not None:
            return Result(table.revision, b"", request.error)
        handler = request.handler
        try:
            # The table was looked at before, so what may be read now is never less than what is known of permissions.
            self._check(request)
            if handler is not None and handler.read is not None:
                return Result(table.revision, handler.read(View(connection, table), request.op))
            if handler is not None and handler.inspect is not None:
                return Result(table.revision, handler.inspect(self._caller(request), request.op))
        except errors.BoathouseError as error:
            return Result(table.revision, b"", error)
        return Result(table.revision, b"", errors.MethodNotServed("this method is no read"))

    def lease_keys(self, connection: apsw.Connection, table_id: int, lease_id: int) -> list[bytes]:
        """The keys that a lease holds, in order; as of read()."""
        with snapshot(connection):
            return [key for (key,) in connection.execute(table_sql(table_id).attached, (lease_id, -1))]

    def is_heavy(self, request: Parsed) -> bool:
        """Whether a read should run beside the loop, on a connection of its own.

        Looks at the table as it is now. What is going to be refused is light: its error is quickly found."""
        handler, table_id, op, error, _ = request
        table = self.tables.get(table_id)
        if table is None or error is not None or handler is None or handler.is_heavy is None:
            return False
        return handler.is_heavy(lambda: View(self._connection, table), op)

    # ---- maintenance ---------------------------------------------------------------------------------------

    def compaction_step(self, rows_max: int) -> int:
        """Removes what compaction has made unreachable, and what deleted, moved and replaced tables have left, in the
        open transaction; 0 = nothing left.

        Visits at most rows_max rows of one table, each a few microseconds. Tables take turns, because one that keeps a
        number of revisions is never done while it is written."""
        waiting = [table.id for table in self.tables if not self._is_swept(table)] + self.dead_tables.unfreed
        if leftovers.is_any(self._connection):
            waiting.append(_LEFTOVERS)
        if not waiting:
            return 0
        self._last_swept = min(waiting, key=lambda table_id: (table_id <= self._last_swept, table_id))
        if self._last_swept == _LEFTOVERS:
            return leftovers.free(self._connection, rows_max)
        table = self.tables.get(self._last_swept)
        if table is None:
            return self.dead_tables.free(self._last_swept, rows_max)
        self.tables.keep(table)
        return sweep.sweep(self._connection, table, rows_max, self._sweep_limit(table))

    def _sweep_limit(self, table: TableState) -> int:
        """No revision after this one is swept. A table that is full needs its space more than anybody its past, but for
        the shard that it is copied to."""
        held = None if table.full else self.followers.held_at(table, self.keep_bytes)
        limit = REVISION_MAX if held is None else held
        return min(limit, self.moves.sweep_limit(table.id))

    def _is_swept(self, table: TableState) -> bool:
        return sweep.is_swept(table, self._sweep_limit(table))

    @property
    def tables_held(self) -> int:
        """Tables whose history is not swept because somebody has to copy it yet."""
        return sum(self._sweep_limit(table) < table.floor for table in self.tables)

    @property
    def is_compacting(self) -> bool:
        """Whether compaction_step would find something to do."""
        if self.dead_tables.unfreed or leftovers.is_any(self._connection):
            return True
        return not all(map(self._is_swept, self.tables))

    @property
    def has_leftovers(self) -> bool:
        """Whether rows are still to be freed of tables that were replaced, moved, or did not come after all."""
        return leftovers.is_any(self._connection)

    def sweep_awaited(self, command: frames.Command) -> int | None:
        """The revision up to which a table's history has to be physically gone before this command is answered: etcd's
        `physical` compaction, which also waits for an earlier one when it fails itself. None if it is due now."""
        handler = self._registry.handlers.get(command.method)
        table = self.tables.get(command.table_id)
        if table is None or handler is None or handler.awaits_sweep is None:
            return None
        request = self.parse(command.method, command.table_id, command.body)
        asked = None if request.error is not None else handler.awaits_sweep(request.op)
        if asked is None:
            return None
        revision = min(asked, table.floor, self._sweep_limit(table))
        return None if sweep.is_swept_to(table, revision) else revision

    def is_swept(self, table_id: int, revision: int) -> bool:
        """Whether what a compaction at this revision made unreachable is physically gone."""
        table = self.tables.get(table_id)
        return table is None or sweep.is_swept_to(table, min(revision, self._sweep_limit(table)))

    @property
    def time_ms(self) -> int:
        """The newest time that an applied batch brought; no later batch can lower it."""
        return self._window.time_ms

    def table_status(self) -> list[frames.TableStatus]:
        return [
            table_status(table, self._origins.of(table.id), self.followers.of(table.id))
            for table in self.tables
        ]

    @property
    def highest_table_id(self) -> int:
        """Of all tables that the shard holds or ever had to refuse: no new table may get it, or one below."""
        moved = [table_id for table_id, _ in self.moves]
        return max([self.dead_tables.highest, *moved, *(table.id for table in self.tables)])

    @property
    def checksum(self) -> int:
        """One number over the level, all leases, users and roles, the deleted tables, and all others' rolling
        checksums and revisions, for comparing replicas."""
        total = self.level ^ (self.dead_tables.digest << 32)
        parts = [self.auth.checksum, self.leases.checksum, self.moves.digest]
        for table in self.tables:
            parts += (table.id, self._origins.of(table.id), table.revision, table.compacted, table.keys)
            parts += (
                table.checksum,
                table.written_bytes,
                table.freed_bytes,
                table.quota_bytes,
                int(table.full),
            )
            parts += [part for alarm in table.alarms for part in alarm]
            for position in self.followers.of(table.id).values():
                parts += position
        for part in parts:
            total = ((total ^ (part & _UNSIGNED_64)) * 0x100000001B3) & _UNSIGNED_64
        return total


def _origin_refusal(told: int, origin: int) -> errors.BoathouseError:
    if told == 0:
        return errors.TableReplicated("write to the leader cluster")
    copied = f"a copy of the leader cluster's table id {origin}" if origin else "no copy"
    return errors.OtherOrigin(f"this table is {copied}, and the changes are of table id {told}")


def _check_sound(index: int, time_ms: int, request_ids: Iterable[bytes]) -> None:
    """Raises UnreadableEntry."""
    if time_ms > _TIME_MS_MAX:
        raise UnreadableEntry(f"log entry {index} is of the time {time_ms} ms, which no clock shows")
    for request_id in request_ids:
        if len(request_id) != REQUEST_ID_BYTES:
            raise UnreadableEntry(
                f"log entry {index} holds a command whose id has {len(request_id)} bytes instead of {REQUEST_ID_BYTES}"
            )


def _fingerprint(command: frames.Command) -> bytes:
    """What tells two requests with one id apart. What one user was answered is not for another who guesses his id."""
    head = _METHOD_AND_TABLE.pack(command.method, command.table_id)
    user = blake2b(command.user.encode(), digest_size=16).digest() if command.user else b""
    return blake2b(command.body, digest_size=FINGERPRINT_BYTES, person=head, key=user).digest()
