"""Listening sockets, and what a new connection turns out to speak.

One port serves HTTP/2 (said by ALPN, or by its preface with prior knowledge) and HTTP/1.1, which is anything else.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, cast

from coordinator.front.grpc_wire import NO_METADATA
from coordinator.front.http2.frames import PREFACE
from coordinator.front.session import Session

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from coordinator.api.call import Metadata
    from coordinator.front.front import Front

BACKLOG = 4_096
"""Connections that the kernel keeps until they are accepted; it may have a lower bound (net.core.somaxconn)."""


class Listener:
    """Accepts the connections of one socket."""

    def __init__(
        self,
        front: Front,
        http1: Callable[[], asyncio.Protocol],
        sock: socket.socket,
        *,
        metadata: Metadata = NO_METADATA,
        tls: ssl.SSLContext | None = None,
        only_http1: bool = False,
    ) -> None:
        """sock listens already, perhaps in other processes too; it is closed by close() here, not there. http1 makes
        what serves a connection that does not speak HTTP/2. metadata: what gRPC calls have unless they say otherwise.
        tls offers h2 and http/1.1 by ALPN."""
        self._front = front
        self._http1 = http1
        self._socket = sock
        self._metadata = metadata
        self._tls = tls
        self._only_http1 = only_http1
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Accept from now on."""
        limits, loop = self._front.limits, self._front.loop
        create = loop.create_unix_server if self._socket.family == socket.AF_UNIX else loop.create_server
        self._server = await create(
            self._greet,
            sock=self._socket,
            ssl=self._tls,
            backlog=BACKLOG,
            ssl_handshake_timeout=limits.handshake_s if self._tls is not None else None,
        )

    def _greet(self) -> asyncio.Protocol:
        return Greeter(self._front, self._http1, metadata=self._metadata, only_http1=self._only_http1)

    def close(self) -> None:
        """Accept no more here. What waits to be accepted is left to the other processes that have the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None


class Greeter(asyncio.Protocol):
    """A connection of which it is not known yet what it speaks."""

    def __init__(
        self, front: Front, http1: Callable[[], asyncio.Protocol], *, metadata: Metadata, only_http1: bool
    ) -> None:
        self._front = front
        self._http1 = http1
        self._metadata = metadata
        self._only_http1 = only_http1
        self._transport: asyncio.Transport | None = None
        self._heard = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        front = self._front
        if front.is_full:
            front.tell_full()
            self._transport.abort()
            self._transport = None
            return
        front.greeting += 1
        tls = transport.get_extra_info("ssl_object")
        if self._only_http1 or (tls is not None and tls.selected_alpn_protocol() == "http/1.1"):
            self._become(self._http1())
        else:
            self._timer = front.loop.call_later(front.limits.opening_s, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if self._heard.startswith(PREFACE):
            self._become(Session(self._front, self._metadata))
        elif not PREFACE.startswith(self._heard):
            self._become(self._http1())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._front.greeting -= 1

    def _become(self, protocol: asyncio.Protocol) -> None:
        if self._timer is not None:
            self._timer.cancel()
        transport, self._transport = self._transport, None
        assert transport is not None
        self._front.greeting -= 1
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._heard:
            protocol.data_received(self._heard)
