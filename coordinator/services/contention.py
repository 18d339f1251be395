"""Who comes first: what Lock and Election have in common, as etcd's `concurrency` package does it.

Everybody who wants the same name puts a key of his own under the prefix `name/`, bound to his lease. The key that was
created first holds it. Each of the others waits for the one created just before its own to be deleted, so an unlock
wakes one waiter and not all; whoever dies loses his key with his lease.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from coordinator.services.etcd_calls import prefix_end
from proto import errors
from proto.etcd import kv_pb2 as kv
from proto.etcd import rpc_pb2 as etcd

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

    from coordinator.api.call import Call
    from coordinator.services.etcd_calls import EtcdCalls

SESSION_TTL_S: Final = 60
"""Of the lease that a call without one gets. Nobody keeps it alive."""
LEAVE_TIMEOUT_S: Final = 7.0
"""For taking back the key of somebody who waits no longer."""


def key_of(prefix: bytes, lease: int) -> bytes:
    """Where whoever has this lease stands in line."""
    return prefix + f"{lease:x}".encode()


def first_under(prefix: bytes) -> etcd.RangeRequest:
    """Asks for the key below prefix that was created first."""
    return etcd.RangeRequest(
        key=prefix,
        range_end=prefix_end(prefix),
        limit=1,
        sort_order=etcd.RangeRequest.ASCEND,
        sort_target=etcd.RangeRequest.CREATE,
    )


def created_at(key: bytes, revision: int) -> etcd.Compare:
    """Holds if the key was created at that revision; 0: if there is no such key."""
    return etcd.Compare(
        key=key, result=etcd.Compare.EQUAL, target=etcd.Compare.CREATE, create_revision=revision
    )


def get(request: etcd.RangeRequest) -> etcd.RequestOp:
    """A range as part of a transaction."""
    return etcd.RequestOp(request_range=request)


def put(key: bytes, value: bytes, lease: int) -> etcd.RequestOp:
    """A put as part of a transaction."""
    return etcd.RequestOp(request_put=etcd.PutRequest(key=key, value=value, lease=lease))


def leave_unless_first(prefix: bytes, own_revision: int, leave: etcd.RequestOp) -> etcd.TxnRequest:
    """Leaves the line, but for the place at its head: a repeat of the call that gives up may have been told of that, by
    another coordinator."""
    nobody_before = etcd.Compare(
        key=prefix,
        range_end=prefix_end(prefix),
        result=etcd.Compare.GREATER,
        target=etcd.Compare.CREATE,
        create_revision=own_revision - 1,
    )
    return etcd.TxnRequest(compare=[nobody_before], failure=[leave])


async def wait_for_predecessors(calls: EtcdCalls, call: Call, prefix: bytes, own_revision: int) -> None:
    """Until no key below prefix is older than own_revision, by watching the youngest of those that are."""
    before_us = etcd.RangeRequest(
        key=prefix,
        range_end=prefix_end(prefix),
        limit=1,
        sort_order=etcd.RangeRequest.DESCEND,
        sort_target=etcd.RangeRequest.CREATE,
        max_create_revision=own_revision - 1,
    )
    while True:
        found = await calls.range(call, before_us)
        if not found.kvs:
            return
        await _wait_for_deletion(calls, call, found.kvs[0].key, found.header.revision)


async def _wait_for_deletion(calls: EtcdCalls, call: Call, key: bytes, revision: int) -> None:
    """Until the key, there at that revision, is deleted, or the watch ends and somebody has to look again."""
    request = etcd.WatchCreateRequest(
        key=key, start_revision=revision + 1, filters=[etcd.WatchCreateRequest.NOPUT]
    )
    async with calls.watch(call, request) as responses:
        async for response in responses:
            if any(event.type == kv.Event.DELETE for event in response.events):
                return


class Leavers:
    """Takes back the keys of those who wait no longer, after their calls have ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def deadline(self) -> float:
        """For the request that takes a key back, on the loop's clock."""
        return self._loop.time() + LEAVE_TIMEOUT_S

    def leave(self, request: Coroutine[None, None, object]) -> None:
        """Sends the request, once. If it fails the key goes with its lease."""
        task = self._loop.create_task(_quietly(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _quietly(request: Coroutine[None, None, object]) -> None:
    with contextlib.suppress(errors.BoathouseError):
        await request
