"""etcdserverpb.KV."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.services import etcd_tables
from coordinator.services.decoding import decode
from coordinator.shards import request_ids
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.validation import etcd as shape

if TYPE_CHECKING:
    from coordinator.door import Metadata
    from coordinator.services.etcd_tables import EtcdTables
    from coordinator.shards.table_calls import TableCalls

METADATA_KEYS: Final = etcd_tables.METADATA_KEYS | {request_ids.METADATA_KEY}


class EtcdKV:
    """Range, Put, DeleteRange, Txn, Compact."""

    def __init__(
        self, calls: TableCalls, tables: EtcdTables, *, request_bytes_max: int, txn_ops_max: int
    ) -> None:
        self._calls = calls
        self._tables = tables
        self._request_bytes_max = request_bytes_max
        self._txn_ops_max = txn_ops_max

    async def range(self, body: bytes, metadata: Metadata, deadline: float) -> bytes:
        """Linearizable unless the request says serializable."""
        request = decode(etcd.RangeRequest.FromString, body)
        shape.check_range(request)
        table = await self._tables.find(metadata, deadline)
        table, reply = await self._calls.read(
            table, frames.ETCD_RANGE, body, deadline, linearizable=not request.serializable
        )
        return self._tables.with_header(table, reply)

    async def put(self, body: bytes, metadata: Metadata, deadline: float) -> bytes:
        """One key."""
        shape.check_put(decode(etcd.PutRequest.FromString, body))
        return await self._write(frames.ETCD_PUT, body, metadata, deadline)

    async def delete_range(self, body: bytes, metadata: Metadata, deadline: float) -> bytes:
        """A key or a range of them."""
        shape.check_delete_range(decode(etcd.DeleteRangeRequest.FromString, body))
        return await self._write(frames.ETCD_DELETE_RANGE, body, metadata, deadline)

    async def txn(self, body: bytes, metadata: Metadata, deadline: float) -> bytes:
        """A transaction of ranges only is a read: it is not proposed, and needs no leader if all are serializable."""
        request = decode(etcd.TxnRequest.FromString, body)
        shape.check_txn(request, self._txn_ops_max)
        if not shape.is_read_only(request):
            return await self._write(frames.ETCD_TXN, body, metadata, deadline)
        table = await self._tables.find(metadata, deadline)
        table, reply = await self._calls.read(
            table, frames.ETCD_TXN, body, deadline, linearizable=not shape.is_serializable(request)
        )
        return self._tables.with_header(table, reply)

    async def compact(self, body: bytes, metadata: Metadata, deadline: float) -> bytes:
        """Forget what is older than a revision."""
        decode(etcd.CompactionRequest.FromString, body)
        return await self._write(frames.ETCD_COMPACT, body, metadata, deadline)

    async def _write(
        self, method: frames.Method.ValueType, body: bytes, metadata: Metadata, deadline: float
    ) -> bytes:
        shape.check_size(len(body), self._request_bytes_max)
        table = await self._tables.find(metadata, deadline)
        table, reply = await self._calls.write(
            table, method, body, deadline, metadata.get(request_ids.METADATA_KEY)
        )
        return self._tables.with_header(table, reply)
