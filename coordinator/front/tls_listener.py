"""Connections that begin with a TLS handshake.

    accepted --first byte--> handshake --certificate admitted--> greeted, as without TLS

A client's first byte tells whether it speaks TLS at all. One that does not is told so in its own words, because what it
would see otherwise, a connection that breaks, is what a dead server looks like. The steps up to the greeting have
handshake_s together, and count as connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Final

import structlog

from coordinator.front.peers import address_of, peer_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.front.front import Front
    from coordinator.front.server_tls import ServerTls

HANDSHAKE_RECORD: Final = 0x16
"""The first byte of TLS."""
ACCEPTS_PER_TURN: Final = 64
PEEK_BYTES: Final = 16
OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ACCEPT_PAUSE_S: Final = 1.0
"""After the system had no descriptor for a connection."""
SHUTDOWN_S: Final = 2.0
"""For a client to take notice of the end of TLS, before its connection is cut."""

REASON: Final = "this port speaks TLS; use https\n"
REFUSAL: Final = (
    "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
    f"Content-Length: {len(REASON)}\r\n\r\n{REASON}"
).encode()
"""To clients of HTTP/2 as well: if its SETTINGS were answered, a gRPC client would take the connection for one that had
begun well, and come back at once, and again."""

log = structlog.get_logger()


class TlsListener:
    """Accepts the connections of one socket."""

    def __init__(
        self, front: Front, greet: Callable[[], asyncio.Protocol], sock: socket.socket, tls: ServerTls
    ) -> None:
        """sock listens already; close() closes it. greet makes what serves a connection after its handshake."""
        self._front = front
        self._greet = greet
        self._socket = sock
        self._tls = tls
        self._opening: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._pause = None
        self._socket.setblocking(False)
        self._front.loop.add_reader(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more here. Handshakes under way go on, and their clients are greeted."""
        if self._pause is not None:
            self._pause.cancel()
        self._front.loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, address = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno == errno.EINVAL:
                    # The supervisor has ended the port, and is about to stop this process: nobody comes any more.
                    self._front.loop.remove_reader(self._socket.fileno())
                    return
                if error.errno not in OUT_OF_DESCRIPTORS:
                    raise
                log.error("connections wait: the system has no room for them", reason=error.strerror)
                loop = self._front.loop
                loop.remove_reader(self._socket.fileno())
                self._pause = loop.call_later(ACCEPT_PAUSE_S, self.start)
                return
            if self._front.is_full:
                self._front.tell_full()
                connection.close()
                continue
            connection.setblocking(False)
            # Small answers are not to wait for acknowledgements of those before.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._front.greeting += 1
            task = self._front.loop.create_task(self._open(connection, address_of(address)))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket, peer: str) -> None:
        loop, handshake_s = self._front.loop, self._front.limits.handshake_s
        gate = Gate(self._front, self._tls, self._greet)
        began_at = loop.time()
        try:
            async with asyncio.timeout(handshake_s):
                first = await self._first_bytes(connection)
            if first[:1] != bytes((HANDSHAKE_RECORD,)):
                _refuse(connection, first)
                log.info("a client was refused", peer=peer, reason="it does not speak TLS")
                return
            await loop.connect_accepted_socket(
                lambda: gate,
                connection,
                ssl=self._tls.context(),
                ssl_handshake_timeout=max(0.001, handshake_s - (loop.time() - began_at)),
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
        except (OSError, TimeoutError) as error:  # SSLError is an OSError
            reason = "it took too long" if isinstance(error, TimeoutError) else str(error)
            log.info("a client's TLS handshake failed", peer=peer, reason=reason)
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            if not gate.is_reached:
                self._front.greeting -= 1

    async def _first_bytes(self, connection: socket.socket) -> bytes:
        """What has come, which stays where it is. Raises OSError if the client leaves without a word."""
        loop, descriptor = self._front.loop, connection.fileno()
        while True:
            with contextlib.suppress(BlockingIOError):
                if first := connection.recv(PEEK_BYTES, socket.MSG_PEEK):
                    return first
                raise ConnectionResetError("the client left")
            readable: asyncio.Future[None] = loop.create_future()
            loop.add_reader(descriptor, _resolve, readable)
            try:
                await readable
            finally:
                loop.remove_reader(descriptor)


class Gate(asyncio.Protocol):
    """Looks at the certificate of a client that has ended its handshake, and lets it in or not."""

    def __init__(self, front: Front, tls: ServerTls, greet: Callable[[], asyncio.Protocol]) -> None:
        self._front = front
        self._tls = tls
        self._greet = greet
        self.is_reached = False
        """From here on the connection is counted by who greets it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.is_reached = True
        self._front.greeting -= 1
        reason = self._tls.refusal(transport.get_extra_info("peercert") or {})
        if reason:
            peer = peer_of(transport)
            log.info("a client was refused", peer=peer, reason=reason)
            transport.close()
            return
        protocol = self._greet()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def _refuse(connection: socket.socket, first: bytes) -> None:
    with contextlib.suppress(OSError), connection:
        connection.recv(1 << 16)  # closing with something unread would take the answer back
        if first[:1].isalpha():
            connection.send(REFUSAL)
        connection.shutdown(socket.SHUT_WR)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
