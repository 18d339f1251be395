"""Asking a shard what has changed in a table.

Nothing is subscribed to: each question says from which revision on, so any replica can answer it, and the router puts
it to another one when the first goes away. What has been heard is never asked for again, so there is neither gap nor
double.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from coordinator.api.credentials import NOBODY
from coordinator.shards.changes import ask_for_changes
from coordinator.shards.shard_call import LEADER, NEAREST
from coordinator.watch.changes import Change, Gone, Part, Revised, TakenBack
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from coordinator.catalog.table_calls import TableCalls
    from coordinator.shards.driver import Driver
    from coordinator.watch.changes import Told
    from coordinator.watch.inquiry import Question
    from proto.catalog import TableEntry


FOLLOW_WAIT_S: Final = 10.0
"""A replica that has nothing to tell says so after this."""


class Feed(Protocol):
    """Where a watched table's news comes from."""

    async def changes(self, table: TableEntry, question: Question) -> Told:
        """What a replica answers. Raises TableNotFound (perhaps only a replica that lags), and what else a read may
        end with."""

    async def revision(self, table: TableEntry) -> int:
        """Where the table stands: at least where any client has seen it before this was called.

        Raises TableNotFound, NoLeader, and what else a linearizable read may end with."""

    def shown(self, table: TableEntry) -> int:
        """The newest revision of the table that this process has shown to anybody."""


class ShardFeed:
    """The feed of a coordinator: a replica tells what it has applied."""

    def __init__(self, driver: Driver, calls: TableCalls) -> None:
        self._driver = driver
        self._calls = calls
        self._followed_at: dict[int, TableEntry] = {}
        """Tables that have moved, as they are where they are followed now, by id."""

    async def changes(self, table: TableEntry, question: Question) -> Told:
        request = request_of(question, FOLLOW_WAIT_S)
        if question.waits:
            table = self._followed_at.get(table.id, table)
        target = LEADER if question.of_leader else NEAREST
        reply, shard = await ask_for_changes(self._driver, table, request, target=target)
        if shard != table.shard:
            table = replace(table, shard=shard)
            if question.waits:
                self._followed_at[table.id] = table
        self._driver.routes(shard).term_shown(reply.term)  # as the headers of watches will show it
        return told_by(frames.TableChanges.FromString(reply.body))

    async def revision(self, table: TableEntry) -> int:
        return await self._calls.revision(table, who=NOBODY)

    def shown(self, table: TableEntry) -> int:
        return self._calls.shown(table)


def request_of(question: Question, wait_s: float) -> frames.ChangesRequest:
    """The question as a replica is asked. wait_s: how long one that waits may take."""
    return frames.ChangesRequest(
        from_revision=question.first,
        wait_ms=int(wait_s * 1000) if question.waits else 0,
        prev=question.prev,
        checksum=question.checksum,
    )


def told_by(told: frames.TableChanges) -> Told:
    """What a replica answered."""
    if told.taken_back:
        return TakenBack(told.through)
    if told.floor:
        return Gone(told.floor)
    return Part(
        told.first,
        told.through,
        [Revised(each.revision, _changes(each)) for each in told.revisions],
        told.prev,
        told.auth_version,
        told.checksum if told.HasField("checksum") else None,
    )


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
