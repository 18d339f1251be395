"""regatta.v1.KV."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.services.decoding import decode
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2 as regatta
from proto.validation import regatta as shape

if TYPE_CHECKING:
    from coordinator.api.call import Call, Handler
    from coordinator.api.headers import RegattaHeaders
    from coordinator.auth.authenticator import Authenticator
    from coordinator.catalog.table_calls import TableCalls
    from proto.catalog import TableEntry


class RegattaKV:
    """Range, IterateRange, Put, DeleteRange, Txn."""

    def __init__(self, calls: TableCalls, headers: RegattaHeaders, authenticator: Authenticator) -> None:
        self._calls = calls
        self._authenticator = authenticator
        self._headers = headers

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {
            "/regatta.v1.KV/Range": self.range,
            "/regatta.v1.KV/IterateRange": self.iterate_range,
            "/regatta.v1.KV/Put": self.put,
            "/regatta.v1.KV/DeleteRange": self.delete_range,
            "/regatta.v1.KV/Txn": self.txn,
        }

    async def range(self, call: Call) -> bytes:
        """Serializable unless the request says linearizable."""
        request = decode(regatta.RangeRequest.FromString, call.body)
        shape.check_range(request)
        table = await self._find_table(call, request.table, call.deadline)
        shape.check_range_lengths(request)
        asked = self._authenticator.asked(call, table, frames.REGATTA_RANGE)
        table, reply = await self._calls.read(asked, linearizable=request.linearizable)
        return self._with_header(table, reply)

    async def put(self, call: Call) -> bytes:
        """One key."""
        request = decode(regatta.PutRequest.FromString, call.body)
        shape.check_put(request)
        table = await self._find_table(call, request.table, call.deadline)
        shape.check_put_lengths(request)
        return await self._write(table, frames.REGATTA_PUT, call)

    async def delete_range(self, call: Call) -> bytes:
        """A key or a range of them."""
        request = decode(regatta.DeleteRangeRequest.FromString, call.body)
        shape.check_delete_range(request)
        table = await self._find_table(call, request.table, call.deadline)
        shape.check_delete_range_lengths(request)
        return await self._write(table, frames.REGATTA_DELETE_RANGE, call)

    async def txn(self, call: Call) -> bytes:
        """A transaction of ranges only is a linearizable read."""
        request = decode(regatta.TxnRequest.FromString, call.body)
        shape.check_txn(request)
        table = await self._find_table(call, request.table, call.deadline)
        shape.check_txn_lengths(request)
        if not shape.is_read_only(request):
            return await self._write(table, frames.REGATTA_TXN, call)
        asked = self._authenticator.asked(call, table, frames.REGATTA_TXN)
        table, reply = await self._calls.read(asked, linearizable=True)
        return self._with_header(table, reply)

    async def iterate_range(self, call: Call) -> None:
        """A range in parts, all from the view that the first one was taken from.

        Raises CursorNotFound when the replica that holds the view is gone: nobody else has it."""
        request = decode(regatta.RangeRequest.FromString, call.body)
        shape.check_range(request)
        deadline = self._calls.step_deadline(call.deadline)
        table = await self._find_table(call, request.table, deadline)
        asked = self._authenticator.asked(call, table, frames.REGATTA_ITERATE, deadline=deadline)
        stream = await self._calls.start(asked, linearizable=request.linearizable)
        try:
            async for reply in stream.parts():
                await call.send(self._with_header(stream.table, reply))
        finally:
            stream.close()  # the client may have gone, or a part failed

    async def _find_table(self, call: Call, name: bytes, deadline: float) -> TableEntry:
        try:
            table = await self._calls.find_table(name.decode(), deadline, body_bytes=len(call.body))
        except UnicodeDecodeError:
            raise errors.TableNotFound(repr(name)) from None
        call.table = table.name
        return table

    async def _write(self, table: TableEntry, method: frames.Method.ValueType, call: Call) -> bytes:
        table, reply = await self._calls.write(self._authenticator.asked(call, table, method))
        return self._with_header(table, reply)

    def _with_header(self, table: TableEntry, reply: frames.Reply) -> bytes:
        header = self._headers.encode(
            shard=table.shard,
            revision=reply.revision,
            term=self._calls.term_shown(table, reply.term),
            leader=reply.leader or self._calls.leader_believed(table) or 0,
        )
        return header + reply.body
