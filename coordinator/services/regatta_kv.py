"""regatta.v1.KV."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.services.decoding import decode
from coordinator.shards import request_ids
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.regatta import regatta_pb2 as regatta
from proto.validation import regatta as shape

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coordinator.api.headers import RegattaHeaders
    from coordinator.door import Metadata
    from coordinator.shards.table_calls import TableCalls
    from proto.catalog import TableEntry

METADATA_KEYS: Final = frozenset({request_ids.METADATA_KEY})


class RegattaKV:
    """Range, IterateRange, Put, DeleteRange, Txn."""

    def __init__(self, calls: TableCalls, headers: RegattaHeaders) -> None:
        self._calls = calls
        self._headers = headers

    async def range(self, body: bytes, _metadata: Metadata, deadline: float) -> bytes:
        """Serializable unless the request says linearizable."""
        request = decode(regatta.RangeRequest.FromString, body)
        shape.check_range(request)
        table = await self._find_table(request.table, deadline)
        shape.check_range_lengths(request)
        table, reply = await self._calls.read(
            table, frames.REGATTA_RANGE, body, deadline, linearizable=request.linearizable
        )
        return self._with_header(table, reply)

    async def put(self, body: bytes, metadata: Metadata, deadline: float) -> bytes:
        """One key."""
        request = decode(regatta.PutRequest.FromString, body)
        shape.check_put(request)
        table = await self._find_table(request.table, deadline)
        shape.check_put_lengths(request)
        return await self._write(table, frames.REGATTA_PUT, body, metadata, deadline)

    async def delete_range(self, body: bytes, metadata: Metadata, deadline: float) -> bytes:
        """A key or a range of them."""
        request = decode(regatta.DeleteRangeRequest.FromString, body)
        shape.check_delete_range(request)
        table = await self._find_table(request.table, deadline)
        shape.check_delete_range_lengths(request)
        return await self._write(table, frames.REGATTA_DELETE_RANGE, body, metadata, deadline)

    async def txn(self, body: bytes, metadata: Metadata, deadline: float) -> bytes:
        """A transaction of ranges only is a linearizable read."""
        request = decode(regatta.TxnRequest.FromString, body)
        shape.check_txn(request)
        table = await self._find_table(request.table, deadline)
        shape.check_txn_lengths(request)
        if not shape.is_read_only(request):
            return await self._write(table, frames.REGATTA_TXN, body, metadata, deadline)
        table, reply = await self._calls.read(table, frames.REGATTA_TXN, body, deadline, linearizable=True)
        return self._with_header(table, reply)

    async def iterate_range(
        self, body: bytes, _metadata: Metadata, deadline: float
    ) -> AsyncGenerator[bytes, None]:
        """A range in parts, all from the view that the first one was taken from.

        Raises CursorNotFound when the replica that holds the view is gone: nobody else has it."""
        request = decode(regatta.RangeRequest.FromString, body)
        shape.check_range(request)
        table = await self._find_table(request.table, deadline)
        stream = await self._calls.start(
            table, frames.REGATTA_ITERATE, body, deadline, linearizable=request.linearizable
        )
        try:
            async for reply in stream.parts():
                yield self._with_header(stream.table, reply)
        finally:
            stream.close()  # the client may have gone, or a part failed

    async def _find_table(self, name: bytes, deadline: float) -> TableEntry:
        try:
            return await self._calls.find_table(name.decode(), deadline)
        except UnicodeDecodeError:
            raise errors.TableNotFound(repr(name)) from None

    async def _write(
        self,
        table: TableEntry,
        method: frames.Method.ValueType,
        body: bytes,
        metadata: Metadata,
        deadline: float,
    ) -> bytes:
        table, reply = await self._calls.write(
            table, method, body, deadline, metadata.get(request_ids.METADATA_KEY)
        )
        return self._with_header(table, reply)

    def _with_header(self, table: TableEntry, reply: frames.Reply) -> bytes:
        header = self._headers.encode(
            shard=table.shard,
            revision=reply.revision,
            term=self._calls.term_shown(table, reply.term),
            leader=reply.leader or self._calls.leader_believed(table) or 0,
        )
        return header + reply.body
