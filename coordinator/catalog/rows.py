"""The rows of the catalog, which is a table like others in a shard of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from proto import catalog, errors
from proto.etcd import rpc_pb2 as etcd
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from coordinator.shards.own_calls import OwnCalls

CALL_TIMEOUT_S: Final = 7.0


class Rows:
    """See the module."""

    def __init__(self, calls: OwnCalls) -> None:
        self._calls = calls

    async def range(
        self, key: bytes, range_end: bytes, *, linearizable: bool
    ) -> tuple[int, etcd.RangeResponse]:
        """The rows from here to there, an empty end standing for one row, and the catalog's revision. Raises what a
        read may."""
        body = etcd.RangeRequest(key=key, range_end=range_end).SerializeToString()
        of = (frames.ETCD_RANGE, catalog.CATALOG, body, CALL_TIMEOUT_S)
        reply = await (self._calls.ask(Access.READ, *of) if linearizable else self._calls.ask_nearest(*of))
        try:
            return reply.revision, etcd.RangeResponse.FromString(reply.body)
        except DecodeError as error:
            raise errors.InvariantBroken(
                f"the catalog's shard answered undecodable bytes: {error}"
            ) from error

    async def commit(self, txn: etcd.TxnRequest) -> bool:
        """Whether its comparisons held. Raises what a write may."""
        reply = await self._calls.ask(
            Access.WRITE, frames.ETCD_TXN, catalog.CATALOG, txn.SerializeToString(), CALL_TIMEOUT_S
        )
        return etcd.TxnResponse.FromString(reply.body).succeeded

    async def delete(self, key: bytes) -> None:
        """No harm if it is gone. Raises what a write may."""
        body = etcd.DeleteRangeRequest(key=key).SerializeToString()
        await self._calls.ask(Access.WRITE, frames.ETCD_DELETE_RANGE, catalog.CATALOG, body, CALL_TIMEOUT_S)


def if_changed_at(txn: etcd.TxnRequest, key: bytes, revision: int) -> None:
    """One more comparison: the row was last changed at this revision; 0 = there is none."""
    txn.compare.add(key=key, target=etcd.Compare.MOD, mod_revision=revision)


def if_absent(txn: etcd.TxnRequest, key: bytes) -> None:
    """One more comparison: there is no such row."""
    txn.compare.add(key=key, target=etcd.Compare.CREATE, create_revision=0)


def put(txn: etcd.TxnRequest, key: bytes, value: bytes) -> None:
    """One more put for when the comparisons hold."""
    txn.success.add().request_put.CopyFrom(etcd.PutRequest(key=key, value=value))


def delete(txn: etcd.TxnRequest, key: bytes) -> None:
    """One more deletion for when the comparisons hold."""
    txn.success.add().request_delete_range.CopyFrom(etcd.DeleteRangeRequest(key=key))
