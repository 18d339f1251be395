"""Is a database what it should be? Every check that needs no second replica.

Reads only, so it runs beside a worker, on a stopped replica, and on a file that was copied somewhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw

from proto.errors import Corrupt
from shardworker.store import database
from shardworker.store.errors import IdentityMismatch
from shardworker.store.records import checked_entry, text_is_damage

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardworker.raft.types import Membership

_FINDINGS_MAX = 20
"""Of one kind; a broken disk can have millions."""


def verify(connection: apsw.Connection) -> list[str]:
    """What is wrong with the replica's database, a sentence each; empty if nothing is.

    Checks SQLite's pages and indexes, the checksum of every row of ours, that the log has no gap and its
    terms never fall, that positions agree with each other and with the log, and that the membership makes
    sense. Takes seconds for a million keys."""
    found: list[str] = []
    try:
        pages = connection.execute(f"PRAGMA integrity_check({_FINDINGS_MAX})")
        found += [f"SQLite: {row[0]}" for row in pages if row[0] != "ok"]
    except apsw.Error as error:
        found.append(f"SQLite cannot read its pages: {error}")
    for check in (_identity, _membership, _log):
        found += _findings(check, connection)
    return found


def _findings(check: Callable[[apsw.Connection], list[str]], connection: apsw.Connection) -> list[str]:
    try:
        return check(connection)
    except (Corrupt, IdentityMismatch) as error:
        return [str(error)]
    except apsw.Error as error:
        return [f"SQLite: {error}"]
    except (ValueError, KeyError, TypeError) as error:
        return [f"a row with a good checksum cannot be decoded: {error!r}"]


def _identity(connection: apsw.Connection) -> list[str]:
    identity = database.read_identity(connection)
    return (
        [] if identity.cluster_id and identity.shard and identity.node else [f"no valid identity: {identity}"]
    )


def _membership(connection: apsw.Connection) -> list[str]:
    return membership_findings(
        database.read_membership(connection), database.read_state(connection).applied_index
    )


def membership_findings(membership: Membership, applied_index: int) -> list[str]:
    """What no sequence of membership changes can lead to."""
    found = []
    if applied_index and not membership.voters:
        found.append(f"entries up to {applied_index} are applied, but the membership has no voter")
    if both := membership.learners & (membership.voters | membership.voters_outgoing):
        found.append(f"nodes {sorted(both)} are learners and voters at once")
    if strays := membership.learners_next - membership.voters_outgoing:
        found.append(f"nodes {sorted(strays)} are to become learners, but are no outgoing voters")
    if membership.auto_leave and not membership.voters_outgoing:
        found.append("the membership is to leave a joint state that it is not in")
    return found


@text_is_damage("a row of the log")
def _log(connection: apsw.Connection) -> list[str]:
    state = database.read_state(connection)
    found = []
    last, term = state.truncated_index, state.truncated_term
    for row in connection.execute("SELECT idx, term, kind, crc, data FROM log ORDER BY idx"):
        try:
            entry = checked_entry(*row)
            if entry.index != last + 1:
                found.append(f"the log goes from index {last} to {entry.index}: entries are missing")
            if entry.term < term:
                found.append(f"the log's term falls from {term} to {entry.term} at index {entry.index}")
            term = entry.term
        except Corrupt as error:
            found.append(str(error))
        last = row[0]
        if len(found) >= _FINDINGS_MAX:
            return [*found, "and perhaps more"]
    try:
        database.check_state(state, last)
    except Corrupt as error:
        found.append(str(error))
    if term > state.term:
        found.append(f"the log ends in term {term}, but the replica knows only term {state.term}")
    return found
