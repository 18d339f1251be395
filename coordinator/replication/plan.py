"""Which tables a follower cluster has to create, delete and copy, so that it has those of its leader cluster: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proto.catalog import ELSEWHERE
from proto.regatta import replication_pb2 as replication

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from proto.catalog import TableEntry


@dataclass(frozen=True, slots=True)
class Plan:
    """Deletions come first: a table that was deleted and made again there is to be so here."""

    delete: Sequence[TableEntry]
    create: Sequence[replication.Table]
    copy: Sequence[TableEntry]
    adopt: Sequence[tuple[TableEntry, int]]
    """Tables that led before, and those that have taken them over there: they become copies of them."""
    refuse: Mapping[str, str]
    """Tables that are not copied, and why."""


def make_plan(leader: Iterable[replication.Table], entries: Iterable[TableEntry]) -> Plan:
    """leader: all tables of the leader cluster; entries: all of this one, whose own tables stay as they are, and so do
    those that led before and that the leader cluster has no copy of."""
    here = {entry.name: entry for entry in entries if not entry.is_reserved}
    create, copy, adopt = [], [], []
    refuse = {
        name: "it led before, and its cluster has no copy of it: back it up, or delete it"
        for name, entry in here.items()
        if entry.origin == ELSEWHERE
    }
    wanted: set[str] = set()
    for table in leader:
        if table.type != replication.Table.REPLICATED:
            continue
        entry = here.get(table.name)
        if not table.id:
            refuse[table.name] = "its cluster does not say its id: it is no boathouse, or too old"
        elif entry is not None and entry.origin == ELSEWHERE:
            if table.origin == entry.id:
                del refuse[table.name]
                adopt.append((entry, table.id))
        elif entry is not None and not entry.origin:
            refuse[table.name] = "this cluster has a table of its own with that name; delete it, or that one"
        elif entry is None or not _is_copy(entry, table):
            create.append(table)
        else:
            copy.append(entry)
            wanted.add(entry.name)
    gone = [
        entry
        for name, entry in sorted(here.items())
        if entry.origin not in (0, ELSEWHERE) and name not in wanted and name not in refuse
    ]
    return Plan(gone, create, copy, adopt, refuse)


def copies_of(leader: Iterable[replication.Table], entries: Iterable[TableEntry]) -> list[TableEntry]:
    """Those of this cluster's tables that copy one of these, as it is now."""
    tables = {table.name: table for table in leader}
    return [entry for entry in entries if entry.name in tables and _is_copy(entry, tables[entry.name])]


def _is_copy(entry: TableEntry, table: replication.Table) -> bool:
    return bool(table.id) and (entry.origin, entry.history) == (table.id, table.history)
