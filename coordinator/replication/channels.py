"""Ways to the leader cluster's coordinators: one at a time is used, and after a failure the next one.

The certificates and the token that the cluster file names are read again when they change. What can't be used then is
refused in the log, and what was used before stays.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
import structlog

from config.changed_files import ChangedFiles
from config.checks import host_of, is_loopback
from config.tls_files import TlsUnusable, check_usable
from config.token_files import BadTokenFile, read_tokens
from coordinator.replication.leader import LeaderFailed
from coordinator.replication.token_key import TOKEN_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from config.models import FollowsConfig

OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),  # a revision travels whole, however much it changed
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Who was out of reach for long is found again as soon as who was for a moment: gRPC would wait up to two minutes
    # between its tries, each of which may take the second of these times.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

LAST_CALLS_S: Final = 60.0
"""Channels that newer ones have replaced go on with their calls for so long."""

END: Final[Any] = grpc.aio.EOF  # type: ignore[attr-defined]  # not in the stubs

Metadata = tuple[tuple[str, str], ...]

log = structlog.get_logger()


class LeaderChannels:
    """close() them in the end."""

    def __init__(self, follows: FollowsConfig, clock: Callable[[], float]) -> None:
        """Must be made on the running event loop. follows: of this node. Raises TlsUnusable, BadTokenFile."""
        self._follows = follows
        tls = follows.tls
        files = () if tls is None else (tls.ca, tls.cert, tls.key)
        self._changes = ChangedFiles((*files, follows.token_file), clock)
        self._metadata = self._read_token()
        self._channels = self._open()
        self._at = 0
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End all calls."""
        for task in self._closing:
            task.cancel()
        for channel in self._channels:
            await channel.close(None)

    def current(self) -> Any:
        """The channel to use now."""
        if self._changes.changed():
            self._renew()
        return self._channels[self._at]

    @property
    def metadata(self) -> Metadata:
        """What goes with every call."""
        return self._metadata

    def failed(self, channel: Any) -> None:
        """A call over it came to nothing: the next one is used, unless another call has found that out already."""
        if self._channels[self._at] is channel:
            self._at = (self._at + 1) % len(self._channels)

    async def unary(self, path: str, request: bytes, timeout_s: float) -> bytes:
        """See leader.Calls."""
        channel = self.current()
        try:
            answer: bytes = await channel.unary_unary(path)(
                request, timeout=timeout_s, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise self._failure(channel, error) from None
        return answer

    async def stream(self, path: str, request: bytes, timeout_s: float | None) -> AsyncGenerator[bytes]:
        """See leader.Calls."""
        channel = self.current()
        call = channel.unary_stream(path)(request, timeout=timeout_s, metadata=self._metadata)
        # The next answer is on its way while this one is used.
        coming = asyncio.ensure_future(call.read())
        try:
            while (answer := await coming) is not END:
                coming = asyncio.ensure_future(call.read())
                yield answer
        except grpc.aio.AioRpcError as error:
            raise self._failure(channel, error) from None
        finally:
            coming.cancel()
            call.cancel()

    def _failure(self, channel: Any, error: grpc.aio.AioRpcError) -> LeaderFailed:
        self.failed(channel)
        return LeaderFailed(error.code().name, error.details() or "")

    def _renew(self) -> None:
        try:
            metadata, channels = self._read_token(), self._open()
        except (TlsUnusable, BadTokenFile) as error:
            log.error("a new certificate or token is refused, the last one stays", reason=str(error))
            return
        for channel in self._channels:
            task = asyncio.create_task(channel.close(LAST_CALLS_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._metadata, self._channels = metadata, channels
        log.info("new certificates or tokens are used towards the leader cluster")

    def _read_token(self) -> Metadata:
        path = self._follows.token_file
        return () if path is None else ((TOKEN_KEY, read_tokens(path)[0]),)

    def _open(self) -> list[Any]:
        follows = self._follows
        if follows.tls is None:
            return [
                grpc.aio.insecure_channel(endpoint, options=_options(endpoint))
                for endpoint in follows.endpoints
            ]
        tls = follows.tls
        check_usable(tls)
        key = None if tls.key is None else tls.key.read_bytes()
        chain = None if tls.cert is None else tls.cert.read_bytes()
        credentials = grpc.ssl_channel_credentials(tls.ca.read_bytes(), key, chain)
        name = () if tls.server_name is None else (("grpc.ssl_target_name_override", tls.server_name),)
        return [
            grpc.aio.secure_channel(endpoint, credentials, options=(*_options(endpoint), *name))
            for endpoint in follows.endpoints
        ]


def _options(endpoint: str) -> Sequence[tuple[str, Any]]:
    """A proxy for the world outside (http_proxy) has nothing to do with what is on this machine."""
    return (*OPTIONS, ("grpc.enable_http_proxy", 0)) if is_loopback(host_of(endpoint)) else OPTIONS
