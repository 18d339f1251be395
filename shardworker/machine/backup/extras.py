"""What a table holds beside its pairs, as a backup of it has that: leases, users and roles.

Tokens are left out: who is logged in is no part of a table's past. What is left of a lease only the leader knows, so it
comes with the question; where nobody said, a lease has what was last written down, as after an election. No lease lives
in a copy of another cluster's table: those that its keys name have all of their time, as if that copy led from now on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine.auth_store import Kind, UnsoundRow, auth_of, read_rows
from shardworker.machine.leases import read_leases
from shardworker.machine.replication.copied_leases import read_copied_leases

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardworker.machine.auth import TableAuth
    from shardworker.machine.view import View
    from shardworker.machine.writer import Writer

TTL_S_MAX: Final = 9_000_000_000
"""etcd's longest lease."""


class Extras(NamedTuple):
    """A frames.TableExtras, read and found well-formed."""

    leases: Sequence[tuple[int, int, int]]
    """(id, seconds granted, seconds left)."""
    auth: TableAuth | None


def read_left(body: bytes) -> dict[int, int]:
    """Seconds that are left, by lease. Raises DecodeError."""
    return seconds_left(frames.LeasesLeft.FromString(body))


def seconds_left(told: frames.LeasesLeft) -> dict[int, int]:
    """By lease."""
    return {lease.id: lease.left_s for lease in told.leases}


def extras_of(view: View, left: Mapping[int, int]) -> frames.TableExtras:
    """As the view sees them. Raises Corrupt."""
    extras = frames.TableExtras()
    for lease in read_leases(view.connection, view.table.id):
        if lease.ttl_s:
            left_s = min(left.get(lease.id, -(-lease.left_ms // 1000)), lease.ttl_s)
            extras.leases.add(id=lease.id, ttl_s=lease.ttl_s, left_s=left_s)
    for id_, ttl_s in read_copied_leases(view.connection, view.table.id):
        extras.leases.add(id=id_, ttl_s=ttl_s, left_s=ttl_s)
    for kind, name, data in read_rows(view.connection, view.table.id):
        if kind is not Kind.TOKEN:
            extras.auth.add(kind=kind, name=name, data=data)
    return extras


def read_extras(told: frames.TableExtras) -> Extras:
    """Raises InvalidRequest for what no table can have had."""
    leases = [(lease.id, lease.ttl_s, lease.left_s) for lease in told.leases]
    if len({id_ for id_, _, _ in leases}) < len(leases):
        raise errors.InvalidRequest("a lease comes twice")
    for id_, ttl_s, left_s in leases:
        if not id_ or not 0 < ttl_s <= TTL_S_MAX or not 0 <= left_s <= ttl_s:
            raise errors.InvalidRequest(f"lease {id_} can't have {left_s} of {ttl_s} seconds left")
    try:
        auth = auth_of((row.kind, row.name, row.data) for row in told.auth)
    except UnsoundRow as error:
        raise errors.InvalidRequest(f"the users and roles can't be read: {error}") from None
    return Extras(leases, auth)


def check_extras(writer: Writer, extras: Extras) -> None:
    """Raises LeaseExists if the table has one of these leases, before any change."""
    for lease_id, _, _ in extras.leases:
        if writer.leases.find(writer.table.id, lease_id) is not None:
            raise errors.LeaseExists


def take_extras(writer: Writer, extras: Extras) -> None:
    """The table, which has none of these leases, gets them; and these users, unless it has some."""
    table_id = writer.table.id
    for lease_id, ttl_s, left_s in extras.leases:
        writer.leases.grant(table_id, lease_id, ttl_s, left_s=left_s)
    if extras.auth is not None and writer.auth.of(table_id).is_unused:
        writer.auth.replace(table_id, extras.auth)
