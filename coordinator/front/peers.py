"""Who is at the other end of a connection."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

_CREDENTIALS: Final = struct.Struct("3i")
"""Of SO_PEERCRED: process, user, group."""


def peer_of(transport: asyncio.BaseTransport) -> str:
    """A client's address, as its socket has it, the way people write it; of a unix socket, which has none, the client's
    user and process. Clients are told apart by it (TableCalls.start)."""
    address = transport.get_extra_info("peername")
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family == socket.AF_UNIX:
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        process, user, _ = _CREDENTIALS.unpack(told)
        return f"unix/{user}/{process}"
    return address_of(address)


def address_of(address: object) -> str:
    """The way people write it."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return "unknown"
