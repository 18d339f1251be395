"""Who is at the other end of a connection."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest
import uvloop

from coordinator.front.peers import peer_of

if TYPE_CHECKING:
    from pathlib import Path


class _Told(asyncio.Protocol):
    def __init__(self, told: asyncio.Future[str]) -> None:
        self._told = told

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._told.set_result(peer_of(transport))
        transport.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_client_is_known_by_its_address_or_its_process(tmp_path: Path, kind: str) -> None:
    async def scenario() -> tuple[str, str]:
        loop = asyncio.get_running_loop()
        told = loop.create_future()
        if kind == "tcp":
            server = await loop.create_server(lambda: _Told(told), "127.0.0.1", 0)
            client = socket.create_connection(server.sockets[0].getsockname())
            expected = f"127.0.0.1:{client.getsockname()[1]}"
        else:
            path = str(tmp_path / "s")
            server = await loop.create_unix_server(lambda: _Told(told), path)
            client = socket.socket(socket.AF_UNIX)
            client.connect(path)
            expected = f"unix/{os.getuid()}/{os.getpid()}"
        with client:
            found = await told
        server.close()
        return found, expected

    found, expected = uvloop.run(scenario())
    assert found == expected
