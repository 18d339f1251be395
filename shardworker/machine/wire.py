"""The few protobuf wire pieces that answers are glued together from.

A range of a hundred thousand rows is answered by concatenating rows that were encoded when they were written;
building message objects for them would cost more than everything else together. What is small is built with the
generated classes; what repeats or is long is built here.
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


_SMALL = tuple(_encode_varint(number) for number in range(1 << 12))
"""Lengths of most keys and rows, ready made."""


def varint(number: int) -> bytes:
    """A protobuf varint; negative numbers take ten bytes, as int64 does."""
    if 0 <= number < len(_SMALL):
        return _SMALL[number]
    return _encode_varint(number & UINT64_MASK)


def varint_bytes(number: int) -> int:
    """How many bytes varint(number) has, for number >= 0."""
    return 1 if number < 128 else (number.bit_length() + 6) // 7


def delimited(tag: bytes, payload: bytes) -> bytes:
    """A length-delimited field; `tag` is its encoded key."""
    return b"".join((tag, varint(len(payload)), payload))
