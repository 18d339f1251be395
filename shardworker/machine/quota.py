"""How much a table holds, how much it may hold, and which writes its alarms refuse. The same on all replicas.

A table's size is what its changes take: key, stored pair and CHANGE_BYTES for each, from the command that made them
until a sweep has removed them from a disk. Commands add to it. A sweep is each replica's own affair, so the leader says
through the log what its sweep has removed so far (TABLE_FREED). Without history a command takes off at once what it
replaced.

What a table holds beside its changes counts as well: so much for each lease, and the rows of its users and roles. That
is no counter, but follows from what there is. Who may log in, and for whom, is bounded otherwise (auth_store.py).

A write that may make a table grow is refused once size and cost together reach the quota; cost is what etcd counts. If
not even a sixteenth of the quota is left by then, the table is full: nothing that grows is taken, however small, until
more than that is free again. etcd waits for somebody to clear its alarm; here that is allowed and not needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proto import errors
from proto.etcd import rpc_pb2
from shardworker.machine.auth_store import ROW_BYTES, Kind
from shardworker.machine.ops import Put, Txn

if TYPE_CHECKING:
    import apsw

    from shardworker.machine.auth_store import AuthStore
    from shardworker.machine.handler import Handler
    from shardworker.machine.leases import Leases
    from shardworker.machine.ops import Operation
    from shardworker.machine.tables import TableState

PUT_COST_BYTES: Final = 256
"""etcd's allowance for a put beside its key and value."""

LEASE_BYTES: Final = 512
"""What a lease counts: about what its row takes, and its clock in the memory of each replica."""

FREE_SHARE: Final = 16
"""A table with less than this part of its quota free is full once a write did not fit."""

ALARMS_MAX: Final = 256
"""Raised by hand for one table."""


class AlarmChange(NamedTuple):
    """An alarm that somebody raises or clears."""

    member: int
    alarm: int
    activate: bool
    holds_table: bool
    """The member has a replica of the table, so that the table's being full is an alarm of it too."""


def cost(op: Operation) -> int:
    """Bytes that a write may add, by etcd's rule: of a transaction, those of the branch that adds more; 0 for what can
    only shrink a table."""
    match op:
        case Put():
            return PUT_COST_BYTES + len(op.key) + len(op.value or b"")
        case Txn():
            return max(sum(map(cost, op.success)), sum(map(cost, op.failure)))
        case _:
            return 0


def beside_bytes(table_id: int, leases: Leases, auth: AuthStore) -> int:
    """What the table holds beside its changes."""
    return LEASE_BYTES * len(leases.of_table(table_id)) + auth.size_bytes(table_id)


def read_beside_bytes(connection: apsw.Connection, table_id: int) -> int:
    """The same, as this connection sees it."""
    leases: int = connection.execute("SELECT count(*) FROM leases WHERE table_id = ?", (table_id,)).get
    users_and_roles: int = connection.execute(
        "SELECT ifnull(sum(? + length(name) + length(data)), 0) FROM auth"
        " WHERE table_id = ? AND kind IN (?, ?)",
        (ROW_BYTES, table_id, Kind.USER, Kind.ROLE),
    ).get
    return LEASE_BYTES * leases + users_and_roles


def check_takes(table: TableState, handler: Handler[Any], op: Any, leases: Leases, auth: AuthStore) -> None:
    """Raises QuotaExceeded or CorruptAlarm if the table's alarms or its quota refuse this write."""
    if not (table.quota_bytes or table.alarms or table.full) or handler.under_alarm:
        return
    if handler.administer is not None and handler.cost is None:
        return  # so that root can log in to end an alarm, and take permissions back whatever happens
    if any(alarm == rpc_pb2.CORRUPT for _, alarm in table.alarms):
        raise errors.CorruptAlarm
    if handler.cost is None:
        return
    needed = handler.cost(op)
    if not needed:
        return
    if table.full or any(alarm == rpc_pb2.NOSPACE for _, alarm in table.alarms):
        raise errors.QuotaExceeded(f"table {table.name} is full")
    if table.quota_bytes:
        size_bytes = table.size_bytes + beside_bytes(table.id, leases, auth)
        if size_bytes + needed >= table.quota_bytes:
            raise errors.QuotaExceeded(
                f"table {table.name} holds {size_bytes} of at most {table.quota_bytes} bytes"
            )


def note_refused(table: TableState, leases: Leases, auth: AuthStore) -> None:
    """A write did not fit: the table may be full by now."""
    table.full = table.full or _has_little_free(table, leases, auth)


def note_changed(table: TableState, leases: Leases, auth: AuthStore) -> None:
    """Size or quota changed: there may be space again."""
    table.full = table.full and _has_little_free(table, leases, auth)


def _has_little_free(table: TableState, leases: Leases, auth: AuthStore) -> bool:
    if not table.quota_bytes:
        return False
    enough_free = table.quota_bytes - table.quota_bytes // FREE_SHARE
    return table.size_bytes + beside_bytes(table.id, leases, auth) >= enough_free


def change_alarm(table: TableState, change: AlarmChange) -> bool:
    """Raise or clear an alarm. Whether it is, or was, there. Raises InvalidRequest when there are too many."""
    pair = (change.member, change.alarm)
    if change.activate:
        if pair not in table.alarms:
            if len(table.alarms) >= ALARMS_MAX:
                raise errors.InvalidRequest(f"table {table.name} has {ALARMS_MAX} alarms; clear some")
            table.alarms = tuple(sorted((*table.alarms, pair)))
        return True
    was_full = change.alarm == rpc_pb2.NOSPACE and change.holds_table and table.full
    was_raised = pair in table.alarms
    if was_full:
        table.full = False
    table.alarms = tuple(one for one in table.alarms if one != pair)
    return was_full or was_raised
