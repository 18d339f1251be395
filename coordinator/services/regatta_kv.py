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
    from coordinator.catalog.cache import Table
    from coordinator.door import Metadata
    from coordinator.shards.table_calls import Forward

METADATA_KEYS: Final = frozenset({request_ids.METADATA_KEY})


class RegattaKV:
    """Range, IterateRange, Put, DeleteRange, Txn."""

    def __init__(self, forward: Forward, headers: RegattaHeaders, *, step_timeout_s: float) -> None:
        """step_timeout_s bounds each part of an iteration; the whole may take as long as its client reads on."""
        self._forward = forward
        self._headers = headers
        self._step_timeout_s = step_timeout_s

    async def range(self, body: bytes, _metadata: Metadata, deadline: float) -> bytes:
        """Serializable unless the request says linearizable."""
        request = decode(regatta.RangeRequest.FromString, body)
        shape.check_range(request)
        table = await self._find_table(request.table, deadline)
        shape.check_range_lengths(request)
        reply = await self._forward.read(
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
        reply = await self._forward.read(table, frames.REGATTA_TXN, body, deadline, linearizable=True)
        return self._with_header(table, reply)

    async def iterate_range(
        self, body: bytes, _metadata: Metadata, deadline: float
    ) -> AsyncGenerator[bytes, None]:
        """A range in parts, all from the view that the first one was taken from.

        Raises CursorNotFound when the replica that holds the view is gone: nobody else has it."""
        request = decode(regatta.RangeRequest.FromString, body)
        shape.check_range(request)
        table = await self._find_table(request.table, deadline)
        opened = await self._forward.open(
            table, frames.REGATTA_ITERATE, body, deadline, linearizable=request.linearizable
        )
        reply = opened.future.result()
        cursor = reply.cursor
        try:
            yield self._with_header(table, reply)
            while cursor:
                reply = await self._forward.next_part(
                    opened, table, cursor=cursor, timeout_s=self._step_timeout_s
                )
                cursor = reply.cursor
                yield self._with_header(table, reply)
        finally:
            if cursor:  # the client went away, or a part failed
                self._forward.close_cursor(opened, table, cursor=cursor, timeout_s=self._step_timeout_s)

    async def _find_table(self, name: bytes, deadline: float) -> Table:
        try:
            return await self._forward.find_table(name.decode(), deadline)
        except UnicodeDecodeError:
            raise errors.TableNotFound(repr(name)) from None

    async def _write(
        self, table: Table, method: frames.Method.ValueType, body: bytes, metadata: Metadata, deadline: float
    ) -> bytes:
        reply = await self._forward.write(
            table, method, body, deadline, metadata.get(request_ids.METADATA_KEY)
        )
        return self._with_header(table, reply)

    def _with_header(self, table: Table, reply: frames.Reply) -> bytes:
        header = self._headers.encode(
            shard=table.shard,
            revision=reply.revision,
            term=self._forward.term_shown(table, reply.term),
            leader=reply.leader or self._forward.leader_believed(table),
        )
        return header + reply.body
