"""A backup's bytes: one framed snappy stream, or several behind each other, of records, each an mvcc.Command behind its
length. Pure.

What is in a record is Regatta's: a key and its value. For whoever asks as boathouse does, it also has the pair's
revisions, version, lease, and the place of the change that put it. A full backup puts every key once, in order; what
has changed since is puts and deletions in the order in which they were made.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from proto import errors
from proto.etcd import rpc_pb2 as etcd
from proto.regatta import mvcc_pb2 as mvcc
from proto.varint import delimited, varint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from coordinator.backup.fillers import Fillers
    from proto.etcd.kv_pb2 import KeyValue
    from proto.internal import frames_pb2 as frames

SUB_BITS: Final = 24
"""Of a change's id, the place within its revision."""

RECORD_BYTES_MAX: Final = 64 << 20
"""Far above what a request may have."""
FRAME_BYTES_MAX: Final = 1 << 17
"""Of the format at most 65,536 bytes of content, which snappy makes a sixth longer in the worst case."""

STREAM_IDENTIFIER: Final = b"\xff\x06\x00\x00sNaPpY"
LENGTH_BYTES: Final = 8

_TABLE, _DELETE, _KV = b"\x0a", b"\x10\x01", b"\x1a"
_KEY, _CREATED, _MODIFIED, _VALUE = b"\x0a", b"\x10", b"\x18", b"\x22"
_VERSION, _LEASE, _ID = varint(170 << 3), varint(171 << 3), varint(172 << 3 | 1)
_FIXED64: Final = struct.Struct("<Q").pack
_FIXED64_AT: Final = struct.Struct("<Q").unpack_from


# ---- making -------------------------------------------------------------------------------------------------------


def puts(table: bytes, part: frames.TablePairs, fillers: Fillers, *, full: bool) -> bytes:
    """A put for each pair. full: with what only boathouse reads."""
    head = delimited(_TABLE, table)
    kvs = etcd.RangeResponse.FromString(part.pairs).kvs
    pieces: list[bytes] = []
    for kv, id_ in zip(kvs, part.ids, strict=True):
        record = _full_put(head, kv, id_) if full else _put(head, kv.key, kv.value, b"")
        (size_bytes,) = _FIXED64_AT(record[0])
        if filler := fillers.before(size_bytes):
            pieces.append(filler)
        pieces += record
    return b"".join(pieces)


def _put(head: bytes, key: bytes, value: bytes, more: bytes) -> tuple[bytes, ...]:
    """In pieces. more: encoded fields of the pair beside key and value."""
    before, before_value = _heads(head, len(key), len(more), len(value))
    return before, key, more, before_value, value


@functools.lru_cache(maxsize=4_096)
def _heads(head: bytes, key_bytes: int, more_bytes: int, value_bytes: int) -> tuple[bytes, bytes]:
    """What stands before a key and before its value; most records of a table have the lengths of others."""
    before_key = _KEY + varint(key_bytes)
    before_value = _VALUE + varint(value_bytes) if value_bytes else b""
    size = len(before_key) + key_bytes + more_bytes + len(before_value) + value_bytes
    before = head + _KV + varint(size) + before_key
    return _FIXED64(len(head) + 1 + len(varint(size)) + size) + before, before_value


def _full_put(head: bytes, kv: KeyValue, id_: int) -> tuple[bytes, ...]:
    modified, lease = kv.mod_revision, kv.lease
    revision = varint(modified)
    created = revision if kv.create_revision == modified else varint(kv.create_revision)
    more = b"".join(
        (_CREATED, created, _MODIFIED, revision, _VERSION, varint(kv.version), _ID, _FIXED64(id_))
    )
    if lease:
        more += _LEASE + varint(lease)
    return _put(head, kv.key, kv.value, more)


def edits(table: bytes, revisions: Iterable[frames.RevisionChanges]) -> bytes:
    """A put or a deletion for each change, with all that boathouse reads."""
    head = delimited(_TABLE, table)
    found: list[bytes] = []
    for revision in revisions:
        for place, change in enumerate(revision.keys):
            id_ = (revision.revision << SUB_BITS) + place
            if change.kv:
                (kv,) = etcd.RangeResponse.FromString(change.kv).kvs
                found += _full_put(head, kv, id_)
            else:
                kv_bytes = b"".join((_KEY, varint(len(change.key)), change.key, _ID, _FIXED64(id_)))
                command = head + _DELETE + delimited(_KV, kv_bytes)
                found.append(len(command).to_bytes(LENGTH_BYTES, "little") + command)
    return b"".join(found)


class Compressor:
    """One stream. An empty one has no bytes at all, as Regatta's."""

    def __init__(self) -> None:
        import cramjam  # here and below, since few connections make backups

        self._snappy = cramjam.snappy.Compressor()
        self._has_begun = False

    def feed(self, records: bytes) -> bytes:
        """What can be sent by now."""
        if not records:
            return b""
        self._has_begun = True
        self._snappy.compress(records)
        return bytes(self._snappy.flush())

    def finish(self) -> bytes:
        """The rest."""
        return bytes(self._snappy.finish()) if self._has_begun else b""


# ---- reading ------------------------------------------------------------------------------------------------------


class RecordReader:
    """From pieces of any size to commands. Raises RestoreRefused for what is no backup."""

    def __init__(self) -> None:
        self._frames = b""
        self._records = b""
        self._has_begun = False

    def feed(self, data: bytes) -> Iterator[mvcc.Command]:
        """The commands that are complete with this piece."""
        self._frames += data
        end = self._frames_end()
        if not end:
            return
        whole, self._frames = self._frames[:end], self._frames[end:]
        if self._has_begun:
            whole = STREAM_IDENTIFIER + whole
        self._has_begun = True
        import cramjam

        try:
            self._records += bytes(cramjam.snappy.decompress(whole))
        except cramjam.DecompressionError as error:
            raise errors.RestoreRefused(f"the backup is damaged: {error}") from None
        yield from self._take_records()

    def _frames_end(self) -> int:
        """Behind the last frame that is whole."""
        data, at = self._frames, 0
        if not self._has_begun and not data.startswith(STREAM_IDENTIFIER[: len(data)]):
            raise errors.RestoreRefused("this is no backup: it does not begin as a stream of snappy does")
        while at + 4 <= len(data):
            length = int.from_bytes(data[at + 1 : at + 4], "little")
            if length > FRAME_BYTES_MAX:
                raise errors.RestoreRefused(f"the backup is damaged: a frame of {length} bytes")
            if at + 4 + length > len(data):
                break
            at += 4 + length
        return at

    def _take_records(self) -> Iterator[mvcc.Command]:
        data, at, whole = self._records, 0, len(self._records)
        read_size, read = _FIXED64_AT, mvcc.Command.FromString
        while (start := at + LENGTH_BYTES) <= whole:
            (size,) = read_size(data, at)
            if size > RECORD_BYTES_MAX:
                raise errors.RestoreRefused(f"the backup is damaged: a record of {size} bytes")
            if start + size > whole:
                break
            at = start + size
            try:
                command = read(data[start:at])
            except DecodeError:
                raise errors.RestoreRefused("the backup is damaged: a record can't be read") from None
            yield command
        self._records = data[at:]

    def end(self) -> None:
        """Nothing follows. Raises RestoreRefused if that is in the middle of something."""
        if self._frames or self._records:
            raise errors.RestoreRefused("the backup is cut short")
