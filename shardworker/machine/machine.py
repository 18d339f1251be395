"""The replicated state machine of one shard: commands in, results out, the same on every replica.

apply() runs inside the store's open transaction and reads nothing but the database, its own caches of it and the
commands: no clock, no randomness, no order of hashes. What a client can get wrong is a Result with an error; an
exception means that this code or the disk is broken, and the replica must stop.

The caches (tables' counters, the window of results) follow the transaction: committed() keeps their changes,
rollback() forgets them, reload() reads everything anew after the database was replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from google.protobuf.message import DecodeError

from proto import errors
from proto.catalog import CATALOG_ID, CATALOG_NAME, CATALOG_SHARD
from proto.etcd import rpc_pb2
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2
from shardworker.machine import sweep, weight
from shardworker.machine.etcd import codec as etcd_codec
from shardworker.machine.ops import Operation, Page, Range, Txn
from shardworker.machine.regatta import codec as regatta_codec
from shardworker.machine.tables import (
    REVISION_MAX,
    Table,
    create_schema,
    create_table,
    load_table,
    load_tables,
    save_table,
)
from shardworker.machine.view import SCAN_ROWS_MIN, View
from shardworker.machine.window import ResultWindow, WindowLimits
from shardworker.machine.writer import Writer, may_fail_midway, read_txn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    import apsw

REQUEST_ID_BYTES_MAX = 64
ENTRY_ANSWERS_BYTES_MAX = 256 << 20
"""Of all commands of one log entry: their answers are in memory at once, and become one row, which SQLite ends at a
billion bytes. Part of the replicated behaviour."""


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """What can be set. Everything here is part of the replicated behaviour: equal on all replicas of a shard."""

    window: WindowLimits = field(default_factory=WindowLimits)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one command or read. On an error the body is empty."""

    revision: int
    """The table's revision that the answer's header shows; 0 if there is no such table."""
    body: bytes
    """The API's response message without its header."""
    error: errors.BoathouseError | None = None
    more: bool = False
    """Of an iteration: another part follows."""


class StateMachine:
    """See the module. `connection` is the store's writer."""

    def __init__(
        self,
        connection: apsw.Connection,
        shard: int,
        settings: MachineSettings | None = None,
        *,
        table_written: Callable[[], None] = lambda: None,
    ):
        """table_written is called when a table was created, before the transaction ends: a crash point of tests."""
        self._connection = connection
        self._table_written = table_written
        self._shard = shard
        self._settings = settings or MachineSettings()
        self._tables: dict[int, Table] = {}
        self._saved: dict[int, Table | None] = {}
        self._dirty: set[int] = set()
        self._last_swept = 0
        self._answer_bytes_left = 0
        self._in_transaction(self._create_schema)

    # ---- life of the caches --------------------------------------------------------------------------------

    def _create_schema(self) -> None:
        create_schema(self._connection)
        self._window = ResultWindow(self._connection, self._settings.window)
        self._tables = load_tables(self._connection)
        if self._shard == CATALOG_SHARD and CATALOG_ID not in self._tables:
            catalog = Table(CATALOG_ID, CATALOG_NAME, -1)
            create_table(self._connection, catalog)
            self._tables[catalog.id] = catalog

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
        """The transaction is durable: its changes to the caches stay."""
        self._saved.clear()
        self._window.committed()

    def rollback(self) -> None:
        """The transaction was rolled back: the caches return to the last committed()."""
        for table_id, before in self._saved.items():
            if before is None:
                del self._tables[table_id]
            else:
                self._tables[table_id] = before
        self._saved.clear()
        self._dirty.clear()
        self._window.rollback()

    def reload(self, connection: apsw.Connection | None = None) -> None:
        """The database was replaced, perhaps behind a new connection: forget everything, read it again."""
        self._connection = connection or self._connection
        self._saved.clear()
        self._dirty.clear()
        self._in_transaction(self._create_schema)

    # ---- writes --------------------------------------------------------------------------------------------

    def apply(self, index: int, batch: frames.CommandBatch) -> list[Result]:
        """Runs an entry's commands in order, inside the open transaction; one Result for each.

        A command whose request id is remembered changes nothing and gets its first result, errors included."""
        results: list[Result] = []
        fresh: dict[bytes, Result] = {}
        self._answer_bytes_left = ENTRY_ANSWERS_BYTES_MAX
        for command in batch.commands:
            request_id = command.request_id
            if not request_id:
                results.append(self._run(command))
            elif len(request_id) > REQUEST_ID_BYTES_MAX:
                results.append(Result(0, b"", errors.InvalidRequestId("over 64 bytes inside the cluster")))
            else:
                result = fresh.get(request_id) or self._remembered(request_id)
                if result is None:
                    result = fresh[request_id] = self._run(command)
                results.append(result)
        for table_id in sorted(self._dirty):
            save_table(self._connection, self._tables[table_id])
        self._dirty.clear()
        if fresh:
            self._window.add(index, batch.time_ms, _to_stored(fresh))
        return results

    def _remembered(self, request_id: bytes) -> Result | None:
        stored = self._window.find(request_id)
        if stored is None:
            return None
        error = errors.from_frame(stored.error, stored.detail) if stored.error else None
        return Result(stored.revision, stored.body, error)

    def _run(self, command: frames.Command) -> Result:
        result = self._result(command)
        self._answer_bytes_left -= len(result.body)
        return result

    def _result(self, command: frames.Command) -> Result:
        if command.method == frames.TABLE_CREATE:
            return self._create_table(command.body)
        table = self._tables.get(command.table_id)
        if table is None:
            return Result(0, b"", errors.TableNotFound())
        work = self._WRITES.get(command.method)
        if work is None:
            view = View(self._connection, table, self._answer_bytes_left)
            return self._read_on(view, command.method, command.body)
        self._touch(table)
        try:
            body = work(self, table, command.body)
        except DecodeError:
            return Result(table.revision, b"", errors.MalformedRequest())
        except errors.BoathouseError as error:
            return Result(table.revision, b"", error)
        return Result(table.revision, body)

    def _touch(self, table: Table) -> None:
        """Keeps what the table was at the last commit, and has it saved at the end of the entry."""
        if table.id not in self._saved:
            self._saved[table.id] = table.copy()
        self._dirty.add(table.id)

    def lease_exists(self, table_id: int, lease_id: int) -> bool:
        """Whether a put may attach to this lease."""
        return False

    def _etcd_put(self, table: Table, body: bytes) -> bytes:
        writer = self._writer(table)
        done = writer.put(etcd_codec.to_put(rpc_pb2.PutRequest.FromString(body)))
        writer.finish()
        return etcd_codec.put_body(done)

    def _etcd_delete_range(self, table: Table, body: bytes) -> bytes:
        writer = self._writer(table)
        done = writer.delete_range(etcd_codec.to_delete_range(rpc_pb2.DeleteRangeRequest.FromString(body)))
        writer.finish()
        return etcd_codec.delete_body(done)

    def _etcd_txn(self, table: Table, body: bytes) -> bytes:
        op = etcd_codec.to_txn(rpc_pb2.TxnRequest.FromString(body))
        return self._atomically(table, op, lambda writer: etcd_codec.txn_body(writer.txn(op)))

    def _regatta_put(self, table: Table, body: bytes) -> bytes:
        writer = self._writer(table)
        done = writer.put(regatta_codec.to_put(regatta_pb2.PutRequest.FromString(body)))
        writer.finish()
        return regatta_codec.put_body(done)

    def _regatta_delete_range(self, table: Table, body: bytes) -> bytes:
        request = regatta_pb2.DeleteRangeRequest.FromString(body)
        if not request.key:
            raise errors.EmptyKey
        writer = self._writer(table)
        done = writer.delete_range(regatta_codec.to_delete_range(request))
        writer.finish()
        return regatta_codec.delete_body(done)

    def _regatta_txn(self, table: Table, body: bytes) -> bytes:
        op = regatta_codec.to_txn(regatta_pb2.TxnRequest.FromString(body))
        return self._atomically(table, op, lambda writer: regatta_codec.txn_body(writer.txn(op)))

    def _writer(self, table: Table) -> Writer:
        return Writer(self._connection, table, self.lease_exists, self._answer_bytes_left)

    def _atomically(self, table: Table, op: Txn, work: Callable[[Writer], bytes]) -> bytes:
        """Runs a transaction so that an error leaves nothing of it behind."""
        writer = self._writer(table)
        if not may_fail_midway(op, table):
            body = work(writer)
            writer.finish()
            return body
        before = table.copy()
        # By hand, because a full disk may end the whole transaction, and a `with` would then hide that error.
        self._connection.execute("SAVEPOINT command")
        try:
            body = work(writer)
        except errors.BoathouseError:
            self._connection.execute("ROLLBACK TO command")
            self._connection.execute("RELEASE command")
            table.keys, table.checksum = before.keys, before.checksum
            raise
        self._connection.execute("RELEASE command")
        writer.finish()
        return body

    def _etcd_compact(self, table: Table, body: bytes) -> bytes:
        revision = rpc_pb2.CompactionRequest.FromString(body).revision
        if revision <= table.floor:
            raise errors.Compacted
        if revision > table.revision:
            raise errors.FutureRevision
        table.compacted = revision
        return b""

    def _create_table(self, body: bytes) -> Result:
        """Creates a table, or answers its status if its id exists: a repeat of the same request, whatever else."""
        try:
            spec = frames.TableSpec.FromString(body)
        except DecodeError:
            return Result(0, b"", errors.MalformedRequest())
        table = self._tables.get(spec.id)
        if table is None:
            if not 0 < spec.id <= REVISION_MAX or not spec.name or spec.history < -1:
                return Result(
                    0, b"", errors.InvalidRequest("a table needs an id, a name and a history of -1 or more")
                )
            table = Table(spec.id, spec.name, spec.history)
            create_table(self._connection, table)
            self._tables[table.id] = table
            self._saved[table.id] = None
            self._table_written()
        elif table.name != spec.name:
            return Result(
                table.revision,
                b"",
                errors.InvalidRequest(f"table id {spec.id} belongs to {table.name!r} already"),
            )
        return Result(table.revision, _status(table).SerializeToString())

    _WRITES: ClassVar[dict[int, Callable[[StateMachine, Table, bytes], bytes]]] = {
        frames.ETCD_PUT: _etcd_put,
        frames.ETCD_DELETE_RANGE: _etcd_delete_range,
        frames.ETCD_TXN: _etcd_txn,
        frames.ETCD_COMPACT: _etcd_compact,
        frames.REGATTA_PUT: _regatta_put,
        frames.REGATTA_DELETE_RANGE: _regatta_delete_range,
        frames.REGATTA_TXN: _regatta_txn,
    }

    # ---- reads ---------------------------------------------------------------------------------------------

    def read(self, connection: apsw.Connection, method: int, table_id: int, body: bytes) -> Result:
        """Any read, at the state that `connection` sees: the writer's between commands, or a reader's own.

        Safe on another thread with a connection of its own; the counters then come from that connection."""
        if connection is self._connection:
            table = self._tables.get(table_id)
            if table is None:
                return Result(0, b"", errors.TableNotFound())
            return self._read_on(View(connection, table), method, body)
        with _snapshot(connection):
            table = load_table(connection, table_id)
            if table is None:
                return Result(0, b"", errors.TableNotFound())
            return self._read_on(View(connection, table), method, body)

    def _read_on(self, view: View, method: int, body: bytes) -> Result:
        work = self._READS.get(method)
        revision = view.table.revision
        if work is None:
            return Result(revision, b"", errors.MethodNotServed(f"method {method}"))
        try:
            return Result(revision, work(view, body))
        except DecodeError:
            return Result(revision, b"", errors.MalformedRequest())
        except errors.BoathouseError as error:
            return Result(revision, b"", error)

    @staticmethod
    def _read_etcd_range(view: View, body: bytes) -> bytes:
        key = etcd_codec.plain_key(body)
        if key:
            return etcd_codec.one_body(view.get(key))
        op = etcd_codec.to_range(rpc_pb2.RangeRequest.FromString(body))
        return etcd_codec.range_body(view.range(op))

    @staticmethod
    def _read_etcd_txn(view: View, body: bytes) -> bytes:
        op = etcd_codec.to_txn(rpc_pb2.TxnRequest.FromString(body))
        return etcd_codec.txn_body(read_txn(view, op))

    @staticmethod
    def _read_regatta_range(view: View, body: bytes) -> bytes:
        done = view.page(regatta_codec.to_page(regatta_pb2.RangeRequest.FromString(body)))
        return regatta_codec.page_body(done, more=done.more)

    @staticmethod
    def _read_regatta_txn(view: View, body: bytes) -> bytes:
        op = regatta_codec.to_txn(regatta_pb2.TxnRequest.FromString(body))
        return regatta_codec.txn_body(read_txn(view, op))

    @staticmethod
    def _read_status(view: View, body: bytes) -> bytes:
        return _status(view.table).SerializeToString()

    _READS: ClassVar[dict[int, Callable[[View, bytes], bytes]]] = {
        frames.ETCD_RANGE: _read_etcd_range,
        frames.ETCD_TXN: _read_etcd_txn,
        frames.REGATTA_RANGE: _read_regatta_range,
        frames.REGATTA_TXN: _read_regatta_txn,
        frames.TABLE_STATUS: _read_status,
    }

    def iterate(
        self, connection: apsw.Connection, table_id: int, body: bytes
    ) -> Generator[Result, None, None]:
        """Regatta's IterateRange: the parts of one range, all of one state, at least one part.

        The state is that of the first part's moment. `connection` is in a read transaction from then until the
        iterator ends or is closed, so it must be a reader's own; it may move between threads with the iterator."""
        with _snapshot(connection):
            table = load_table(connection, table_id)
            if table is None:
                yield Result(0, b"", errors.TableNotFound())
                return
            try:
                op = regatta_codec.to_page(regatta_pb2.RangeRequest.FromString(body))
            except DecodeError:
                yield Result(table.revision, b"", errors.MalformedRequest())
                return
            except errors.BoathouseError as error:
                yield Result(table.revision, b"", error)
                return
            yield from _parts(connection, table, op)

    def is_heavy(self, method: int, body: bytes, table_id: int = 0) -> bool:
        """Whether a read should run beside the loop, on a connection of its own.

        Looks at the table as it is now; without a table, judges by the request alone. A body that cannot be read is
        light: its error is quickly found."""
        to_op = self._OPERATIONS.get(method)
        if to_op is None or (method == frames.ETCD_RANGE and etcd_codec.plain_key(body)):
            return False
        try:
            op = to_op(body)
        except (DecodeError, errors.BoathouseError):
            return False
        table = self._tables.get(table_id)
        if table is None:
            return bool(isinstance(op, Range | Page) and op.end and not 0 < op.limit <= weight.ROWS_LIGHT)
        return weight.is_heavy(View(self._connection, table), op)

    _OPERATIONS: ClassVar[dict[int, Callable[[bytes], Operation]]] = {
        frames.ETCD_RANGE: lambda body: etcd_codec.to_range(rpc_pb2.RangeRequest.FromString(body)),
        frames.ETCD_TXN: lambda body: etcd_codec.to_txn(rpc_pb2.TxnRequest.FromString(body)),
        frames.REGATTA_RANGE: lambda body: regatta_codec.to_page(regatta_pb2.RangeRequest.FromString(body)),
        frames.REGATTA_TXN: lambda body: regatta_codec.to_txn(regatta_pb2.TxnRequest.FromString(body)),
    }

    # ---- maintenance ---------------------------------------------------------------------------------------

    def compaction_step(self, rows_max: int) -> int:
        """Removes what compaction has made unreachable, in the open transaction; 0 = nothing left.

        Visits at most rows_max rows of one table, each a few microseconds. Tables take turns, because one that keeps a
        number of revisions is never done while it is written."""
        unswept = [table for table in self._tables.values() if not sweep.is_swept(table)]
        if not unswept:
            return 0
        table = min(unswept, key=lambda table: (table.id <= self._last_swept, table.id))
        self._last_swept = table.id
        if table.id not in self._saved:
            self._saved[table.id] = table.copy()
        return sweep.sweep(self._connection, table, rows_max)

    @property
    def is_compacting(self) -> bool:
        """Whether compaction_step would find something to do."""
        return not all(sweep.is_swept(table) for table in self._tables.values())

    def sweep_awaited(self, command: frames.Command) -> int | None:
        """The revision up to which a table's history has to be physically gone before this command is answered: etcd's
        `physical` compaction, which also waits for an earlier one when it fails itself. None if it is due now."""
        table = self._tables.get(command.table_id)
        if command.method != frames.ETCD_COMPACT or table is None:
            return None
        try:
            request = rpc_pb2.CompactionRequest.FromString(command.body)
        except DecodeError:
            return None
        revision = min(request.revision, table.floor)
        return revision if request.physical and not sweep.is_swept_to(table, revision) else None

    def is_swept(self, table_id: int, revision: int) -> bool:
        """Whether what a compaction at this revision made unreachable is physically gone."""
        table = self._tables.get(table_id)
        return table is None or sweep.is_swept_to(table, revision)

    @property
    def time_ms(self) -> int:
        """The newest time that an applied batch brought; no later batch can lower it."""
        return self._window.time_ms

    def table_status(self) -> list[frames.TableStatus]:
        return [_status(table) for _, table in sorted(self._tables.items())]

    @property
    def checksum(self) -> int:
        """One number over all tables' rolling checksums and revisions, for comparing replicas."""
        total = 0
        for table_id, table in sorted(self._tables.items()):
            for part in (table_id, table.revision, table.compacted, table.keys, table.checksum):
                total = ((total ^ (part & (1 << 64) - 1)) * 0x100000001B3) & ((1 << 64) - 1)
        return total


def _parts(connection: apsw.Connection, table: Table, op: Page) -> Iterator[Result]:
    """The limit counts over all parts; `more` is true on all but the last."""
    left = op.limit
    rows_first = SCAN_ROWS_MIN
    while True:
        # Each part has its own allowance: what was sent is no longer in memory.
        page = View(connection, table).page(op, rows_first)
        # Of large values few fit into a part; the next one is not to read many more of them than it can hold.
        rows_first = min(SCAN_ROWS_MIN, page.count + 1)
        if left > 0:
            left -= page.count
        last = not page.more or op.count_only or not op.end or (op.limit > 0 and left <= 0)
        yield Result(table.revision, regatta_codec.page_body(page, more=not last), more=not last)
        if last:
            return
        op = replace(op, key=page.pairs[-1][0] + b"\0", limit=left)


class _snapshot:
    """A read transaction, unless the connection is in one already."""

    def __init__(self, connection: apsw.Connection):
        self._connection = connection
        self._ours = not connection.in_transaction

    def __enter__(self) -> None:
        if self._ours:
            self._connection.execute("BEGIN")

    def __exit__(self, *exc: object) -> None:
        # A failed read may have ended it: a second error would hide the first.
        if self._ours and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _to_stored(fresh: dict[bytes, Result]) -> frames.StoredResults:
    stored = frames.StoredResults()
    add = stored.results.add
    for request_id, result in fresh.items():
        error = result.error
        if error is None:
            add(request_id=request_id, revision=result.revision, body=result.body)
        else:
            add(request_id=request_id, revision=result.revision, error=error.frame_code, detail=error.detail)
    return stored


def _status(table: Table) -> frames.TableStatus:
    return frames.TableStatus(
        id=table.id,
        name=table.name,
        revision=table.revision,
        compacted_revision=table.floor,
        history=table.history,
        keys=table.keys,
        checksum=table.checksum,
    )
