"""etcd's hash of a keyspace at a revision: what `etcdctl endpoint hashkv` compares between members.

CRC-32C over the word `key`, then over each change up to that revision in order: its id as etcd stores it, and its
pair. Of changes at or below the compacted revision only those count that are still to be seen at the asked one, so that
it does not matter how far a member has removed what nobody can read any more.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import google_crc32c

from proto.etcd import rpc_pb2
from proto.varint import read_varint, varint
from shardworker.machine.tables import SUB_BITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardworker.machine.view import View

PART_ROWS: Final = 2_000
PART_BYTES: Final = 4 << 20
"""A part ends behind so many rows or bytes, whichever come first: other long reads get their turn in between."""

_SUB_MASK: Final = (1 << SUB_BITS) - 1
_ID: Final = struct.Struct(">qcq")
_BUCKET: Final = b"key"


def hash_parts(view: View, request: rpc_pb2.HashKVRequest) -> Iterator[tuple[bytes, bool]]:
    """All parts but the last are empty. Raises Compacted or FutureRevision."""
    table = view.table
    revision = request.revision or table.revision
    crc = google_crc32c.value(_BUCKET)
    if revision >= 0:
        view.check_revision(revision)
        for data in _data(view, revision):
            crc = google_crc32c.extend(crc, data)
            yield b"", True
    yield rpc_pb2.HashKVResponse(hash=crc, compact_revision=table.floor).SerializeToString(), False


def _data(view: View, revision: int) -> Iterator[bytes]:
    """What goes into the hash, part by part."""
    end = (revision + 1) << SUB_BITS
    low_end = min(end, (view.table.floor + 1) << SUB_BITS)
    yield from _parts(view, view.sql.changes_and_heads, 0, low_end, end)
    yield from _parts(view, view.sql.changes, low_end, end, None)


def _parts(view: View, sql: str, start: int, stop: int, newest_id: int | None) -> Iterator[bytes]:
    """Changes with ids in [start, stop); with newest_id only those that are the newest of their key below it, and no
    tombstones."""
    while start < stop:
        encoded: list[bytes] = []
        rows = size_bytes = 0
        found: Any = view.execute(sql, (start, stop, PART_ROWS))
        for id_, key, kv, head in found:
            rows += 1
            start = id_ + 1
            if newest_id is None or (kv is not None and view.newest_before(head, newest_id) == id_):
                encoded.append(_encode(id_, key, kv))
                size_bytes += len(encoded[-1])
                if size_bytes >= PART_BYTES:
                    break
        found.close()
        if rows < PART_ROWS and size_bytes < PART_BYTES:
            start = stop
        yield b"".join(encoded)


def _encode(id_: int, key: bytes, kv: bytes | None) -> bytes:
    at = _ID.pack(id_ >> SUB_BITS, b"_", id_ & _SUB_MASK)
    if kv is None:
        return b"%bt\x0a%b%b" % (at, varint(len(key)), key)
    _, pair = read_varint(kv, 1)
    return at + kv[pair:]
