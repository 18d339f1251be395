"""Our gRPC server with handlers of a test's own, on a free port, and clients for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from coordinator.api import outcomes
from coordinator.api.call import Api, Route
from coordinator.front.front import Front
from coordinator.front.http1 import Door
from coordinator.front.http_pages import Pages, alive
from coordinator.front.limits import Limits
from coordinator.front.listener import Listener
from coordinator.front.routes import Routes
from coordinator.front.tally import Held
from proto.methods import Access, ApiName, Kind, Method
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.api.call import Handler
    from coordinator.front.server_tls import ServerTls

MESSAGE_BYTES_MAX = 4 << 20
API = Api(outcomes=outcomes.ETCD, message_bytes_max=MESSAGE_BYTES_MAX)


def route(
    name: str,
    handler: Handler,
    kind: Kind = Kind.UNARY,
    *,
    timeout_s: float | None = None,
    access: Access = Access.READ,
    waits: bool = False,
    lasts: bool = False,
) -> Route:
    """/test.Service/<name>."""
    return Route(
        path=f"/test.Service/{name}",
        method=Method(api=ApiName.ETCD, access=access, kind=kind, waits=waits, lasts=lasts),
        api=API,
        handler=handler,
        timeout_s=timeout_s,
    )


@dataclass
class Serving:
    """A server that listens."""

    front: Front
    listener: Listener
    port: int
    channel: grpc.aio.Channel

    def unary(self, name: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        return self.channel.unary_unary(f"/test.Service/{name}", None, None)

    def server_stream(self, name: str) -> grpc.aio.UnaryStreamMultiCallable[bytes, bytes]:
        return self.channel.unary_stream(f"/test.Service/{name}", None, None)

    def client_stream(self, name: str) -> grpc.aio.StreamUnaryMultiCallable[bytes, bytes]:
        return self.channel.stream_unary(f"/test.Service/{name}", None, None)

    def bidi(self, name: str) -> grpc.aio.StreamStreamMultiCallable[bytes, bytes]:
        return self.channel.stream_stream(f"/test.Service/{name}", None, None)

    @property
    def streams(self) -> int:
        """Open now, on all connections."""
        return sum(len(session.connection.streams) for session in self.front.sessions)


@contextlib.asynccontextmanager
async def serving(
    *routes: Route,
    limits: Limits | None = None,
    tls: ServerTls | None = None,
    options: tuple[tuple[str, int], ...] = (),
) -> AsyncIterator[Serving]:
    """Serve these methods until the context ends; then nothing may be left of any call."""
    loop = asyncio.get_running_loop()
    front = Front(
        loop,
        Routes(routes, known_services=frozenset({"test.Service"}), unserved=API),
        limits or Limits(),
    )
    pages = Pages({("GET", "/healthz"): alive}, held=Held(front.room.tally, front.room.release_soon))
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    listener = Listener(front, Door(pages), sock, tls=tls)
    await listener.start()
    channel = grpc.aio.insecure_channel(
        f"127.0.0.1:{port}",
        options=(
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
            *options,
        ),
    )
    try:
        yield Serving(front, listener, port, channel)
    finally:
        await channel.close(grace=None)
        listener.close()
        pages.close()
        front.close()
        await wait_until_async(lambda: not front.sessions, timeout_s=5, what="the end of all connections")
        assert front.request_bytes == 0
        assert front.room.tally.bytes == 0
        assert front.room.running == 0
