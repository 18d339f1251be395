"""gRPC over HTTP/2 as bytes: request headers, messages within DATA, statuses in trailers.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. No state but that of a message that has come in part.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from coordinator.api.call import Alike
from coordinator.front.compression import ENCODINGS
from coordinator.front.http2.frames import EncodedHeaders, read_u32
from coordinator.front.http2.headers import STATUS_200, literal
from proto.codes import Code

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordinator.front.http2.headers import Fields
    from coordinator.front.limits import Limits

IDENTITY: Final = "identity"
TIMEOUT_FIELD: Final = b"grpc-timeout"
"""Go's clients say how much time is left, to the microsecond, so it is another with each call."""
PREFIX_BYTES: Final = 5
NEVER: Final = math.inf
TEXT_BYTES_MAX: Final = 8 << 10
"""Of a status's text. Clients refuse lists of headers beyond 8 to 16 KB, and would then show nothing of it."""

ACCEPT_ENCODING: Final = ",".join(ENCODINGS)

NO_METADATA: Final[Mapping[str, str]] = MappingProxyType({})

# ---- request headers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request that can't be served whatever its method: the status it gets."""

    code: Code
    text: str
    http_status: int = 200
    """Other than 200 for what is not gRPC at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """What the headers of a call say. Equal headers share one, so nobody changes it."""

    path: str
    metadata: Mapping[str, str]
    """Without HTTP/2's and gRPC's own fields."""
    encoding: str = IDENTITY
    """How compressed messages of this call are compressed."""
    refusal: Refusal | None = None


_UNITS_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])").fullmatch
_NOT_METADATA: Final = frozenset({"te", "content-type", "content-length"})


def read_head(fields: Fields, limits: Limits, defaults: Mapping[str, str] = NO_METADATA) -> RequestHead:
    """The head of a call, from the fields of a well-formed request but its timeout. defaults: metadata that it has
    unless it says otherwise."""
    method = content_type = b""
    path, encoding, refusal = "", IDENTITY, None
    metadata: dict[str, str] = {}
    size = 0
    for raw_name, raw_value in fields:
        size += len(raw_name) + len(raw_value) + 32  # as RFC 7541, 4.1, counts
        name = raw_name.decode("latin-1")
        value = raw_value.decode("utf-8", "replace")
        if name[0] == ":":
            if name == ":path":
                path = value
            elif name == ":method":
                method = raw_value
        elif name == "content-type":
            content_type = raw_value
        elif name == "grpc-encoding":
            encoding = value
        elif name not in _NOT_METADATA and not name.startswith("grpc-"):
            if name.endswith("-bin") and not is_base64(value):
                refusal = Refusal(code=Code.INTERNAL, text=f"metadata {name} is no base64")
            metadata.setdefault(name, value)
    for name, value in defaults.items():
        metadata.setdefault(name, value)
    if encoding not in ENCODINGS:
        refusal = Refusal(
            code=Code.UNIMPLEMENTED,
            text=f'grpc: Decompressor is not installed for grpc-encoding "{encoding}"',
        )
    if size > limits.header_list_bytes_max:
        refusal = Refusal(
            code=Code.RESOURCE_EXHAUSTED,
            text=f"received metadata larger than max ({size} vs. {limits.header_list_bytes_max})",
        )
        metadata = {}
    if method != b"POST":
        refusal = Refusal(code=Code.INTERNAL, text="a gRPC call is a POST", http_status=405)
    elif not _is_grpc(content_type):
        refusal = Refusal(
            code=Code.UNKNOWN, text="this port speaks gRPC: content-type application/grpc", http_status=415
        )
    return RequestHead(path=path, metadata=metadata, encoding=encoding, refusal=refusal)


def _is_grpc(content_type: bytes) -> bool:
    kind = content_type.lower()
    return kind.startswith(b"application/grpc") and kind[16:17] in {b"", b"+", b";"}


BAD_TIMEOUT: Final = Refusal(code=Code.INTERNAL, text="malformed grpc-timeout")


def parse_timeout(value: bytes) -> float | None:
    """Seconds that a grpc-timeout stands for; None if it is none."""
    match = _TIMEOUT(value)
    if match is None:
        return None
    return int(match[1]) * _UNITS_S[match[2]]


def is_base64(value: str) -> bool:
    """Whether a -bin value is base64, with or without padding; several may be joined by commas."""
    try:
        for part in value.split(","):
            base64.b64decode(part + "=" * (-len(part) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


# ---- messages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TooLarge:
    """A message is larger than allowed, or an uncompressed one says that it will be."""

    size: int


class BadPrefix:
    """A message begins with something else than 0 or 1."""


Message = tuple[bool, bytes]
"""Whether it is compressed, and its bytes."""


class MessageReader:
    """Cuts a call's DATA into messages."""

    __slots__ = ("_bytes_max", "_pending")

    def __init__(self, bytes_max: int) -> None:
        """bytes_max: of one message as sent."""
        self._bytes_max = bytes_max
        # Joined as it comes: a message may come in parts of one byte, each of which would cost as much as fifty.
        self._pending = bytearray()

    @property
    def pending_bytes(self) -> int:
        """What is held of a message that has come in part."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[Message] | TooLarge | BadPrefix:
        """The messages that end in data."""
        pending = self._pending
        if pending:
            is_known = len(pending) >= PREFIX_BYTES
            pending += data
            if is_known and len(pending) < PREFIX_BYTES + read_u32(pending, 1)[0]:
                return []  # a large message, which is cut out once and not at each part of it
            data = bytes(pending)
            pending.clear()
        messages: list[Message] = []
        position, size = 0, len(data)
        while size - position >= PREFIX_BYTES:
            compressed = data[position]
            if compressed > 1:
                return BadPrefix()
            length = read_u32(data, position + 1)[0]
            if length > self._bytes_max:
                return TooLarge(length)
            start = position + PREFIX_BYTES
            if size - start < length:
                break
            position = start + length
            messages.append((compressed == 1, data[start:position]))
        if position < size:
            pending += data[position:]
        return messages


def prefixed(message: bytes, *, compressed: bool = False) -> bytes:
    """A message as it is put into DATA."""
    return b"".join((b"\1" if compressed else b"\0", len(message).to_bytes(4), message))


def prefixed_all(messages: Sequence[bytes]) -> bytes:
    """Messages one behind the other, none of them compressed."""
    if not isinstance(messages, Alike):
        return b"".join(map(prefixed, messages))
    if not messages.written:
        messages.written = b"".join(map(prefixed, messages))
    return messages.written


# ---- answers ---------------------------------------------------------------------------------------------------------

_START: Final = STATUS_200 + literal(b"content-type", b"application/grpc")

RESPONSE_HEADS: Final[Mapping[str, EncodedHeaders]] = {
    encoding: EncodedHeaders(
        _START + (b"" if encoding == IDENTITY else literal(b"grpc-encoding", encoding.encode())), ends=False
    )
    for encoding in ENCODINGS
}
"""By the encoding of the answer's messages."""

OK: Final = EncodedHeaders(literal(b"grpc-status", b"0"), ends=True)

_PLAIN: Final = frozenset(range(0x20, 0x7F)) - {0x25}


def percent_encoded(text: str) -> bytes:
    """A text as grpc-message carries it, cut at TEXT_BYTES_MAX."""
    raw = text.encode("utf-8", "replace")
    if len(raw) > TEXT_BYTES_MAX:
        raw = raw[:TEXT_BYTES_MAX].decode("utf-8", "ignore").encode()
    if not _PLAIN.issuperset(raw):
        raw = b"".join(bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in raw)
    # A field with a space at either end makes the whole answer malformed (RFC 9113, 8.2.1).
    if raw.startswith(b" "):
        raw = b"%20" + raw[1:]
    return raw[:-1] + b"%20" if raw.endswith(b" ") else raw


def _status(code: Code, text: str) -> bytes:
    block = literal(b"grpc-status", b"%d" % code)
    return block + literal(b"grpc-message", percent_encoded(text)) if text else block


def trailers(code: Code, text: str) -> EncodedHeaders:
    """The end of an answer that has begun."""
    return EncodedHeaders(_status(code, text), ends=True)


def trailers_only(code: Code, text: str, *, accept_encoding: bool = False) -> EncodedHeaders:
    """An answer that is only a status."""
    block = _START + _status(code, text)
    if accept_encoding:
        block += literal(b"grpc-accept-encoding", ACCEPT_ENCODING.encode())
    return EncodedHeaders(block, ends=True)


def refusal_headers(refusal: Refusal) -> EncodedHeaders:
    """The whole answer to a request that can't be served."""
    if refusal.http_status == 200:
        return trailers_only(refusal.code, refusal.text, accept_encoding=refusal.code is Code.UNIMPLEMENTED)
    return EncodedHeaders(
        literal(b":status", b"%d" % refusal.http_status)
        + literal(b"content-length", b"0")
        + _status(refusal.code, refusal.text),
        ends=True,
    )


Deadline = tuple[float, bool]
"""When a call ends, on the loop's clock, and whether that is its client's wish rather than its method's limit."""


def deadline_of(timeout_s: float | None, limit_s: float | None, now: float) -> Deadline:
    """The earlier of what a call's client and its method allow."""
    if timeout_s is None:
        return NEVER if limit_s is None else now + limit_s, False
    if limit_s is None or timeout_s <= limit_s:
        return now + timeout_s, True
    return now + limit_s, False
