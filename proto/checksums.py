"""One number over every change of a table, which replicas, copies and backups compare."""

from __future__ import annotations

from proto.varint import UINT64_MASK

FNV_PRIME = 0x100000001B3
"""Of FNV-1a over 64 bits."""


def rolled(checksum: int, id_: int, crc: int) -> int:
    """A table's checksum after one more change: order and position matter, and it is cheap.

    crc: of the pair as stored, or of a deleted key; of bytes that this code wrote itself, since a request's own
    encoding is not canonical. It depends on what was changed and not on how, so that a copy comes to the same."""
    return ((checksum ^ id_) * FNV_PRIME ^ crc) * FNV_PRIME & UINT64_MASK
