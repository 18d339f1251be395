"""Asks coordinators, or members of an etcd cluster, over etcd's API: many at once, none for longer than a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

import grpc

from proto.etcd import rpc_pb2 as rpc
from tools.admin.client import leave_channels

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from tools.admin.reach import Reach

A = TypeVar("A", bound="Message")

TABLE_METADATA: Final = "table"


class Refused(Exception):
    """An endpoint did not answer, or answered with an error; the text says which and why."""


class Pending(Generic[A]):
    """An answer on its way."""

    def __init__(self, endpoint: str, future: grpc.CallFuture[A]) -> None:
        self.endpoint = endpoint
        self._future = future

    def result(self) -> A:
        """Waits for it, not longer than the call may last. Raises Refused."""
        try:
            return self._future.result()
        except grpc.RpcError as error:
            raise Refused(f"{self.endpoint}: {error.details()} ({error.code().name})") from None


class EtcdClient:
    """Channels to any number of endpoints, made as they are needed. Use as a context manager."""

    def __init__(self, timeout_s: float, reach: Reach) -> None:
        self._timeout_s = timeout_s
        self._reach = reach
        self._channels: dict[str, grpc.Channel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None = None, *_: object) -> None:
        leave_channels(self._channels.values(), failure)

    def member_list(self, endpoint: str) -> Pending[rpc.MemberListResponse]:
        return self._call(
            endpoint, "Cluster/MemberList", rpc.MemberListRequest(), rpc.MemberListResponse, None
        )

    def status(self, endpoint: str) -> Pending[rpc.StatusResponse]:
        return self._call(endpoint, "Maintenance/Status", rpc.StatusRequest(), rpc.StatusResponse, None)

    def alarms(self, endpoint: str) -> Pending[rpc.AlarmResponse]:
        request = rpc.AlarmRequest(action=rpc.AlarmRequest.GET)
        return self._call(endpoint, "Maintenance/Alarm", request, rpc.AlarmResponse, None)

    def move_leader(
        self, endpoint: str, member_id: int, table: str | None
    ) -> Pending[rpc.MoveLeaderResponse]:
        request = rpc.MoveLeaderRequest(targetID=member_id)
        return self._call(endpoint, "Maintenance/MoveLeader", request, rpc.MoveLeaderResponse, table)

    def range(
        self, endpoint: str, request: rpc.RangeRequest, table: str | None
    ) -> Pending[rpc.RangeResponse]:
        return self._call(endpoint, "KV/Range", request, rpc.RangeResponse, table)

    def _call(
        self, endpoint: str, method: str, request: Message, answer: type[A], table: str | None
    ) -> Pending[A]:
        channel = self._channels.get(endpoint)
        if channel is None:
            channel = self._channels[endpoint] = self._reach.channel(endpoint)
        call: grpc.UnaryUnaryMultiCallable[Message, A] = channel.unary_unary(
            f"/etcdserverpb.{method}", type(request).SerializeToString, answer.FromString
        )
        metadata = self._reach.login + (((TABLE_METADATA, table),) if table is not None else ())
        return Pending(endpoint, call.future(request, timeout=self._timeout_s, metadata=metadata))
