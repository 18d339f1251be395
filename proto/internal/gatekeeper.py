"""Whom a worker lets in: ZeroMQ asks it about each connection whose client has proved that it has some secret key.

It asks by a socket within the process (RFC 27, ZAP), which the worker's loop polls beside the others. A client that
gets no answer waits; one that is refused tries again, so its address is told to the log once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import zmq
from zmq.utils import z85

from proto.internal import sockets

if TYPE_CHECKING:
    from collections.abc import Callable

    from proto.internal.curve import PeerKeys

VERSION: Final = b"1.0"
LET_IN: Final = (b"200", b"")
REFUSED: Final = (b"300", b"not a node of this cluster, yet")
"""A temporary failure, after which ZeroMQ's clients try again: the key of a node that comes may not be known yet."""
MECHANISM: Final = b"CURVE"
REFUSED_KEPT_MAX: Final = 256
"""Addresses that are remembered as told."""


class Gatekeeper:
    """Lets in the nodes of a cluster."""

    def __init__(self, context: sockets.Context, keys: PeerKeys, refused: Callable[[str], None]) -> None:
        """Must be there before the sockets that it guards are bound. refused: is told a client's address."""
        self.socket = sockets.deciding(context)
        self._keys = keys
        self._refused = refused
        self._told: dict[str, None] = {}

    def answer(self) -> None:
        """Decide what is asked now. For when the socket is readable."""
        while True:
            try:
                version, request_id, _domain, address, _routing_id, mechanism, *credentials = (
                    self.socket.recv_multipart(zmq.NOBLOCK)
                )
            except zmq.Again:
                return
            assert version == VERSION, "ZeroMQ speaks another ZAP than this"
            is_known = (
                mechanism == MECHANISM
                and len(credentials) == 1
                and self._keys.is_known(z85.encode(credentials[0]))
            )
            status, text = LET_IN if is_known else REFUSED
            self.socket.send_multipart((VERSION, request_id, status, text, b"", b""))
            if not is_known:
                self._tell(address.decode(errors="replace"))

    def _tell(self, address: str) -> None:
        if address not in self._told:
            self._told[address] = None
            if len(self._told) > REFUSED_KEPT_MAX:
                del self._told[next(iter(self._told))]
            self._refused(address)

    def close(self) -> None:
        """Ask nobody any more. For after the sockets that it guards are closed."""
        self.socket.close()
