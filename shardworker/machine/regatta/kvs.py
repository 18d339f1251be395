"""Pairs as Regatta sends them: RangeResponse.kvs. Message objects would cost more than everything else of a range, so
pairs are glued together, by what runs without a step of Python for each."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from proto.varint import varint, varint_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence


def encode(keys: Sequence[bytes], values: Sequence[bytes]) -> bytes:
    """As many values as keys; an empty one is left out."""
    key_lengths, value_lengths = list(map(len, keys)), list(map(len, values))
    before_keys = map(_BeforeKeys().__getitem__, zip(key_lengths, value_lengths, strict=True))
    before_values = map(_BeforeValues().__getitem__, value_lengths)
    return b"".join(chain.from_iterable(zip(before_keys, keys, before_values, values, strict=True)))


class _BeforeKeys(dict[tuple[int, int], bytes]):
    """What stands before the key of a pair, by the lengths of key and value: most pairs have those of others."""

    def __missing__(self, lengths: tuple[int, int]) -> bytes:
        key_bytes, value_bytes = lengths
        before_key = b"\x0a" + varint(key_bytes) if key_bytes else b""
        value_size = 1 + varint_bytes(value_bytes) + value_bytes if value_bytes else 0
        size = len(before_key) + key_bytes + value_size
        self[lengths] = found = b"\x1a" + varint(size) + before_key
        return found


class _BeforeValues(dict[int, bytes]):
    """What stands before a value, by its length."""

    def __missing__(self, value_bytes: int) -> bytes:
        self[value_bytes] = found = b"\x22" + varint(value_bytes) if value_bytes else b""
        return found
