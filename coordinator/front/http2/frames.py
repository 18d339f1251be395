"""HTTP/2 on the wire: the numbers of RFC 9113, and frames as bytes. No state in here."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (RFC 9113, 3.4)."""

HEADER_BYTES: Final = 9
STREAM_ID_MAX: Final = (1 << 31) - 1
WINDOW_MAX: Final = (1 << 31) - 1
WINDOW_DEFAULT: Final = 65_535
FRAME_BYTES_DEFAULT: Final = 16_384
FRAME_BYTES_LARGEST: Final = (1 << 24) - 1

# Types (6.1 to 6.10) and flags, as plain integers: they are compared for each frame.
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

_U32: Final = struct.Struct(">I")
_SETTING: Final = struct.Struct(">HI")
_GOAWAY: Final = struct.Struct(">II")

read_u32: Final = _U32.unpack_from
u32: Final = _U32.pack


class Setting(enum.IntEnum):
    """Names of settings (6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection ends (7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


@dataclass(frozen=True, slots=True)
class ConnectionFault:
    """The peer broke a rule in a way that ends the connection."""

    code: ErrorCode
    reason: str
    """For the GOAWAY and the log: what was wrong, in words without the peer's data."""


@dataclass(frozen=True, slots=True)
class StreamFault:
    """The peer broke a rule that concerns one stream."""

    stream_id: int
    code: ErrorCode
    reason: str


Fault = ConnectionFault | StreamFault


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return b"".join((len(payload).to_bytes(3), bytes((kind, flags)), stream_id.to_bytes(4), payload))


def settings(values: dict[Setting, int]) -> bytes:
    """Our settings."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(name, value) for name, value in values.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Names and values, unknown names among them. The payload's length is a multiple of 6."""
    return list(_SETTING.iter_unpack(payload))


def window_update(stream_id: int, increment: int) -> bytes:
    """Leave to send so many more bytes; on the whole connection for stream 0."""
    return frame(WINDOW_UPDATE, 0, stream_id, u32(increment))


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """The end of a stream, at once."""
    return frame(RST_STREAM, 0, stream_id, u32(code))


def goaway(last_stream_id: int, code: ErrorCode, reason: str) -> bytes:
    """No stream after last_stream_id is, or will be, acted on."""
    return frame(GOAWAY, 0, 0, _GOAWAY.pack(last_stream_id, code) + reason.encode())


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def without_padding(payload: bytes) -> bytes | None:
    """The content of a PADDED frame; None if there is less of it than padding (6.1)."""
    if not payload or payload[0] >= len(payload):
        return None
    return payload[1 : len(payload) - payload[0]]


def block_fragment(flags: int, stream_id: int, payload: bytes) -> bytes | ConnectionFault:
    """What there is of a header block in a HEADERS frame, without padding and a priority, which is ignored (6.2)."""
    content: bytes | None = payload
    if flags & PADDED:
        content = without_padding(payload)
        if content is None:
            return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    assert content is not None
    if flags & HAS_PRIORITY:
        if len(content) < 5:
            return ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
        if read_u32(content)[0] & STREAM_ID_MAX == stream_id:
            # A stream error by 5.3.1 of RFC 7540. The block would have to be read nevertheless, so it is more.
            return ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
        content = content[5:]
    return content


class EncodedHeaders:
    """A header block that is ready to be sent, on any stream: no field of it is in a dynamic table."""

    __slots__ = ("block", "ends", "prefix")

    def __init__(self, block: bytes, *, ends: bool) -> None:
        """ends: the stream ends with it."""
        self.block = block
        self.ends = ends
        flags = END_HEADERS | (END_STREAM if ends else 0)
        self.prefix = len(block).to_bytes(3) + bytes((HEADERS, flags))
        """The frame's header, up to the stream id; right if the block fits into one frame."""

    def frames(self, stream_id: int, frame_bytes_max: int) -> bytes:
        """A HEADERS frame, and CONTINUATION as needed."""
        sid = stream_id.to_bytes(4)
        block = self.block
        if len(block) <= frame_bytes_max:
            return self.prefix + sid + block
        parts = [block[at : at + frame_bytes_max] for at in range(0, len(block), frame_bytes_max)]
        first = frame(HEADERS, END_STREAM if self.ends else 0, stream_id, parts[0])
        middle = [frame(CONTINUATION, 0, stream_id, part) for part in parts[1:-1]]
        return b"".join((first, *middle, frame(CONTINUATION, END_HEADERS, stream_id, parts[-1])))
