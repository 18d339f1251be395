"""etcdserverpb.KV."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from coordinator.services.decoding import decode
from coordinator.shards import request_ids
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.validation import etcd as shape
from proto.varint import delimited

if TYPE_CHECKING:
    from coordinator.api.call import Call, Handler
    from coordinator.auth.authenticator import Authenticator
    from coordinator.catalog.table_calls import TableCalls
    from coordinator.services.etcd_tables import EtcdTables


_TAG_RANGE_RESPONSE: Final = b"\x0a"


class EtcdKV:
    """Range, RangeStream, Put, DeleteRange, Txn, Compact."""

    def __init__(
        self,
        calls: TableCalls,
        tables: EtcdTables,
        authenticator: Authenticator,
        *,
        request_bytes_max: int,
        txn_ops_max: int,
    ) -> None:
        self._calls = calls
        self._tables = tables
        self._authenticator = authenticator
        self._request_bytes_max = request_bytes_max
        self._txn_ops_max = txn_ops_max

    @property
    def handlers(self) -> dict[str, Handler]:
        """By path."""
        return {
            "/etcdserverpb.KV/Range": self.range,
            "/etcdserverpb.KV/RangeStream": self.range_stream,
            "/etcdserverpb.KV/Put": self.put,
            "/etcdserverpb.KV/DeleteRange": self.delete_range,
            "/etcdserverpb.KV/Txn": self.txn,
            "/etcdserverpb.KV/Compact": self.compact,
        }

    async def range(self, call: Call) -> bytes:
        """Linearizable unless the request says serializable."""
        request = decode(etcd.RangeRequest.FromString, call.body)
        shape.check_range(request)
        table = await self._tables.find(call)
        asked = self._authenticator.asked(call, table, frames.ETCD_RANGE)
        table, reply = await self._calls.read(asked, linearizable=not request.serializable)
        return self._tables.with_header(table, reply)

    async def range_stream(self, call: Call) -> None:
        """A range in parts, all from the view that the first one was taken from. As in etcd only the last has a header,
        more and count: merged they are what Range answers."""
        request = decode(etcd.RangeRequest.FromString, call.body)
        shape.check_range_stream(request)
        deadline = self._calls.step_deadline(call.deadline)
        table = await self._tables.find(call)
        asked = self._authenticator.asked(call, table, frames.ETCD_RANGE_STREAM, deadline=deadline)
        stream = await self._calls.start(asked, linearizable=not request.serializable)
        try:
            async for reply in stream.parts():
                part = reply.body if reply.cursor else self._tables.with_header(stream.table, reply)
                await call.send(delimited(_TAG_RANGE_RESPONSE, part))
        finally:
            stream.close()  # the client may have gone, or a part failed

    async def put(self, call: Call) -> bytes:
        """One key."""
        shape.check_put(decode(etcd.PutRequest.FromString, call.body))
        return await self._write(frames.ETCD_PUT, call)

    async def delete_range(self, call: Call) -> bytes:
        """A key or a range of them."""
        shape.check_delete_range(decode(etcd.DeleteRangeRequest.FromString, call.body))
        return await self._write(frames.ETCD_DELETE_RANGE, call)

    async def txn(self, call: Call) -> bytes:
        """A transaction of ranges only is a read: it is not proposed, and needs no leader if all are serializable."""
        request = decode(etcd.TxnRequest.FromString, call.body)
        shape.check_txn(request, self._txn_ops_max)
        if not shape.is_read_only(request):
            return await self._write(frames.ETCD_TXN, call)
        table = await self._tables.find(call)
        asked = self._authenticator.asked(call, table, frames.ETCD_TXN)
        table, reply = await self._calls.read(asked, linearizable=not shape.is_serializable(request))
        return self._tables.with_header(table, reply)

    async def compact(self, call: Call) -> bytes:
        """Forget what is older than a revision. A physical compaction ends when all of it is gone, which may take long:
        under its id it is asked for again, as long as its client waits and somebody leads the shard."""
        request = decode(etcd.CompactionRequest.FromString, call.body)
        name = call.metadata.get(request_ids.METADATA_KEY) or secrets.token_hex(16)
        while True:
            deadline = self._calls.step_deadline(call.deadline)
            try:
                return await self._write(frames.ETCD_COMPACT, call, name, deadline)
            except errors.TimedOut:
                table = await self._tables.find(call)
                if not request.physical or deadline >= call.deadline or not self._calls.is_led(table):
                    raise

    async def _write(
        self,
        method: frames.Method.ValueType,
        call: Call,
        name: str | None = None,
        deadline: float | None = None,
    ) -> bytes:
        """name, deadline: the client's, if they are not given."""
        shape.check_size(len(call.body), self._request_bytes_max)
        table = await self._tables.find(call)
        asked = self._authenticator.asked(call, table, method, deadline=deadline)
        table, reply = await self._calls.write(asked if name is None else asked._replace(client_id=name))
        return self._tables.with_header(table, reply)
