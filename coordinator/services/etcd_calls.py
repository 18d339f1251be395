"""The etcd API as a service of this process uses it: typed, in the name of the client whose call it serves.

A call of his may consist of several writes. Each is a step of it by name, so that under an id of the client's own each
has its own id, and he may repeat the whole."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, TypeVar

from coordinator.api.local_call import LocalCall
from coordinator.services.etcd_tables import HAS_LEADER_KEY
from coordinator.shards import request_ids
from proto.etcd import rpc_pb2 as etcd

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from google.protobuf.message import Message

    from coordinator.api.call import Call, Route

RANGE: Final = "/etcdserverpb.KV/Range"
TXN: Final = "/etcdserverpb.KV/Txn"
DELETE_RANGE: Final = "/etcdserverpb.KV/DeleteRange"
WATCH: Final = "/etcdserverpb.Watch/Watch"
ALARM: Final = "/etcdserverpb.Maintenance/Alarm"
STATUS: Final = "/etcdserverpb.Maintenance/Status"
LEASE_GRANT: Final = "/etcdserverpb.Lease/LeaseGrant"

R = TypeVar("R")


def prefix_end(prefix: bytes) -> bytes:
    """The range_end that makes a range of all keys beginning with `prefix`."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


class EtcdCalls:
    """KV, Watch, Lease and Maintenance over the routes of this coordinator."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        """routes may be filled later; they are looked up at each call."""
        self._routes = routes

    @staticmethod
    def may_be_repeated(call: Call) -> bool:
        """Whether the client has named his call: what its writes are answered may then be what they came to before, and
        not be so any more."""
        return request_ids.METADATA_KEY in call.metadata

    async def range(self, call: Call, request: etcd.RangeRequest) -> etcd.RangeResponse:
        """Raises what KV.Range does."""
        return await self._ask(call, RANGE, request, etcd.RangeResponse.FromString)

    async def txn(
        self, call: Call, request: etcd.TxnRequest, *, step: str, deadline: float | None = None
    ) -> etcd.TxnResponse:
        """Raises what KV.Txn does. deadline: of what is done after the call has ended, which insists on nothing."""
        return await self._ask(call, TXN, request, etcd.TxnResponse.FromString, step, deadline)

    async def delete_range(
        self, call: Call, request: etcd.DeleteRangeRequest, *, step: str, deadline: float | None = None
    ) -> etcd.DeleteRangeResponse:
        """Raises what KV.DeleteRange does. deadline: as of txn()."""
        return await self._ask(
            call, DELETE_RANGE, request, etcd.DeleteRangeResponse.FromString, step, deadline
        )

    async def grant(self, call: Call, *, step: str, ttl_s: int) -> int:
        """The id of a new lease."""
        request = etcd.LeaseGrantRequest(TTL=ttl_s)
        return (await self._ask(call, LEASE_GRANT, request, etcd.LeaseGrantResponse.FromString, step)).ID

    async def alarm(self, call: Call, request: etcd.AlarmRequest) -> etcd.AlarmResponse:
        """Raises what Maintenance.Alarm does."""
        return await self._ask(call, ALARM, request, etcd.AlarmResponse.FromString)

    async def status(self, call: Call) -> etcd.StatusResponse:
        """Raises what Maintenance.Status does."""
        return await self._ask(call, STATUS, etcd.StatusRequest(), etcd.StatusResponse.FromString)

    @contextlib.asynccontextmanager
    async def watch(
        self, call: Call, request: etcd.WatchCreateRequest
    ) -> AsyncIterator[AsyncGenerator[etcd.WatchResponse]]:
        """The responses of one watch, until the block ends; they end by themselves if the watch is cancelled."""
        first = etcd.WatchRequest(create_request=request).SerializeToString()
        local = LocalCall(
            (first,),
            metadata=call.metadata,
            deadline=call.deadline,
            peer=call.peer,
            identity=call.identity,
        )
        async with contextlib.aclosing(local.answers(self._routes[WATCH])) as answers:
            yield _until_canceled(answers)

    async def _ask(
        self,
        call: Call,
        path: str,
        request: Message,
        parse: Callable[[bytes], R],
        step: str = "",
        deadline: float | None = None,
    ) -> R:
        metadata = call.metadata
        if deadline is not None:
            metadata = {name: value for name, value in metadata.items() if name != HAS_LEADER_KEY}
        client_id = metadata.get(request_ids.METADATA_KEY)
        if step and client_id is not None:
            metadata = {**metadata, request_ids.METADATA_KEY: request_ids.of_step(client_id, step)}
        local = LocalCall(
            (request.SerializeToString(),),
            metadata=metadata,
            deadline=call.deadline if deadline is None else deadline,
            peer=call.peer,
            identity=call.identity,
        )
        try:
            return parse(await local.answer(self._routes[path]))
        finally:
            call.table = local.table


async def _until_canceled(answers: AsyncGenerator[bytes]) -> AsyncGenerator[etcd.WatchResponse]:
    async for answer in answers:
        response = etcd.WatchResponse.FromString(answer)
        if response.canceled:
            return
        yield response
