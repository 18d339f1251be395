"""A client whose every frame is the test's own, and limits that a test can wait for."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import h2.connection
import h2.events
import h2.settings

from coordinator.front import grpc_wire
from coordinator.front.limits import Limits
from tests.property.front.peers import REQUEST, client

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from tests.unit.front.serving import Serving


class Raw:
    """A client whose every frame is the test's own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.h2: h2.connection.H2Connection = client()
        self.events: list[h2.events.Event] = []

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def open(self, path: str, *more: tuple[str, str]) -> int:
        stream = self.h2.get_next_available_stream_id()
        fields = [(name, path if name == ":path" else value) for name, value in REQUEST]
        self.h2.send_headers(stream, [*fields, *more])
        self.flush()
        return stream

    def call(self, path: str, message: bytes = b"") -> int:
        stream = self.open(path)
        self.h2.send_data(stream, grpc_wire.prefixed(message), end_stream=True)
        self.flush()
        return stream

    async def hears(self, *kinds: type[h2.events.Event]) -> Any:
        """The next event of one of these kinds."""
        async with asyncio.timeout(5):
            while True:
                while self.events:
                    event = self.events.pop(0)
                    if isinstance(event, kinds):
                        return event
                data = await self.reader.read(1 << 16)
                assert data, "the server hung up"
                self.events += self.h2.receive_data(data)
                self.flush()

    async def reads(self, part: bytes) -> bytes:
        """What the server says up to and with this, unread by h2, which takes any GOAWAY for the end."""
        read = b""
        async with asyncio.timeout(5):
            while part not in read:
                data = await self.reader.read(1 << 16)
                assert data, f"the server hung up after {read!r}"
                read += data
        return read

    async def ended(self) -> bool:
        """Whether the server hangs up; everything before is read and dropped."""
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(1 << 16):
                    pass
            return True


def fields_of(answer: h2.events.ResponseReceived) -> dict[str, str]:
    """Headers of an answer by name."""
    return {bytes(name).decode(): bytes(value).decode() for name, value in answer.headers or ()}


@contextlib.asynccontextmanager
async def raw(
    server: Serving, *, hello: bool = True, tls: ssl.SSLContext | None = None, **settings: int
) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=tls)
    peer = Raw(reader, writer)
    if settings:
        peer.h2.update_settings({h2.settings.SettingCodes[name]: value for name, value in settings.items()})
    if hello:
        peer.flush()
    try:
        yield peer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def short(**limits: float) -> Limits:
    """Time limits that a test can wait for."""
    return dataclasses.replace(Limits(), check_interval_s=0.02, **limits)  # type: ignore[arg-type]
