"""v3lockpb.Lock: https://etcd.io/docs/v3.5/dev-guide/api_concurrency_reference_v3/."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.services.contention import (
    SESSION_TTL_S,
    Leavers,
    created_at,
    first_under,
    get,
    key_of,
    leave_unless_first,
    put,
    wait_for_predecessors,
)
from coordinator.services.decoding import decode
from proto import errors
from proto.etcd import lock_pb2 as lock
from proto.etcd import rpc_pb2 as etcd

if TYPE_CHECKING:
    import asyncio

    from coordinator.api.call import Call, Handler
    from coordinator.services.etcd_calls import EtcdCalls


class EtcdLock:
    """Lock, Unlock."""

    def __init__(self, calls: EtcdCalls, loop: asyncio.AbstractEventLoop) -> None:
        self._calls = calls
        self._leavers = Leavers(loop)

    @property
    def handlers(self) -> dict[str, Handler]:
        """What this serves, by path."""
        return {"/v3lockpb.Lock/Lock": self.lock, "/v3lockpb.Lock/Unlock": self.unlock}

    async def lock(self, call: Call) -> bytes:
        """Waits until the name is held under the request's lease, or one that is granted here.

        Raises SessionExpired if the lease ran out meanwhile, or the place in line of a call that is repeated is gone.
        Whoever stops waiting leaves no key behind, unless it is first by then and the call may be repeated."""
        request = decode(lock.LockRequest.FromString, call.body)
        lease = request.lease or await self._calls.grant(call, step="grant", ttl_s=SESSION_TTL_S)
        prefix = request.name + b"/"
        key = key_of(prefix, lease)
        own = get(etcd.RangeRequest(key=key))
        holder = get(first_under(prefix))
        entered = await self._calls.txn(
            call,
            etcd.TxnRequest(
                compare=[created_at(key, 0)], success=[put(key, b"", lease), holder], failure=[own, holder]
            ),
            step="enter",
        )
        revision = entered.header.revision
        if not entered.succeeded:
            revision = entered.responses[0].response_range.kvs[0].create_revision
        first = entered.responses[1].response_range.kvs
        is_first = bool(first) and first[0].create_revision == revision
        if is_first and not self._calls.may_be_repeated(call):
            return lock.LockResponse(header=entered.header, key=key).SerializeToString()
        try:
            await wait_for_predecessors(self._calls, call, prefix, revision)
        except BaseException:
            self._leavers.leave(self._leave(call, prefix, key, revision))
            raise
        still = await self._calls.range(call, etcd.RangeRequest(key=key))
        if not still.kvs or still.kvs[0].create_revision != revision:
            raise errors.SessionExpired
        return lock.LockResponse(header=still.header, key=key).SerializeToString()

    async def _leave(self, call: Call, prefix: bytes, key: bytes, revision: int) -> None:
        leaving = etcd.DeleteRangeRequest(key=key)
        deadline = self._leavers.deadline()
        if self._calls.may_be_repeated(call):
            leave = etcd.RequestOp(request_delete_range=leaving)
            txn = leave_unless_first(prefix, revision, leave)
            await self._calls.txn(call, txn, step="leave", deadline=deadline)
        else:
            await self._calls.delete_range(call, leaving, step="leave", deadline=deadline)

    async def unlock(self, call: Call) -> bytes:
        """Deletes the key of a holder or waiter; one that is gone already is fine."""
        request = decode(lock.UnlockRequest.FromString, call.body)
        deleted = await self._calls.delete_range(
            call, etcd.DeleteRangeRequest(key=request.key), step="unlock"
        )
        return lock.UnlockResponse(header=deleted.header).SerializeToString()
