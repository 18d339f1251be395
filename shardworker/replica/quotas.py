"""Keeps the replicated books of what tables may hold, and of what they hold.

Quotas stand in the cluster file or, of tables that were created with one, in the catalog, of which coordinators tell.
What has been removed from the disk is known to each replica's own sweep. Both decide which writes are refused, so all
replicas have to go by the same numbers: the leader puts its own into the log when they differ from what the shard has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.catalog import FIRST_TABLE_ID, WITHOUT_QUOTA
from proto.internal import frames_pb2 as frames
from shardworker.raft import NEVER_TICKS, Role
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shardworker.machine.tables import TableState
    from shardworker.replica.part import ReplicaContext
    from shardworker.replica.proposals import Proposals

ROUND_MS: Final = 1_000
"""The leader looks this often, besides when there is news: at what was removed, above all."""


class Quotas(Part):
    """The leader's look at its tables, and the door for writes to a table whose alarm is known."""

    def __init__(self, context: ReplicaContext, proposals: Proposals) -> None:
        self._core = context.core
        self._machine = context.machine
        self._cluster = context.cluster
        self._proposals = proposals
        self._round_ticks = max(1, ROUND_MS // context.cluster.raft.tick_ms)
        self._ticks_left = 0
        self._seen = (0, 0)
        """The term in which this replica led, and how many tables had come to be, when it last looked for new ones."""
        self._known: set[int] = set()
        """Ids of the tables that were there then."""
        self._made_with: dict[int, int] = {}
        """By table id, as coordinators have said it. It never changes, so what one of them does not know yet is no
        news. But ids only rise: a table that is missing beside a newer one was deleted."""

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        if not envelope.HasField("table_quotas"):
            return
        told = dict(envelope.table_quotas.quotas)
        newest = max(told, default=0)
        later = {table_id: quota for table_id, quota in self._made_with.items() if table_id > newest}
        news = told.items() - self._made_with.items()
        self._made_with = told | later
        # Whoever tells of a table sends writes to it on the same link, and afterwards.
        if news and self._core.role is Role.LEADER:
            self._look(table_id for table_id, _ in news)

    def check_takes(self, request: frames.Request) -> None:
        """Raises QuotaExceeded or CorruptAlarm for a write that would be refused when it is applied."""
        self._machine.check_takes(request)

    def tick(self) -> None:
        if self._core.role is not Role.LEADER:
            self._ticks_left = 0
            return
        self._ticks_left -= 1
        if self._ticks_left > 0:
            return
        self._ticks_left = self._round_ticks
        self._look(self._machine.tables.ids)

    def end_turn(self) -> None:
        """What came to be in this turn is looked at before anybody hears of it, and so can write to it; what there is
        as soon as this replica leads."""
        if self._core.role is not Role.LEADER:
            return
        seen = (self._core.term, self._machine.tables.made_count)
        if seen == self._seen:
            return
        known = self._known if seen[0] == self._seen[0] else set()
        self._seen, self._known = seen, set(self._machine.tables.ids)
        self._look(self._known - known)

    def _look(self, table_ids: Iterable[int]) -> None:
        for table_id in sorted(table_ids):
            table = self._machine.tables.get(table_id)
            if table is not None and table_id >= FIRST_TABLE_ID:
                self._look_at(table)

    def _look_at(self, table: TableState) -> None:
        quota_bytes = self._quota_bytes(table)
        if table.quota_bytes != quota_bytes:
            self._propose(frames.TABLE_QUOTA, table, frames.TableQuota(quota_bytes=quota_bytes))
        if table.swept_bytes > table.freed_bytes:
            self._propose(frames.TABLE_FREED, table, frames.TableFreed(total_bytes=table.swept_bytes))

    def _quota_bytes(self, table: TableState) -> int:
        """The newest word counts, which is the file's, and that of one table before that of all. Where nobody has said
        yet what a table was made with, its quota stays."""
        of_file = self._cluster.table_quota(table.name)
        if of_file is not None:
            return of_file
        made_with = self._made_with.get(table.id)
        if made_with is None:
            return table.quota_bytes
        return self._cluster.limits.table_quota if made_with == WITHOUT_QUOTA else made_with

    def _propose(
        self,
        method: frames.Method.ValueType,
        table: TableState,
        body: frames.TableQuota | frames.TableFreed,
    ) -> None:
        """What is lost with this leadership is proposed again by the next leader; a repeat changes nothing."""
        self._proposals.add_own(method, body.SerializeToString(), table_id=table.id)

    def ticks_until_action(self) -> int:
        return max(1, self._ticks_left) if self._core.role is Role.LEADER else NEVER_TICKS

    def statistics(self) -> Mapping[str, int]:
        return {"tables_full": sum(table.full for table in self._machine.tables)}
