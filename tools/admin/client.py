"""Small blocking clients: they try one endpoint after the other, and repeat a write only under the same request id, so
that it is applied once."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final, Self, TypeVar

import grpc

from proto.boathouse import restore_pb2 as restore
from proto.etcd import rpc_pb2 as rpc
from tools.admin.endpoints import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.message import Message

M = TypeVar("M", bound="Message")

OPTIONS: Final = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
KEEPALIVE: Final = (("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000))
"""For calls that last: a coordinator that is silent for so long is gone, though nothing has said so."""
ATTEMPT_S_MAX: Final = 5.0
"""One endpoint gets so long before the next is asked."""
PAUSE_S: Final = 0.1
CLIENTS_OWN_DEADLINE: Final = "Deadline Exceeded"
"""What gRPC says when its client has stopped waiting, and heard nothing from the server."""


class CallFailed(Exception):
    """No endpoint has done what it was asked; the text has the server's words."""


class Client:
    """Unary calls to any of several coordinators. Use as a context manager."""

    def __init__(
        self,
        endpoints: Sequence[str],
        timeout_s: float,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        token: str = "",
    ) -> None:
        """Without credentials it speaks in the clear. token: of a table's user; empty = none."""
        self._timeout_s = timeout_s
        self._login = [("authorization", f"Bearer {token}")] if token else []
        self._channels = {endpoint: open_channel(endpoint, credentials) for endpoint in endpoints}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None = None, *_: object) -> None:
        leave_channels(self._channels.values(), failure)

    def call(
        self, path: str, request: Message, answer: type[M], metadata: Sequence[tuple[str, str]] = ()
    ) -> M:
        """Ask until an endpoint answers or the time is up; a call that may have been heard is then made again. Raises
        CallFailed."""
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            for endpoint, channel in self._channels.items():
                call: grpc.UnaryUnaryMultiCallable[Message, M] = channel.unary_unary(
                    path, type(request).SerializeToString, answer.FromString
                )
                remaining_s = max(0.001, deadline_s - time.monotonic())
                attempt_s = min(remaining_s, ATTEMPT_S_MAX) if len(self._channels) > 1 else remaining_s
                try:
                    return call(request, timeout=attempt_s, metadata=(*self._login, *metadata))
                except grpc.RpcError as error:
                    failure = error
                    if not _may_repeat(error):
                        raise CallFailed(_words(endpoint, error)) from None
            if time.monotonic() + PAUSE_S >= deadline_s:
                raise CallFailed(_words(endpoint, failure)) from None
            time.sleep(PAUSE_S)


def open_channel(
    endpoint: str, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, int]] = ()
) -> grpc.Channel:
    """A channel to a coordinator; without credentials in the clear. options: further ones of gRPC's."""
    options = [*channel_options(endpoint), *options]
    if credentials is None:
        return grpc.insecure_channel(endpoint, options=options)
    return grpc.secure_channel(endpoint, credentials, options=options)


def leave_channels(channels: Iterable[grpc.Channel], failure: type[BaseException] | None) -> None:
    """Close them as the last step of a context manager's __exit__, unless it is Ctrl-C that ends the command. gRPC's
    close waits for all calls, without a limit; one that an interrupt cut off in the middle of gRPC's own code may never
    end. failure: how the block is left."""
    if failure is not None and not issubclass(failure, Exception):
        return
    for channel in channels:
        channel.close()


class KvClient(Client):
    """One table."""

    def __init__(
        self,
        endpoints: Sequence[str],
        table: str | None,
        timeout_s: float,
        request_id: str | None = None,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        token: str = "",
    ) -> None:
        """`request_id` names all writes of this client; without one each gets a random one. The others: see Client."""
        super().__init__(endpoints, timeout_s, credentials=credentials, token=token)
        self._metadata = [("table", table)] if table else []
        self._request_id = request_id

    def range(self, request: rpc.RangeRequest) -> rpc.RangeResponse:
        return self._call("Range", request, rpc.RangeResponse, write=False)

    def put(self, request: rpc.PutRequest) -> rpc.PutResponse:
        return self._call("Put", request, rpc.PutResponse, write=True)

    def delete_range(self, request: rpc.DeleteRangeRequest) -> rpc.DeleteRangeResponse:
        return self._call("DeleteRange", request, rpc.DeleteRangeResponse, write=True)

    def txn(self, request: rpc.TxnRequest) -> rpc.TxnResponse:
        return self._call("Txn", request, rpc.TxnResponse, write=True)

    def load(self, request: restore.LoadRequest) -> restore.LoadResponse:
        """The next piece of a table that is restored."""
        return self._call("Load", request, restore.LoadResponse, write=True, service="boathouse.v1.Restore")

    def _call(
        self, method: str, request: Message, answer: type[M], *, write: bool, service: str = "etcdserverpb.KV"
    ) -> M:
        metadata = list(self._metadata)
        if write:
            metadata.append(("boathouse-request-id", self._request_id or secrets.token_hex(16)))
        return self.call(f"/{service}/{method}", request, answer, metadata)


def channel_options(endpoint: str) -> list[tuple[str, int]]:
    """A proxy for the world outside (http_proxy) has nothing to do with what is on this machine."""
    return [*OPTIONS, ("grpc.enable_http_proxy", 0)] if is_loopback(endpoint) else OPTIONS


def _may_repeat(error: grpc.RpcError) -> bool:
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def _words(endpoint: str, error: grpc.RpcError) -> str:
    code, details = error.code(), error.details()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and details == CLIENTS_OWN_DEADLINE:
        details = (
            "no answer in the time allowed (--timeout), and a write may have been carried out all the same;"
            " `boathouse doctor` says whether a shard has no leader"
        )
    return f"{endpoint}: {details} ({code.name})"
