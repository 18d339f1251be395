"""Tables of a cluster that speaks no replication but Regatta's: pure.

It tells their names and nothing else: no ids, no settings, nor who it is. So a table that is deleted and made again
there is the same one here, until its copier sees that it has another log (regatta_copier.py); and nothing tells such a
cluster from another one like it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.replication.leader import Unfit
from proto.catalog import ELSEWHERE, REGATTA
from proto.regatta import replication_pb2 as replication

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from config import FollowsConfig
    from proto.catalog import TableEntry

HISTORY: Final = 10_000
"""Of such a copy: its revisions are its own, so nobody there compacts them, as a leader cluster of ours does."""


def check_new(follows: FollowsConfig, known: str) -> None:
    """known: the identity under which that cluster was followed before, "" if it was not. Raises Unfit if it had one:
    it spoke our replication, and what answers now is another cluster."""
    if follows.identity or known:
        raise Unfit(
            f"what answers at {', '.join(follows.endpoints)} speaks no replication but Regatta's, and is not the"
            f" cluster {follows.cluster} of identity {follows.identity or known}"
        )


def by_name(told: Iterable[replication.Table], entries: Collection[TableEntry]) -> list[replication.Table]:
    """Its tables, as if they had ids and settings: those of their copies here, if there are any. Raises Unfit if this
    cluster has copies of another leader cluster's tables, which would be deleted for want of any like them there; or
    copies of this one's, of which it tells none any more: it may have lost them."""
    tables = list(told)
    for entry in entries:
        if entry.origin not in (0, ELSEWHERE, REGATTA):
            raise Unfit(
                f"it speaks no replication but Regatta's, and table {entry.name} was copied from a cluster of ours:"
                " promote this cluster to keep what it holds"
            )
    copies = [entry.name for entry in entries if entry.origin == REGATTA]
    if copies and not tables:
        raise Unfit(
            f"it tells of no table at all, and {len(copies)} of its are copied here, which are not deleted: promote"
            " this cluster to keep what it holds, or make a table there if all were meant to go"
        )
    history = {entry.name: entry.history for entry in entries if entry.origin == REGATTA}
    return [
        replication.Table(
            name=table.name, type=table.type, id=REGATTA, history=history.get(table.name, HISTORY)
        )
        for table in tables
    ]
