"""etcd's ranges: of the newest state or of a past revision, sorted, filtered and cut as etcd does it.

What is plain, which is most, is never taken apart: stored pairs are glued together as they are.
"""

from __future__ import annotations

import itertools
import operator
from typing import TYPE_CHECKING, Any, Final

from proto.spans import OPEN_END
from shardworker.machine.ops import Order, Range, Ranged, Target
from shardworker.machine.pairs import encode, parse, without_values
from shardworker.machine.tables import REVISION_MAX, SUB_BITS
from shardworker.machine.view import first_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proto.etcd import kv_pb2
    from shardworker.machine.view import View

PART_BYTES: Final = 1 << 20
"""Of one part of a range that is answered in several, about."""

_COLUMN: Final = {
    Target.KEY: "key",
    Target.VERSION: "version",
    Target.CREATE: "create_revision",
    Target.MOD: f"id >> {SUB_BITS}",  # the place within the revision does not show: ties go by key
}

_KEY_OF: Final[dict[Target, Callable[[kv_pb2.KeyValue], Any]]] = {
    Target.KEY: operator.attrgetter("key"),
    Target.VERSION: operator.attrgetter("version"),
    Target.CREATE: operator.attrgetter("create_revision"),
    Target.MOD: operator.attrgetter("mod_revision"),
    Target.VALUE: operator.attrgetter("value"),
    Target.LEASE: operator.attrgetter("lease"),
}


def read_range(view: View, op: Range) -> Ranged:
    """A range on its own: the newest state for a revision of 0 or less, else checked."""
    if op.revision > 0:
        view.check_revision(op.revision)
    return read_unchecked(view, op)


def read_unchecked(view: View, op: Range) -> Ranged:
    """A range whose revision was checked; one that is yet to come is the newest state."""
    if 0 < op.revision < view.revision:
        return _range_past(view, op)
    if not op.end:
        return _range_key(view, op)
    return _range_live(view, op)


def _range_key(view: View, op: Range) -> Ranged:
    if op.count_only:
        return Ranged(view.revision, b"", int(view.is_live(op.key)), False)
    stored = view.get(op.key)
    if stored is None:
        return Ranged(view.revision, b"", 0, False)
    if op.keys_only or op.filtered:
        view.visit_pair(len(stored))
        stored = encode([kv for kv in parse(stored) if _passes(kv, op)], keys_only=op.keys_only)
    view.charge(len(stored))
    return Ranged(view.revision, stored, 1, False)


def _range_live(view: View, op: Range) -> Ranged:
    if op.count_only:
        return Ranged(view.revision, b"", view.count(op.key, op.end), False)
    if op.filtered or op.order is not Order.NONE or op.target is not Target.KEY:
        return _range_sorted(view, op)
    parts: list[bytes] = []
    rows = 0
    for count, blob in view.scan(op.key, op.end, op.limit):
        rows += count
        part = without_values(blob) if op.keys_only else blob
        view.charge(len(part))
        parts.append(part)
    total = view.count(op.key, op.end) if 0 < op.limit <= rows else rows
    return Ranged(view.revision, b"".join(parts), total, total > rows)


def _range_sorted(view: View, op: Range) -> Ranged:
    """Filters and orders by a column run in SQL on `live`, so that only what is answered gets loaded."""
    total = view.count(op.key, op.end)
    view.visit(total)
    early_cut = op.limit > 0 and op.order is Order.NONE and not op.filtered
    if early_cut or op.target is Target.VALUE:
        kvs: list[kv_pb2.KeyValue] = []
        for _, blob in view.scan(op.key, op.end, op.limit + 1 if early_cut else 0):
            kvs.extend(_taken(view, kv, op) for kv in parse(blob) if _passes(kv, op))
        return _finish(op, view.revision, kvs, total)
    ids = _ids_sorted(view, op)
    more = 0 < op.limit < len(ids)
    if more:
        ids.pop()
    blobs: list[bytes] = []
    for id_ in ids:
        row: Any = view.execute(view.sql.change, (id_,)).fetchone()
        view.visit_pair(len(row[0]))
        stored: bytes = without_values(row[0]) if op.keys_only else row[0]
        view.charge(len(stored))
        blobs.append(stored)
    return Ranged(view.revision, b"".join(blobs), total, more)


def _ids_sorted(view: View, op: Range) -> list[int]:
    """Ids of the rows that pass the filters, in the asked order, up to one more than the limit."""
    where: list[tuple[str, Any]] = [("key >= ?", op.key)]
    if op.end != OPEN_END:
        where.append(("key < ?", op.end))
    if op.min_mod:
        where.append(("id >= ?", first_id(op.min_mod)))
    if op.max_mod:
        where.append(("id < ?", first_id(op.max_mod + 1)))
    if op.min_create:
        where.append(("create_revision >= ?", op.min_create))
    if op.max_create:
        where.append(("create_revision <= ?", op.max_create))
    column = _COLUMN[op.target]
    direction = " DESC" if op.order is Order.DESCEND else ""
    by = f"{column}{direction}" if op.target is Target.KEY else f"{column}{direction}, key"
    clauses = " AND ".join(clause for clause, _ in where)
    text = f"SELECT id FROM {view.sql.live_name} WHERE {clauses} ORDER BY {by} LIMIT ?"
    cut = op.limit + 1 if 0 < op.limit < REVISION_MAX else -1
    return [row[0] for row in view.execute(text, [*(bound for _, bound in where), cut])]


def _range_past(view: View, op: Range) -> Ranged:
    newest_id = first_id(op.revision + 1)
    if op.count_only:
        return Ranged(view.revision, b"", view.count_past(op.key, op.end, newest_id), False)
    plain = op.order is Order.NONE and op.target is Target.KEY and not op.filtered
    cut = op.limit if plain else 0
    if op.limit > 0 and op.order is Order.NONE and not op.filtered and not plain:
        cut = op.limit + 1
    kvs: list[kv_pb2.KeyValue] = []
    blobs: list[bytes] = []
    total = 0
    for blob in view.past(op.key, op.end, newest_id):
        total += 1
        if cut > 0 and total > cut:
            total = view.count_past(op.key, op.end, newest_id)
            break
        if plain and not op.keys_only:
            view.charge(len(blob))
            blobs.append(blob)
            continue
        kv = parse(blob)[0]
        if _passes(kv, op):
            kvs.append(_taken(view, kv, op))
    if plain and not op.keys_only:
        return Ranged(view.revision, b"".join(blobs), total, total > len(blobs))
    if plain:
        return Ranged(view.revision, encode(kvs, keys_only=True), total, total > len(kvs))
    return _finish(op, view.revision, kvs, total)


def read_parts(view: View, op: Range) -> Iterator[tuple[Ranged, bool]]:
    """read_range() in parts of about PART_BYTES, and of each whether others follow: only the last knows the count and
    whether the range has more. What is sorted or filtered has to be known whole, and comes in one. Raises
    FutureRevision, Compacted."""
    if op.revision > 0:
        view.check_revision(op.revision)
    plain = op.order is Order.NONE and op.target is Target.KEY and not op.filtered
    if not plain or op.count_only or not op.end:
        yield read_unchecked(view, op), False
        return
    past = 0 < op.revision < view.revision
    parts: list[bytes] = []
    rows = size_bytes = 0
    for count, blob in _scan_past(view, op) if past else view.scan(op.key, op.end, op.limit):
        if size_bytes >= PART_BYTES:
            yield Ranged(view.revision, b"".join(parts), 0, False), True
            parts, size_bytes = [], 0
        rows += count
        parts.append(without_values(blob) if op.keys_only else blob)
        size_bytes += len(parts[-1])
    total = rows
    if 0 < op.limit <= rows:
        newest_id = first_id(op.revision + 1)
        total = view.count_past(op.key, op.end, newest_id) if past else view.count(op.key, op.end)
    yield Ranged(view.revision, b"".join(parts), total, total > rows), False


def _scan_past(view: View, op: Range) -> Iterator[tuple[int, bytes]]:
    """As scan(), at the operation's revision and pair by pair."""
    found = view.past(op.key, op.end, first_id(op.revision + 1))
    for blob in itertools.islice(found, op.limit if op.limit > 0 else None):
        yield 1, blob


def _taken(view: View, kv: kv_pb2.KeyValue, op: Range) -> kv_pb2.KeyValue:
    """The pair, counted, and without its value if nothing needs that any more."""
    if op.keys_only and op.target is not Target.VALUE:
        kv.ClearField("value")
    view.charge(kv.ByteSize())
    return kv


def _passes(kv: kv_pb2.KeyValue, op: Range) -> bool:
    return (
        (not op.min_mod or kv.mod_revision >= op.min_mod)
        and (not op.max_mod or kv.mod_revision <= op.max_mod)
        and (not op.min_create or kv.create_revision >= op.min_create)
        and (not op.max_create or kv.create_revision <= op.max_create)
    )


def _finish(op: Range, revision: int, kvs: list[kv_pb2.KeyValue], total: int) -> Ranged:
    """Sort, then cut, then drop values: in this order, as etcd does it."""
    if op.order is not Order.NONE or op.target is not Target.KEY:
        kvs.sort(key=_KEY_OF[op.target], reverse=op.order is Order.DESCEND)
    more = 0 < op.limit < len(kvs)
    if more:
        del kvs[op.limit :]
    return Ranged(revision, encode(kvs, keys_only=op.keys_only), total, more)
