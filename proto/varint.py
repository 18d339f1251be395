"""The few protobuf wire pieces that messages are glued together from.

A range of a hundred thousand rows is answered by concatenating rows that were encoded when they were written, and a
header is put in front of a body that nobody parsed. Message objects for these would cost more than everything else.
"""

from __future__ import annotations

UINT64_MASK = (1 << 64) - 1


def _encode_varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append((number & 127) | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


_SMALL = tuple(_encode_varint(number) for number in range(4096))
"""Lengths of most keys and rows, ready made. Revisions are longer, and most take three or four bytes."""


def varint(number: int) -> bytes:
    """A protobuf varint; negative numbers take ten bytes, as int64 does."""
    if 0 <= number < 4096:
        return _SMALL[number]
    if 1 << 14 <= number < 1 << 21:
        return bytes((number & 127 | 128, number >> 7 & 127 | 128, number >> 14))
    if 1 << 21 <= number < 1 << 28:
        return bytes((number & 127 | 128, number >> 7 & 127 | 128, number >> 14 & 127 | 128, number >> 21))
    return _encode_varint(number & UINT64_MASK)


def varint_bytes(number: int) -> int:
    """How many bytes varint(number) has, for number >= 0."""
    return 1 if number < 128 else (number.bit_length() + 6) // 7


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint that begins at this offset, and the offset behind it. Raises IndexError if the bytes end first."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7


def delimited(tag: bytes, payload: bytes) -> bytes:
    """A length-delimited field; `tag` is its encoded key."""
    return b"".join((tag, varint(len(payload)), payload))
