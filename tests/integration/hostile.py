"""What a broken or hostile client may send: to every method that there is, by gRPC and by the JSON gateway.

Methods, messages and fields come from the descriptors, so a new one is tried without being named here. A call is made
of a message whose fields have values from the edge of their types, which may then be damaged as bytes, and of a frame
and metadata that may be damaged as well.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from base64 import b64encode
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor

from coordinator.apis import API_FILES
from proto.methods import METHODS

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

DEPTH_MAX: Final = 4
TIME_LIMIT: Final = "150m"
"""Of a call, as gRPC writes it: some methods never end by themselves."""
ANSWER_TIMEOUT_S: Final = 20.0

INTEGERS: Final = (
    0,
    1,
    -1,
    2,
    7,
    100,
    -5,
    2**31 - 1,
    -(2**31),
    2**31,
    2**63 - 1,
    -(2**63),
    2**32,
    2**62,
    -(2**62),
)
TEXTS: Final = (
    "",
    "a",
    "r",
    "u",
    "\0",
    "ü" * 40,
    "x" * 300,
    "../../etc/passwd",
    "_catalog",
    "%s%n{}",
    "1" * 80,
)
KEYS: Final = (b"", b"\0", b"a", b"b", b"c", b"\xff", b"\xff" * 40, b"a" * 2_000, b"\0\0\0", b"z" * 70_000)


def paths() -> list[str]:
    """Every method of every service, whether or not it is served."""
    declared = [
        f"/{service.full_name}/{method.name}"
        for file in API_FILES
        for service in file.services_by_name.values()
        for method in service.methods
    ]
    return sorted({*declared, *METHODS})


def request_type(path: str) -> Descriptor:
    """What the method takes."""
    service, _, name = path.lstrip("/").rpartition("/")
    # The newer reflection differs from the older in its name alone, and has no descriptor of its own here.
    service = service.replace("reflection.v1.", "reflection.v1alpha.")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name].input_type


# ---- messages -----------------------------------------------------------------------------------------------------


class Composer:
    """Draws messages."""

    def __init__(self, rng: random.Random, tables: Sequence[str]) -> None:
        """tables: some that exist."""
        self.rng = rng
        self._tables = tables

    def one_in(self, count: int) -> bool:
        return self.rng.randrange(count) == 0

    def body(self, descriptor: Descriptor) -> bytes:
        """A message, damaged now and then."""
        body = self.message(descriptor).SerializeToString()
        draw = self.rng.randrange(12)
        if draw == 0:
            return self.nested(descriptor)
        if draw <= 3:
            return self.damaged(body)
        return body

    def message(self, descriptor: Descriptor, depth: int = 0) -> Message:
        message = message_factory.GetMessageClass(descriptor)()
        share = self.rng.choice((0.2, 0.5, 0.9))
        for one in descriptor.fields:
            if self.rng.random() < share:
                self._fill(message, one, depth)
        return message

    def _fill(self, message: Message, one: FieldDescriptor, depth: int) -> None:
        if one.message_type is not None and one.message_type.GetOptions().map_entry:
            return
        if one.is_repeated:
            values = getattr(message, one.name)
            for _ in range(self.rng.choice((0, 1, 1, 2, 5, 200 if depth == 0 else 3))):
                if one.message_type is None:
                    values.append(self._value(one))
                elif depth < DEPTH_MAX:
                    values.add().CopyFrom(self.message(one.message_type, depth + 1))
        elif one.message_type is None:
            setattr(message, one.name, self._value(one))
        elif depth < DEPTH_MAX:
            getattr(message, one.name).CopyFrom(self.message(one.message_type, depth + 1))

    def _value(self, one: FieldDescriptor) -> Any:
        choice = self.rng.choice
        is_table = one.name in ("table", "name")
        match one.type:
            case FieldDescriptor.TYPE_BOOL:
                return self.one_in(2)
            case FieldDescriptor.TYPE_STRING:
                return choice(self._tables if is_table and self.one_in(2) else TEXTS)
            case FieldDescriptor.TYPE_BYTES:
                return choice(self._tables).encode() if is_table and not self.one_in(4) else choice(KEYS)
            case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
                return choice((0.0, -1.0, 1e308, float("inf"), float("nan")))
            case FieldDescriptor.TYPE_ENUM:
                return choice((0, 1, 2, 3, 7, -1, 99, 2**31 - 1, -(2**31)))
            case FieldDescriptor.TYPE_UINT32 | FieldDescriptor.TYPE_FIXED32:
                return choice(INTEGERS) % 2**32
            case FieldDescriptor.TYPE_UINT64 | FieldDescriptor.TYPE_FIXED64:
                return choice(INTEGERS) % 2**64
            case FieldDescriptor.TYPE_INT32 | FieldDescriptor.TYPE_SINT32 | FieldDescriptor.TYPE_SFIXED32:
                return (choice(INTEGERS) + 2**31) % 2**32 - 2**31
            case _:
                return choice(INTEGERS)

    def damaged(self, body: bytes) -> bytes:
        """What is no message any more, or another one."""
        rng = self.rng
        at = rng.randrange(len(body) + 1)
        match rng.randrange(8):
            case 0:
                return body[:at]
            case 1 if body:
                at %= len(body)
                return body[:at] + bytes([body[at] ^ 1 << rng.randrange(8)]) + body[at + 1 :]
            case 2:
                return body[:at] + rng.randbytes(rng.randint(1, 12)) + body[at:]
            case 3:
                return body + b"\x0b" * rng.choice((1, 200))  # groups that do not end
            case 4:
                return body + b"\x0a" + b"\xff" * rng.choice((5, 9, 11)) + b"\x01"  # longer than anything
            case 5:
                return body + b"\xf8\xff\xff\xff\x0f\x01" * 50  # fields that nobody knows
            case 6:
                return body + b"\x0a\x02\xff\xfe"  # a text that is no UTF-8, if the first field is one
            case _:
                return rng.randbytes(rng.choice((1, 5, 60, 5_000)))

    def nested(self, descriptor: Descriptor) -> bytes:
        """A message within a message within a message, as deep as its type allows."""
        way = _way_round(descriptor)
        body = self.message(descriptor).SerializeToString()
        if not way:
            return body
        for _ in range(self.rng.choice((3, 40, 120, 2_000))):
            for one in reversed(way):
                body = _varint(one.number << 3 | 2) + _varint(len(body)) + body
        return body

    # ---- the same as JSON -------------------------------------------------------------------------------------------

    def text(self, descriptor: Descriptor) -> bytes:
        """A message as JSON, or nearly."""
        match self.rng.randrange(10):
            case 0:
                return self.rng.choice(
                    (b"", b"{", b"[]", b"null", b"7", b'"a"', b"\xff\xfe", b"{}" * 3, b"[" * 5_000)
                )
            case 1:
                return b'{"key":' + b'{"a":' * 3_000
            case 2:
                return self.damaged(json.dumps(self.value(descriptor)).encode())
            case _:
                return json.dumps(self.value(descriptor)).encode()

    def value(self, descriptor: Descriptor, depth: int = 0) -> dict[str, Any]:
        names = [one for one in descriptor.fields if self.one_in(2)]
        value = {one.name: self._json_field(one, depth) for one in names}
        if self.one_in(8):
            value["no such field"] = self.rng.choice((1, None, {}))
        return value

    def _json_field(self, one: FieldDescriptor, depth: int) -> Any:
        if self.one_in(5):
            return self.rng.choice(
                (None, True, -1, 1.5, 1e400, "", "x", "\ud800", [], {}, [[]], [None], 10**30, {"a": {}})
            )
        if one.message_type is not None:
            inner = self.value(one.message_type, depth + 1) if depth < DEPTH_MAX else {}
            return [inner] * self.rng.choice((1, 2)) if one.is_repeated else inner
        value = self._value(one)
        if isinstance(value, bytes):
            value = b64encode(value).decode() + ("" if not self.one_in(6) else "!")
        elif isinstance(value, int) and self.one_in(2):
            value = str(value)
        return [value] if one.is_repeated else value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _way_round(descriptor: Descriptor) -> list[FieldDescriptor]:
    """The fields that lead from a type back to itself; nothing if there are none."""
    todo: list[tuple[Descriptor, list[FieldDescriptor]]] = [(descriptor, [])]
    seen = set()
    while todo:
        current, way = todo.pop(0)
        for one in current.fields:
            if one.message_type is None:
                continue
            if one.message_type is descriptor:
                return [*way, one]
            if one.message_type.full_name not in seen:
                seen.add(one.message_type.full_name)
                todo.append((one.message_type, [*way, one]))
    return []


# ---- gRPC, by hand ------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How a call ended."""

    path: str
    code: int | None = None
    text: str = ""
    reset: int | None = None
    """The stream's error code, if that is how it ended."""
    request: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.path} {self.headers} {self.request[:200].hex()}: {self.code} {self.text!r} reset={self.reset}"


class GrpcClient:
    """One connection, many calls at a time. It takes what comes and checks nothing."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT_S)
        config = h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False)
        self._connection = h2.connection.H2Connection(config)
        self._connection.initiate_connection()
        self._connection.increment_flow_control_window(1 << 30)
        self._open: dict[int, Outcome] = {}
        self._unsent: defaultdict[int, bytes] = defaultdict(bytes)
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _flush(self) -> None:
        self._socket.sendall(self._connection.data_to_send())

    def call(self, path: str, data: bytes, headers: Sequence[tuple[str, str]] = ()) -> Outcome:
        """Send a whole request; the outcome is filled by finish()."""
        outcome = Outcome(path, request=data, headers=list(headers))
        stream = self._connection.get_next_available_stream_id()
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "here"),
            ("te", "trailers"),
        ]
        given = dict(headers)
        if "content-type" not in given:
            fields.append(("content-type", "application/grpc"))
        self._connection.send_headers(stream, [*fields, *headers])
        self._open[stream] = outcome
        self._unsent[stream] = data
        self._send()
        return outcome

    def _send(self) -> None:
        for stream, data in list(self._unsent.items()):
            if stream not in self._open:
                del self._unsent[stream]
                continue
            room = min(self._connection.local_flow_control_window(stream), len(data))
            while room:
                piece = data[: min(room, self._connection.max_outbound_frame_size)]
                self._connection.send_data(stream, piece)
                data = data[len(piece) :]
                room -= len(piece)
            if data:
                self._unsent[stream] = data
            else:
                self._connection.end_stream(stream)
                del self._unsent[stream]
        self._flush()

    def finish(self) -> None:
        """Wait until every call has ended."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while self._open:
            assert time.monotonic() < deadline, f"no end of {[str(one) for one in self._open.values()]}"
            data = self._socket.recv(1 << 16)
            assert data, f"the connection ended under {[str(one) for one in self._open.values()]}"
            for event in self._connection.receive_data(data):
                self._handle(event)
            self._send()

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                told = {str(name): str(value) for name, value in event.headers or ()}
                outcome = self._open[event.stream_id or 0]
                if "grpc-status" in told:
                    outcome.code, outcome.text = (
                        int(told["grpc-status"]),
                        unquote(told.get("grpc-message", "")),
                    )
                elif told.get(":status", "200") != "200":
                    outcome.text = f"HTTP {told[':status']}"
            case h2.events.DataReceived():
                self._connection.acknowledge_received_data(
                    event.flow_controlled_length or 0, event.stream_id or 0
                )
            case h2.events.StreamEnded():
                self._open.pop(event.stream_id or 0, None)
            case h2.events.StreamReset():
                outcome = self._open.pop(event.stream_id or 0, Outcome(""))
                outcome.reset = int(event.error_code or 0)
            case h2.events.ConnectionTerminated():
                raise AssertionError(
                    f"the server ended the connection: {event.error_code} {event.additional_data!r}"
                )


def frame(body: bytes) -> bytes:
    """The message as gRPC frames it."""
    return b"\0" + struct.pack(">I", len(body)) + body


def framed(composer: Composer, body: bytes) -> bytes:
    """The message as gRPC frames it, or otherwise."""
    rng = composer.rng
    whole = frame(body)
    match rng.randrange(30):
        case 0:
            return whole[: rng.randrange(len(whole))]
        case 1:
            return b"\1" + whole[1:]  # compressed, by nobody knows what
        case 2:
            return b"\0" + struct.pack(">I", rng.choice((2**32 - 1, len(body) + 1, 2**31))) + body
        case 3:
            return whole + rng.randbytes(rng.randint(1, 9))
        case 4:
            return whole * 3
        case 5:
            return b""
        case 6:
            return bytes([rng.randrange(2, 256)]) + whole[1:]
        case _:
            return whole


def metadata(composer: Composer, table: str) -> list[tuple[str, str]]:
    """Of a call."""
    choice, one_in = composer.rng.choice, composer.one_in
    fields = [("grpc-timeout", TIME_LIMIT)]
    if one_in(12):
        fields = [("grpc-timeout", choice(("abc", "-1S", "0n", "1" * 20 + "S", "", "5")))]
    if one_in(20):
        fields.append(("grpc-encoding", choice(("gzip", "snappy", "zstd", "none such", ""))))
    if one_in(30):
        fields.append(
            ("content-type", choice(("application/grpc+json", "text/html", "application/grpc+proto", "")))
        )
    if one_in(15):
        fields.append(("token", choice(("garbage", "garbage.1", "a.b.c", "x" * 5_000))))
    if one_in(10):
        fields.append(("boathouse-request-id", choice(("same", "", "x" * 128, "x" * 129, "ü"))))
    if one_in(10):
        fields.append(
            (
                choice(("x-bin", "a-b", "accept-encoding", "grpc-accept-encoding")),
                choice(("%%%", "", "AAA", "q" * 3_000)),
            )
        )
    if one_in(12):
        table = choice(("", "none such", "_catalog", "x" * 2_000, "ü"))
    return [*fields, ("table", table)]
