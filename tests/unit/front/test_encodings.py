"""Compressed calls on the wire, as clients make them that grpcio has no words for: snappy and zstd."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import pytest

from coordinator.front.compression import ENCODINGS, compress, decompress
from coordinator.front.grpc_wire import MessageReader, prefixed
from proto.codes import Code
from proto.methods import Kind
from tests.unit.coordinator.running import in_loop
from tests.unit.front.serving import MESSAGE_BYTES_MAX, route, serving
from tests.unit.front.test_grpc import echo, ping_pong

ROUTES = (route("Echo", echo), route("PingPong", ping_pong, Kind.BIDI_STREAM))
LONG = b"boathouse " * 1_000


@dataclass
class Answer:
    """What came back on a stream."""

    headers: dict[str, str] = field(default_factory=dict)
    """Trailers too."""
    data: bytes = b""

    @property
    def code(self) -> Code:
        return Code(int(self.headers["grpc-status"]))

    def messages(self) -> list[tuple[bool, bytes]]:
        read = MessageReader(1 << 24).feed(self.data)
        assert isinstance(read, list)
        return read


async def call(port: int, name: str, encoding: str, *messages: tuple[bool, bytes]) -> Answer:
    """One call; each message with whether it says that it is compressed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    client.initiate_connection()
    client.send_headers(
        1,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/test.Service/{name}"),
            (":authority", "here"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-encoding", encoding),
        ],
    )
    data = b"".join(prefixed(message, compressed=compressed) for compressed, message in messages)
    answer = Answer()
    async with asyncio.timeout(10):
        while True:
            while data and (room := min(client.local_flow_control_window(1), client.max_outbound_frame_size)):
                part, data = data[:room], data[room:]
                client.send_data(1, part, end_stream=not data)
            writer.write(client.data_to_send())
            received = await reader.read(65_536)
            assert received, "the server hung up"
            for event in client.receive_data(received):
                match event:
                    case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                        answer.headers.update((str(name), str(value)) for name, value in event.headers or [])
                    case h2.events.DataReceived():
                        answer.data += event.data
                        client.acknowledge_received_data(event.flow_controlled_length, 1)
                    case h2.events.StreamEnded():
                        writer.close()
                        return answer


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_answer_comes_as_its_request_did(encoding: str) -> None:
    @in_loop
    async def scenario() -> None:
        async with serving(*ROUTES) as served:
            is_compressed = encoding != "identity"
            request = (is_compressed, compress(encoding, LONG))
            answer = await call(served.port, "Echo", encoding, request)
            assert answer.code is Code.OK
            assert answer.headers.get("grpc-encoding", "identity") == encoding
            ((compressed, message),) = answer.messages()
            assert compressed == is_compressed
            assert decompress(encoding, message, bytes_max=len(LONG)) == LONG

            # What would not get smaller is sent as it is, also within a stream that compresses.
            answer = await call(served.port, "PingPong", encoding, request, (False, b"x"), (False, b""))
            assert answer.code is Code.OK
            first, *others = answer.messages()
            assert first[0] == is_compressed
            assert decompress(encoding, first[1], bytes_max=len(LONG)) == LONG.upper()
            assert others == [(False, b"X"), (False, b"")]

    scenario()


@pytest.mark.parametrize("encoding", [encoding for encoding in ENCODINGS if encoding != "identity"])
def test_what_can_not_be_read_is_refused(encoding: str) -> None:
    @in_loop
    async def scenario() -> None:
        async with serving(*ROUTES) as served:
            bomb = compress(encoding, bytes(MESSAGE_BYTES_MAX + 1))
            for name in ("Echo", "PingPong"):
                assert (await call(served.port, name, encoding, (True, bomb))).code is Code.RESOURCE_EXHAUSTED
                assert (await call(served.port, name, encoding, (True, b"junk"))).code is Code.INTERNAL
                assert (await call(served.port, name, "identity", (True, b"junk"))).code is Code.INTERNAL

    scenario()


@in_loop
async def test_an_unknown_encoding_is_refused_with_those_that_are_known() -> None:
    async with serving(*ROUTES) as served:
        answer = await call(served.port, "Echo", "br", (True, b"x"))
        assert answer.code is Code.UNIMPLEMENTED
        assert answer.headers["grpc-accept-encoding"] == "identity,gzip,snappy,zstd"


@in_loop
async def test_an_empty_message_of_gos_snappy_writer() -> None:
    async with serving(*ROUTES) as served:
        answer = await call(served.port, "Echo", "snappy", (True, b""))
        assert (answer.code, answer.messages()) == (Code.OK, [(False, b"")])
