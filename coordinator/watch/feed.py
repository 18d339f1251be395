"""Asking a shard what has changed in a table.

Nothing is subscribed to: each question says from which revision on, so any replica can answer it, and the router puts
it to another one when the first goes away. What has been heard is never asked for again, so there is neither gap nor
double.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from coordinator.auth.credentials import NOBODY
from coordinator.shards.changes import ask_for_changes
from coordinator.watch.changes import Change, Part, Revised
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from coordinator.shards.driver import Driver
    from coordinator.shards.table_calls import TableCalls
    from proto.catalog import TableEntry


class HistoryGone(Exception):
    """What was asked for can't be told any more: the oldest revision that can is `floor`."""

    def __init__(self, floor: int) -> None:
        super().__init__(f"revisions below {floor} are compacted")
        self.floor = floor


class Feed(Protocol):
    """Where a watched table's news comes from."""

    async def changes(
        self, table: TableEntry, first: int, *, prev: bool = False, wait_s: float = 0.0
    ) -> Part:
        """What has changed from this revision on, or at least its beginning; prev: with the pairs before.

        wait_s: as a follower, wait so long for something to happen, and hear of what is compacted meanwhile; 0: read
        what can be read. first 0: only where the table stands, as the end of an empty part. Raises HistoryGone,
        TableNotFound (perhaps only a replica that lags), and what else a read may end with."""

    async def revision(self, table: TableEntry) -> int:
        """Where the table stands: at least where any client has seen it before this was called.

        Raises TableNotFound, NoLeader, and what else a linearizable read may end with."""


class ShardFeed:
    """The feed of a coordinator: from the nearest replica, which tells what it has applied."""

    def __init__(self, driver: Driver, calls: TableCalls) -> None:
        self._driver = driver
        self._calls = calls
        self._followed_at: dict[int, TableEntry] = {}
        """Tables that have moved, as they are where they are followed now, by id."""

    async def changes(
        self, table: TableEntry, first: int, *, prev: bool = False, wait_s: float = 0.0
    ) -> Part:
        request = frames.ChangesRequest(from_revision=first, wait_ms=int(wait_s * 1000), prev=prev)
        if wait_s:
            table = self._followed_at.get(table.id, table)
        reply, shard = await ask_for_changes(self._driver, table, request)
        if shard != table.shard:
            table = replace(table, shard=shard)
            if wait_s:
                self._followed_at[table.id] = table
        self._calls.term_shown(table, reply.term)
        return part_of(frames.TableChanges.FromString(reply.body))

    async def revision(self, table: TableEntry) -> int:
        return await self._calls.revision(table, who=NOBODY)


def part_of(told: frames.TableChanges) -> Part:
    """What a replica told. Raises HistoryGone."""
    if told.floor:
        raise HistoryGone(told.floor)
    revised = [Revised(each.revision, _changes(each)) for each in told.revisions]
    return Part(told.first, told.through, revised, told.prev, told.auth_version)


def _changes(told: frames.RevisionChanges) -> list[Change]:
    changes = [Change(key.key, key.kv or None, key.prev or None) for key in told.keys]
    if len(changes) == 1:
        return changes
    # What a transaction changes twice has twice the same pair before, as in etcd: the one that readers could see. But a
    # put that makes a key anew has none.
    before: dict[bytes, bytes | None] = {}
    for change in changes:
        before.setdefault(change.key, change.prev)
    if len(before) == len(changes):
        return changes
    return [change._replace(prev=change.prev and before[change.key]) for change in changes]
