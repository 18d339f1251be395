"""Messages as gRPC compresses them, in both directions, with an end to what one message may grow to.

A compressed message is a claim about how much memory to spend, made by a stranger. So nothing here hands a whole
message to a library and looks at the result: gzip and zstd give their output in pieces, which are counted as they come,
and a snappy chunk says its size in front, which is counted before it is opened. What is bounded besides is the number
of pieces (members, frames, chunks) that a message is made of: an empty piece costs a few bytes of wire and a round of a
loop here.

Go's snappy writer writes nothing at all for an empty message, and its zstd writer did so for years. So nothing stands
for the empty message there; an empty gzip message is no gzip.
"""

from __future__ import annotations

import functools
import zlib
from typing import TYPE_CHECKING, Final

from proto import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    import zstandard

IDENTITY: Final = "identity"

GZIP_MEMBERS_MAX: Final = 16
"""Writers make one. zlib copies what follows a member, so many small ones would cost their square."""
GZIP_LEVEL: Final = 1
"""The first level does most of the work for a fraction of the time, and somebody waits."""

PIECES_MAX: Final = 64
"""Snappy chunks, or zstd blocks, that a message may have whatever its size: each Flush of a writer ends one. And one
more for each PIECE_BYTES_MIN that it may hold; writers fill 64 or 128 KiB."""
PIECE_BYTES_MIN: Final = 4 << 10

SNAPPY_CHUNK_BYTES_MAX: Final = 64 << 10
"""Of content, by the format."""

ZSTD_FRAMES_MAX: Final = 16
ZSTD_WINDOW_BYTES_MAX: Final = 32 << 20
"""The window of the strongest setting of the Go library that gRPC clients use. Taken from the system only as far as it
is written to, which is as far as the message may grow."""
ZSTD_PIECE_BYTES: Final = 64 << 10

_SNAPPY_STREAM_IDENTIFIER: Final = b"\xff\x06\x00\x00sNaPpY"
_ZSTD_SKIPPABLE_MAGIC: Final = range(0x184D2A50, 0x184D2A60)


def decompress(encoding: str, data: bytes, *, bytes_max: int) -> bytes:
    """The message in `data`; encoding is one of ENCODINGS.

    Raises MessageTooLarge once it is known to be over bytes_max, and MalformedRequest if data is not one whole message:
    damaged, cut short, with something behind it, or in more pieces than any writer makes."""
    return _CODECS[encoding][1](data, bytes_max)


def compress(encoding: str, data: bytes) -> bytes:
    """`data` as one message of this encoding, which is one of ENCODINGS."""
    return _CODECS[encoding][0](data)


def _too_large(size: int, bytes_max: int) -> errors.MessageTooLarge:
    """`size` is what is known when the limit is passed: the whole may be larger."""
    return errors.MessageTooLarge(f"{size} vs. {bytes_max}")


def _pieces_max(bytes_max: int) -> int:
    return PIECES_MAX + bytes_max // PIECE_BYTES_MIN


# ---- identity --------------------------------------------------------------------------------------------------------


def _same(data: bytes) -> bytes:
    return data


def _check_size(data: bytes, bytes_max: int) -> bytes:
    if len(data) > bytes_max:
        raise _too_large(len(data), bytes_max)
    return data


# ---- gzip ------------------------------------------------------------------------------------------------------------


def _gzip(data: bytes) -> bytes:
    writer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return writer.compress(data) + writer.flush()


def _gunzip(data: bytes, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    for _ in range(GZIP_MEMBERS_MAX):
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            # One byte more than allowed tells "too large" from "just fits".
            part = member.decompress(data, bytes_max - size + 1)
        except zlib.error as error:
            raise errors.MalformedRequest(f"gzip: {error}") from None
        size += len(part)
        if size > bytes_max:
            raise _too_large(size, bytes_max)
        if not member.eof:
            raise errors.MalformedRequest("gzip: the message is cut short")
        parts.append(part)
        data = member.unused_data
        if not data:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise errors.MalformedRequest(f"gzip: more than {GZIP_MEMBERS_MAX} members")


# ---- snappy ----------------------------------------------------------------------------------------------------------
# Its library, and that of zstd, take 2 MB that only who has such clients needs: they are imported where they are used.


def _snappy(data: bytes) -> bytes:
    import cramjam

    return bytes(cramjam.snappy.compress(data)) if data else b""


def _unsnappy(data: bytes, bytes_max: int) -> bytes:
    if not data:
        return b""
    import cramjam

    size = _snappy_size(data, bytes_max)
    output = bytearray(size)
    try:
        written = cramjam.snappy.decompress_into(data, output)
    except cramjam.DecompressionError as error:
        raise errors.MalformedRequest(f"snappy: {error}") from None
    assert written == size, "the decoder and the chunks' own words disagree"
    return bytes(output)


def _snappy_size(data: bytes, bytes_max: int) -> int:
    """What all chunks together hold, by their own words. A chunk that lies about it fails to decompress.

    The format: https://github.com/google/snappy/blob/main/framing_format.txt."""
    if not data.startswith(_SNAPPY_STREAM_IDENTIFIER):
        raise errors.MalformedRequest("snappy: no stream identifier at the start")
    chunks_max = _pieces_max(bytes_max)
    at = size = chunks = 0
    while at < len(data):
        chunks += 1
        if chunks > chunks_max:
            raise errors.MalformedRequest(f"snappy: more than {chunks_max} chunks")
        kind, length = data[at], int.from_bytes(data[at + 1 : at + 4], "little")
        body, at = at + 4, at + 4 + length
        if at > len(data):
            raise errors.MalformedRequest("snappy: the message is cut short")
        if kind == 0x00:  # compressed: a checksum of four bytes, then a block that starts with its size
            content = _varint(data, body + 4, at)
        elif kind == 0x01:  # as it is: a checksum, then the content
            content = length - 4
        elif kind >= 0x80:  # padding, another stream identifier, and what a reader may skip
            continue
        else:
            raise errors.MalformedRequest(f"snappy: chunk of unknown type {kind:#x}")
        if not 0 <= content <= SNAPPY_CHUNK_BYTES_MAX:
            raise errors.MalformedRequest("snappy: a chunk's size is impossible")
        size += content
        if size > bytes_max:
            raise _too_large(size, bytes_max)
    return size


def _varint(data: bytes, start: int, end: int) -> int:
    """The number at data[start:end], of at most three bytes: no chunk needs more. -1 if there is none."""
    value = 0
    for shift, byte in enumerate(data[start : min(start + 3, end)]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value
    return -1


# ---- zstd ------------------------------------------------------------------------------------------------------------


@functools.cache
def _zstd_writer() -> zstandard.ZstdCompressor:
    import zstandard

    return zstandard.ZstdCompressor(level=1)


@functools.cache
def _zstd_reader() -> zstandard.ZstdDecompressor:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)


def _zstd(data: bytes) -> bytes:
    return _zstd_writer().compress(data)


def _unzstd(data: bytes, bytes_max: int) -> bytes:
    import zstandard

    parts: list[bytes] = []
    size = 0
    try:
        _check_zstd_frames(data, bytes_max)
        with _zstd_reader().stream_reader(data, read_across_frames=True) as reader:
            while part := reader.read(ZSTD_PIECE_BYTES):
                size += len(part)
                if size > bytes_max:
                    raise _too_large(size, bytes_max)
                parts.append(part)
    except zstandard.ZstdError as error:
        raise errors.MalformedRequest(f"zstd: {error}") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _check_zstd_frames(data: bytes, bytes_max: int) -> None:
    """Check that `data` is whole frames and nothing else: a streaming reader takes a cut for an end (RFC 8878, 3.1).

    Raises ZstdError too."""
    import zstandard

    blocks_left = _pieces_max(bytes_max)
    at = frames = 0
    while at < len(data):
        frames += 1
        if frames > ZSTD_FRAMES_MAX:
            raise errors.MalformedRequest(f"zstd: more than {ZSTD_FRAMES_MAX} frames")
        magic = int.from_bytes(data[at : at + 4], "little")
        if magic in _ZSTD_SKIPPABLE_MAGIC:
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            continue
        head = data[at : at + 18]  # no frame header is longer
        parameters = zstandard.get_frame_parameters(head)
        if parameters.content_size not in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
            if parameters.content_size > bytes_max:
                raise _too_large(parameters.content_size, bytes_max)
        at += zstandard.frame_header_size(head)
        last = 0
        while not last:
            blocks_left -= 1
            if blocks_left < 0:
                raise errors.MalformedRequest(f"zstd: more blocks than {bytes_max} bytes need")
            block = int.from_bytes(data[at : at + 3], "little")
            if at + 3 > len(data):
                raise errors.MalformedRequest("zstd: the message is cut short")
            last = block & 1
            repeated = block >> 1 & 3 == 1  # one byte, to be written out so many times
            at += 3 + (1 if repeated else block >> 3)
        at += 4 if parameters.has_checksum else 0
    if at != len(data):
        raise errors.MalformedRequest("zstd: the message is cut short")


_CODECS: Final[dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes, int], bytes]]]] = {
    IDENTITY: (_same, _check_size),
    "gzip": (_gzip, _gunzip),
    "snappy": (_snappy, _unsnappy),
    "zstd": (_zstd, _unzstd),
}

ENCODINGS: Final = tuple(_CODECS)
"""What a client may name in grpc-encoding, as grpc-accept-encoding lists it."""
