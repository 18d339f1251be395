"""A key with its value as a shard stores it, which is as etcd's answers hold it."""

from __future__ import annotations

from proto.varint import varint


def encode_pair(key: bytes, created: bytes, modified: bytes, version: int, value: bytes, lease: int) -> bytes:
    """A pair as it is stored: field 2 of RangeResponse, tag and length included, holding an mvccpb.KeyValue.

    created and modified are the revisions, encoded: a command has one for all of its puts."""
    head = b"".join(
        (b"\x0a", varint(len(key)), key, b"\x10", created, b"\x18", modified, b"\x20", varint(version))
    )
    if value:
        head += b"\x2a" + varint(len(value))
    tail = b"\x30" + varint(lease) if lease else b""
    return b"".join((b"\x12", varint(len(head) + len(value) + len(tail)), head, value, tail))
