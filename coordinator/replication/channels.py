"""Ways to the leader cluster's coordinators: one at a time is used, and after a failure the next one.

The certificates and the token that the cluster file names are read again when they change. What can't be used then is
refused in the log, and what was used before stays.
"""

from __future__ import annotations

import asyncio
import contextlib
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
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from config import ClusterConfig
    from config.access import FollowsConfig

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

END: Final[Any] = grpc.aio.EOF  # type: ignore[attr-defined]  # not in the stubs

Metadata = tuple[tuple[str, str], ...]

log = structlog.get_logger()


class _Generation:
    """Channels with the certificates and the token of a time. Once newer ones have replaced them, they are closed when
    their last call has ended: to close one ends its streams in the middle, however soon they would."""

    def __init__(self, channels: Sequence[Any], metadata: Metadata) -> None:
        self.metadata = metadata
        """What goes with every call."""
        self.calls = 0
        """Under way."""
        self._channels = channels
        self._at = 0

    @property
    def channel(self) -> Any:
        """The one to use now."""
        return self._channels[self._at]

    def failed(self, channel: Any) -> None:
        """A call over it came to nothing: the next one is used, unless another call has found that out already."""
        if self.channel is channel:
            self._at = (self._at + 1) % len(self._channels)

    async def close(self) -> None:
        """End all calls."""
        for channel in self._channels:
            await channel.close(None)


class LeaderChannels:
    """close() them in the end."""

    def __init__(self, follows: FollowsConfig, clock: Callable[[], float]) -> None:
        """Must be made on the running event loop. follows: of this node. Raises TlsUnusable, BadTokenFile."""
        self._follows = follows
        tls = follows.tls
        files = () if tls is None else (tls.ca, tls.cert, tls.key)
        self._changes = ChangedFiles((*files, follows.token_file), clock)
        self._now = _Generation(self._open(), self._read_token())
        self._replaced: set[_Generation] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @classmethod
    def of_any_node(cls, cluster: ClusterConfig, clock: Callable[[], float]) -> LeaderChannels:
        """As the first node of a follower cluster whose files are on this machine. Raises what the last one's are
        refused for if none is."""
        assert cluster.follows is not None
        failure: TlsUnusable | BadTokenFile | None = None
        for node in cluster.nodes:
            try:
                return cls(cluster.follows.of_node(node), clock)
            except (TlsUnusable, BadTokenFile) as error:
                failure = error
        assert failure is not None, "a cluster has nodes"
        raise failure

    async def close(self) -> None:
        """End all calls."""
        for task in self._closing:
            task.cancel()
        for generation in (self._now, *self._replaced):
            await generation.close()

    @contextlib.contextmanager
    def calling(self) -> Iterator[tuple[Any, Metadata]]:
        """The channel to use for one call, and what goes with it. It stays open until then."""
        if self._changes.changed():
            self._renew()
        generation = self._now
        generation.calls += 1
        try:
            yield generation.channel, generation.metadata
        finally:
            generation.calls -= 1
            self._close_if_done(generation)

    def failed(self, channel: Any) -> None:
        """A call over it came to nothing: the next one is used."""
        self._now.failed(channel)

    async def unary(self, path: str, request: bytes, timeout_s: float) -> bytes:
        """See leader.Calls."""
        with self.calling() as (channel, metadata), self._failures(channel):
            answer: bytes = await channel.unary_unary(path)(request, timeout=timeout_s, metadata=metadata)
            return answer

    async def stream(
        self, path: str, request: bytes, timeout_s: float | None, silence_s: float | None = None
    ) -> AsyncGenerator[bytes]:
        """See leader.Calls."""
        with self.calling() as (channel, metadata), self._failures(channel):
            call = channel.unary_stream(path)(request, timeout=timeout_s, metadata=metadata)
            # The next answer is on its way while this one is used.
            coming = asyncio.ensure_future(call.read())
            try:
                while True:
                    async with asyncio.timeout(silence_s):
                        answer = await coming
                    if answer is END:
                        break
                    coming = asyncio.ensure_future(call.read())
                    yield answer
            finally:
                coming.cancel()
                call.cancel()

    @contextlib.contextmanager
    def _failures(self, channel: Any) -> Iterator[None]:
        """Whatever a call over this channel comes to is LeaderFailed, but for the end of the task that makes it."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            self.failed(channel)
            raise LeaderFailed(error.code().name, error.details() or "") from None
        except TimeoutError:
            self.failed(channel)
            raise LeaderFailed("DEADLINE_EXCEEDED", "its answer does not go on") from None
        except asyncio.CancelledError:
            if _is_to_end():
                raise
            raise LeaderFailed("CANCELLED", "its channel was closed") from None

    def _renew(self) -> None:
        try:
            now = _Generation(self._open(), self._read_token())
        except (TlsUnusable, BadTokenFile) as error:
            log.error("a new certificate or token is refused, the last one stays", reason=str(error))
            return
        before, self._now = self._now, now
        self._replaced.add(before)
        self._close_if_done(before)
        log.info("new certificates or tokens are used towards the leader cluster")

    def _close_if_done(self, generation: _Generation) -> None:
        if generation in self._replaced and not generation.calls:
            self._replaced.remove(generation)
            task = asyncio.create_task(generation.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

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


def _is_to_end() -> bool:
    """Whether somebody has cancelled the running task. gRPC says of a call that it has ended itself the same."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _options(endpoint: str) -> Sequence[tuple[str, Any]]:
    """A proxy for the world outside (http_proxy) has nothing to do with what is on this machine."""
    return (*OPTIONS, ("grpc.enable_http_proxy", 0)) if is_loopback(host_of(endpoint)) else OPTIONS
