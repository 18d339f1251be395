"""How a follower cluster's copies stand to the tables of its leader cluster, before one takes the other's place: pure.

A copy has all of a table if it is at the same position, by revision, checksum and the version of its users. Everything
else is no such copy: one that is behind, one of another past, one whose table is gone, a table without a copy, and
whatever is not known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proto.catalog import ELSEWHERE
from proto.regatta import replication_pb2 as replication

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from proto.catalog import TableEntry
    from proto.internal import frames_pb2 as frames

UNKNOWN: Final = "unknown: its cluster does not say where it stands"


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one table."""

    name: str
    revision: int | None
    """Of the copy; None: there is none."""
    lacks: int | None
    """Revisions that the leader cluster has, and the copy has not, as they are counted; None: that is not known, or is
    no matter of how many."""
    why: str
    """What would be lost of the table, in words; "" if nothing would be."""

    @property
    def is_level(self) -> bool:
        """Whether nothing of the table would be lost."""
        return not self.why


def unknown(copies: Mapping[TableEntry, frames.TableStatus]) -> list[Standing]:
    """The leader cluster can't be asked."""
    return [
        Standing(entry.name, status.revision, None, UNKNOWN)
        for entry, status in copies.items()
        if entry.origin != ELSEWHERE
    ]


def compare(
    tables: Iterable[replication.Table],
    copies: Mapping[TableEntry, frames.TableStatus],
    *,
    went_on: bool = False,
) -> list[Standing]:
    """All of the leader cluster's tables, and the copies of those that it has no longer, by name.

    went_on: the tables were changed since they were there, so a copy may have come further."""
    by_origin = {entry.origin: (entry, status) for entry, status in copies.items()}
    standings = []
    for table in tables:
        if table.type != replication.Table.REPLICATED:
            continue
        entry, status = by_origin.pop(table.id, (None, None))
        if entry is None or status is None:
            standings.append(_not_copied(table))
        else:
            standings.append(_copied(table, entry, status, went_on=went_on))
    standings += [
        Standing(entry.name, status.revision, None, "its deletion")
        for origin, (entry, status) in by_origin.items()
        if origin != ELSEWHERE
    ]
    return sorted(standings, key=lambda standing: standing.name)


def _not_copied(table: replication.Table) -> Standing:
    revisions = table.position.revision if table.HasField("position") else None
    return Standing(table.name, None, revisions, "all of it: it is not copied")


def _copied(
    table: replication.Table, entry: TableEntry, status: frames.TableStatus, *, went_on: bool
) -> Standing:
    def stands(lacks: int | None, why: str) -> Standing:
        return Standing(entry.name, status.revision, lacks, why)

    if not table.HasField("position"):
        return stands(None, UNKNOWN)
    there = table.position
    lacks = there.revision - status.revision
    if lacks > 0:
        return stands(lacks, f"{lacks} revision{'s' * (lacks > 1)}")
    if lacks < 0 and went_on:
        return stands(0, "")
    if lacks < 0 or there.checksum != status.checksum:
        return stands(None, f"what came since they parted, up to revision {there.revision}")
    if there.auth_version and 0 < status.auth_version < there.auth_version:
        return stands(0, "the last changes of its users")
    return stands(0, "")


def behind(standings: Sequence[Standing]) -> list[Standing]:
    """Those of which something would be lost."""
    return [standing for standing in standings if not standing.is_level]
