"""WatchResponses as bytes: the header in front, then what it says (coordinator/api/headers.py explains why that works).

A stored pair carries the tag of field 2, which is Event.kv's too, so an event of a put is the stored pair as it is.
What thousands of watchers hear alike is encoded once; only header and watch id differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proto.etcd import kv_pb2
from proto.etcd import rpc_pb2 as etcd
from proto.varint import UINT64_MASK, read_varint, varint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from coordinator.watch.changes import Change

FRAGMENT_BYTES_MAX: Final = 2 << 20
"""etcd's limit of a request and half a megabyte: a watcher that asked for fragments gets none that are larger, unless
one event alone is."""

NO_WATCHER: Final = -1
"""The watch id of an answer about a watcher that did not come to be, or about all of the stream."""

_EVENTS, _IS_FRAGMENT = b"\x5a", b"\x38\x01"
_PAIR, _PREV_TAG, _IS_DELETE = b"\x12", b"\x1a", b"\x08\x01"

Header = Callable[[int], bytes]
"""Field 1 of a response that shows a revision."""


def event(change: Change, revision: int, *, prev_kv: bool) -> bytes:
    """One change as field 11 of a response, tag included."""
    if change.pair is not None:
        body = change.pair
    else:
        pair = kv_pb2.KeyValue(key=change.key, mod_revision=revision).SerializeToString()
        body = b"".join((_IS_DELETE, _PAIR, varint(len(pair)), pair))
    if prev_kv and change.prev is not None:
        body += _PREV_TAG + change.prev[1:]
    return b"".join((_EVENTS, varint(len(body)), body))


def events(header: bytes, watch_id: int, events: Sequence[bytes], *, fragment: bool) -> list[bytes]:
    """One response with these events, or as many as it takes for fragments of a bounded size."""
    head = header + _watch_id(watch_id)
    if not fragment or len(events) < 2 or len(head) + sum(map(len, events)) < FRAGMENT_BYTES_MAX:
        return [b"".join((head, *events))]
    *others, last = _fragments(events, FRAGMENT_BYTES_MAX - len(head) - len(_IS_FRAGMENT))
    return [*(b"".join((head, _IS_FRAGMENT, *part)) for part in others), b"".join((head, *last))]


def _fragments(events: Sequence[bytes], bytes_max: int) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    size = 0
    for each in events:
        if part and size + len(each) >= bytes_max:
            yield part
            part, size = [], 0
        part.append(each)
        size += len(each)
    yield part


def _watch_id(watch_id: int) -> bytes:
    return b"\x10" + varint(watch_id & UINT64_MASK) if watch_id else b""


def created(header: bytes, watch_id: int) -> bytes:
    """The watcher exists."""
    return header + etcd.WatchResponse(watch_id=watch_id, created=True).SerializeToString()


def refused(header: bytes, reason: str) -> bytes:
    """The watcher did not come to be."""
    refusal = etcd.WatchResponse(watch_id=NO_WATCHER, created=True, canceled=True, cancel_reason=reason)
    return header + refusal.SerializeToString()


def canceled(header: bytes, watch_id: int, *, reason: str = "", compact_revision: int = 0) -> bytes:
    """The watcher is no more: its client said so, or for a reason, or because what it needs was compacted."""
    end = etcd.WatchResponse(
        watch_id=watch_id, canceled=True, cancel_reason=reason, compact_revision=compact_revision
    )
    return header + end.SerializeToString()


def progress(header: bytes, watch_id: int) -> bytes:
    """Everything up to the header's revision has been sent before this: to a watcher, or to all (NO_WATCHER)."""
    return header + etcd.WatchResponse(watch_id=watch_id).SerializeToString()


def revision_of(message: bytes) -> int:
    """What the header of a response shows; the rest of it is not looked at."""
    size, begin = read_varint(message, 1)
    return etcd.ResponseHeader.FromString(message[begin : begin + size]).revision
