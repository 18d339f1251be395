"""Reads, at the state that a connection sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proto import errors
from shardworker.machine.handler import Result
from shardworker.machine.requests import Parsed, Requests
from shardworker.machine.snapshot import snapshot
from shardworker.machine.statements import table_sql
from shardworker.machine.tables import TableState, load_table
from shardworker.machine.view import View

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import apsw


class Reading(Requests):
    """See the module."""

    def read(self, connection: apsw.Connection, request: Parsed) -> Result:
        """Any read, at the state that `connection` sees: the writer's between commands, or a reader's own.

        Safe on another thread with a connection of its own; the counters then come from that connection."""
        if connection is self._connection:
            return self._read(connection, self.tables.get(request.table_id), request)
        with snapshot(connection):
            return self._read(connection, load_table(connection, request.table_id), request)

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

    def lease_keys(self, connection: apsw.Connection, table_id: int, lease_id: int) -> list[bytes]:
        """The keys that a lease holds, in order; as of read()."""
        with snapshot(connection):
            return [key for (key,) in connection.execute(table_sql(table_id).attached, (lease_id, -1))]

    def attached_keys(self, connection: apsw.Connection, table_id: int) -> Iterator[bytes]:
        """The keys that any lease of the table holds; as of read()."""
        with snapshot(connection):
            for (key,) in connection.execute(table_sql(table_id).all_attached):
                yield key

    def is_heavy(self, request: Parsed) -> bool:
        """Whether a read should run beside the loop, on a connection of its own.

        Looks at the table as it is now. What is going to be refused is light: its error is quickly found."""
        handler, table_id, op, error, _ = request
        table = self.tables.get(table_id)
        if table is None or error is not None or handler is None or handler.is_heavy is None:
            return False
        return handler.is_heavy(lambda: View(self._connection, table), op)
