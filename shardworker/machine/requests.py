"""Requests as the machine sees them, commands and reads alike: what their bodies say, and who may have it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError

from proto import errors
from shardworker.machine.auth import NOBODY, Caller, Who
from shardworker.machine.memory import Memory
from shardworker.machine.statements import table_sql

if TYPE_CHECKING:
    from shardworker.machine.handler import Handler


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


class Requests(Memory):
    """See the module."""

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

    # ---- who may have it -----------------------------------------------------------------------------------

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

    def renewed(self, table_id: int, who: Who) -> Who:
        """The same user, by what he may do now."""
        return who._replace(revision=self.auth.of(table_id).revision) if who.revision else who

    def _caller(self, request: Parsed) -> Caller:
        return self.caller(request.table_id, request.who)

    def caller(self, table_id: int, who: Who) -> Caller:
        """Who asks something of a table, to see whether he may have it."""
        return Caller(self.auth.of(table_id), who, partial(self.next_key_of_lease, table_id))

    def next_key_of_lease(self, table_id: int, lease_id: int, start: bytes) -> bytes | None:
        """The first key from `start` on that is attached to this lease, as of the last command."""
        writer = self._writers.get(table_id)
        execute = self._connection.execute if writer is None else writer.execute  # which sees what is pending
        key: bytes | None = execute(table_sql(table_id).attached_from, (lease_id, start)).get
        return key
