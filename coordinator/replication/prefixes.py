"""Which copies hold nothing but what their origin has held, in rows beside the lease.

A cluster that led and gave way may hold acknowledged writes that its successor never had, and its successor may have
compacted so much by then that no change can be told that would not fit. So what a copy holds may be replaced without
a file of it only where this is known of it: it began empty, was replaced by a snapshot of that very table, or came to
the same checksum at the same revision. It is forgotten before anything is done about a copy that does not fit.

A row says of which table that is known: its id, the identity of its cluster, and the epoch, since a table that led in
between is another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.replication.copies import READ_S, WRITE_S
from proto import catalog
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from coordinator.shards.own_calls import OwnCalls
    from proto.catalog import TableEntry

_PREFIX: Final = b"prefix/"


class Prefixes:
    """Of all copies. All raise what a linearizable read or a write may."""

    def __init__(self, shards: OwnCalls) -> None:
        self._shards = shards

    async def known(self, copy: TableEntry) -> bytes:
        """The table (Leader.table()) of which this copy held a prefix; empty if that is not known of any."""
        body = etcd.RangeRequest(key=_key(copy)).SerializeToString()
        reply = await self._shards.ask(Access.READ, frames.ETCD_RANGE, catalog.REPLICATION, body, READ_S)
        rows = etcd.RangeResponse.FromString(reply.body).kvs
        return rows[0].value if rows else b""

    async def note(self, copy: TableEntry, table: bytes) -> None:
        """The copy holds a prefix of that one."""
        body = etcd.PutRequest(key=_key(copy), value=table).SerializeToString()
        await self._shards.ask(Access.WRITE, frames.ETCD_PUT, catalog.REPLICATION, body, WRITE_S)

    async def forget(self, copy: TableEntry) -> None:
        """It holds something else, or is gone."""
        body = etcd.DeleteRangeRequest(key=_key(copy)).SerializeToString()
        await self._shards.ask(Access.WRITE, frames.ETCD_DELETE_RANGE, catalog.REPLICATION, body, WRITE_S)


def _key(copy: TableEntry) -> bytes:
    return _PREFIX + b"%d" % copy.id
