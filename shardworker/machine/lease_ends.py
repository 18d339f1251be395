"""The ends of leases: a lease goes, and its keys with it, however many those are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proto import errors
from shardworker.machine import budget
from shardworker.machine.ops import DeleteRange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardworker.machine.leases import Lease
    from shardworker.machine.writer import Writer

REVOKED_KEYS_MAX = 90_000
"""Keys of one lease that are deleted at one revision. A lease with more ends at once all the same, and the rest goes in
the next steps. Part of the replicated behaviour."""

FEW_KEYS = 16
"""Of a lease: so many are deleted one by one, which takes half as long for the one or two that most leases have. Part
of the replicated behaviour: the checksum tells the two ways apart."""


def revoke(writer: Writer, lease_id: int) -> None:
    """Ends a lease and deletes its keys. Raises LeaseNotFound, ShardBusy."""
    lease = writer.leases.get(writer.table.id, lease_id)
    if lease is None:
        raise errors.LeaseNotFound
    writer.flush()
    _end(writer, lease)


def expire(writer: Writer, expired: Iterable[tuple[int, int]]) -> None:
    """Ends those of these leases (id, granted at) that are still there, each at a revision of its own.

    One with more keys than the entry has room for stays until it is proposed again."""
    writer.flush()
    for lease_id, granted_at in expired:
        lease = writer.leases.find(writer.table.id, lease_id)
        if lease is None or lease.granted_at != granted_at:
            continue
        try:
            _end(writer, lease)
        except errors.ShardBusy:
            writer.refuse()
        else:
            writer.end()
        writer.begin()


def _end(writer: Writer, lease: Lease) -> None:
    """Ends a lease. What this command has not written yet are keys of other leases, which are deleted."""
    attached = (lease.id, FEW_KEYS + 1)
    few: list[Any] = writer.execute_unflushed(writer.sql.attached, attached).fetchall()
    if len(few) > FEW_KEYS:
        _end_large(writer, lease)
        return
    writer.visit(len(few) * budget.DELETED_ROWS)
    for (key,) in few:
        writer.delete_range(DeleteRange(key, b"", prev_kv=False, prev_bytes_max=None))
    writer.leases.remove(writer.table.id, lease)


def _end_large(writer: Writer, lease: Lease) -> None:
    """Deletes the keys by a few statements, however many there are."""
    attached: int = writer.execute(writer.sql.attached_count, (lease.id, REVOKED_KEYS_MAX + 1)).get
    count = min(attached, REVOKED_KEYS_MAX)
    writer.visit(count * budget.DELETED_ROWS)
    first = writer.next_id
    writer.execute(writer.sql.kill_attached, (first - 1, lease.id, count))
    writer.execute(writer.sql.drop_changed, (first, first + count))
    writer.bury(count)
    if attached > count:
        writer.leases.end_later(writer.table.id, lease)
    else:
        writer.leases.remove(writer.table.id, lease)
