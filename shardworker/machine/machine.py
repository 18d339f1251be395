"""The replicated state machine of one shard: commands in, results and changes out, the same on every replica.

apply() runs inside the store's open transaction and reads nothing but the database, its own caches of it and the
commands: no clock, no randomness, no order of hashes. What a client can get wrong is a Result with an error; an
exception means that this code is too old for the log, or that it or the disk is broken, and the replica must stop.

What one method does is in registry.py and behind it. Here is what all have in common: a command's way through an entry.
The rest of the machine stands below: what it keeps in memory, and how that follows the transaction (memory.py),
requests and who may have them (requests.py), reads (reading.py), sweeps (sweeping.py), and what commands may do to the
shard as a whole (whole_shard.py).
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from proto import errors
from proto.methods import REQUEST_ID_BYTES
from shardworker.machine import quota
from shardworker.machine.auth import NOBODY, Who
from shardworker.machine.auth_writer import AuthWriter
from shardworker.machine.budget import ENTRY_ANSWERS_BYTES_MAX, EntryBudget
from shardworker.machine.handler import Handler, Result, TooNew, UnreadableEntry
from shardworker.machine.reading import Reading
from shardworker.machine.stored_results import FINGERPRINT_BYTES, Remembered
from shardworker.machine.sweeping import Sweeping
from shardworker.machine.whole_shard import WholeShard
from shardworker.machine.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proto.internal import frames_pb2 as frames
    from shardworker.machine.requests import Parsed
    from shardworker.machine.tables import TableState

FORMAT: Final = 1
"""Of a log entry (CommandBatch.format)."""

_TIME_MS_MAX: Final = 1 << 48
"""Ten thousand years."""
_KEEPS_YOUNG_IDS_SINCE: Final = 2
"""The machine level that keeps young ids in the window of results (window.py), however many they are."""
_METHOD_AND_TABLE: Final = struct.Struct("<iQ")


class StateMachine(WholeShard, Reading, Sweeping):
    """See the module. It is made as Memory is."""

    # ---- an entry ------------------------------------------------------------------------------------------

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
        self._entry = EntryBudget(ENTRY_ANSWERS_BYTES_MAX, level=self.level)
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
            keeps_young = self.level >= _KEEPS_YOUNG_IDS_SINCE
            self._window.add(index, batch.time_ms, fresh, keeps_young=keeps_young)
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

    # ---- one command ---------------------------------------------------------------------------------------

    def _run(self, index: int, request: Parsed, writers: dict[int, Writer]) -> Result:
        """Raises Corrupt: what this replica's disk has lost is no outcome of a command, which all replicas share."""
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
                return self._administer(index, handler, table, request.op)
        except errors.Corrupt:
            raise
        except errors.BoathouseError as error:
            return Result(table.revision, b"", error)
        writer = self._writer(request.table_id, writers)
        writer.begin()
        assert handler.write is not None
        try:
            quota.check_takes(table, handler, request.op, self.leases, self.auth)
            body = handler.write(writer, request.op)
        except errors.Corrupt:
            raise
        except errors.BoathouseError as error:
            if isinstance(error, errors.QuotaExceeded):
                quota.note_refused(table, self.leases, self.auth)
            writer.refuse()
            return Result(table.revision, b"", error)
        writer.end()
        return Result(table.revision, body)

    def _administer(self, index: int, handler: Handler[Any], table: TableState, op: Any) -> Result:
        """Raises as the handler does, and QuotaExceeded, CorruptAlarm."""
        assert handler.administer is not None
        try:
            quota.check_takes(table, handler, op, self.leases, self.auth)
            body = handler.administer(AuthWriter(self.auth, table.id, index), op)
        except errors.QuotaExceeded:
            self.tables.touch(table)
            quota.note_refused(table, self.leases, self.auth)
            raise
        if table.full:
            self.tables.touch(table)
            quota.note_changed(table, self.leases, self.auth)
        return Result(table.revision, body)

    def _run_on_shard(self, work: Callable[[StateMachine, Any], Result], request: Parsed) -> Result:
        if request.error is not None:
            return Result(0, b"", request.error)
        try:
            return work(self, request.op)
        except errors.Corrupt:
            raise
        except errors.BoathouseError as error:
            return Result(0, b"", error)

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

    # ---- before one is proposed ----------------------------------------------------------------------------

    def check_serves(self, request: frames.Request) -> None:
        """Raises TableElsewhere or TableArriving for what another shard is to be asked for, or soon this one."""
        handler = self._registry.handlers.get(request.method)
        if handler is None or not (handler.of_move or handler.on_shard):
            self.moves.check_serves(request.table_id)

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
            quota.check_takes(table, parsed.handler, parsed.op, self.leases, self.auth)


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
