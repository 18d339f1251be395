"""Removes what compaction made unreachable and what deleted or moved tables left, a bounded step at a time, and answers
who waits for a compaction.

A step shares the loop with everything else, and gives way to clients (giving_way.py). etcd's `physical` compaction is
answered when everything below its own revision is gone; one that comes later, or the floor of a table that keeps a
number of revisions, does not hold it up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.raft import NEVER_TICKS
from shardworker.replica.giving_way import Share
from shardworker.replica.part import Part
from shardworker.store import DiskFull

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardworker.machine import Result
    from shardworker.replica.disk_space import DiskSpace
    from shardworker.replica.part import ReplicaContext
    from shardworker.replica.proposals import Waiter

SHARE_MAX: Final = 0.25
"""Of the loop's time while clients want it. A table that is written as fast as its shard can, and keeps few revisions,
needs about 0.15: with less it would grow as long as it is written. Time is by the clock: the busier the machine is
otherwise, the less gets done in it."""

WAITING_MAX: Final = 1_024
"""Compactions that wait for their rows to go; while there are so many no further one is taken."""

log = structlog.get_logger()


class _Owed(NamedTuple):
    table_id: int
    revision: int
    waiter: Waiter
    result: Result


class HistorySweep(Part):
    """The sweep of one replica's tables."""

    def __init__(self, context: ReplicaContext, disk_space: DiskSpace) -> None:
        self._shard = context.shard
        self._store = context.store
        self._machine = context.machine
        self._outgoing = context.outgoing
        self._disk_space = disk_space
        self._keep_bytes = context.cluster.replication.keep_bytes
        self._machine.keep_bytes = self._keep_bytes
        self._rows_max = context.cluster.store.compaction_rows_max
        self._share = Share(context.demand, SHARE_MAX)
        self._refused = False
        self._goes_on = True
        self._owed: list[_Owed] = []

    def check_takes(self, request: frames.Request) -> None:
        """Raises QueueFull for a compaction while too many of them wait."""
        if request.method == frames.ETCD_COMPACT and len(self._owed) >= WAITING_MAX:
            raise errors.QueueFull(f"{len(self._owed)} compactions wait for their rows to be removed")

    def owe(self, command: frames.Command, waiter: Waiter, result: Result) -> bool:
        """Take over whose answer is only due when rows are gone. False if it is due now."""
        revision = self._machine.sweep_awaited(command)
        if revision is None:
            return False
        self._goes_on = True  # not only from the next tick on
        self._owed.append(_Owed(command.table_id, revision, waiter, result))
        return True

    def tick(self) -> None:
        self._refused = False
        self._machine.keep_bytes = 0 if self._disk_space.is_short else self._keep_bytes
        # What is left may have become held meanwhile, for a cluster that follows the table: then the next step finds
        # nothing to do, and answers.
        self._goes_on = self._machine.is_compacting or bool(self._owed)

    def ticks_until_action(self) -> int:
        # A rest that nobody's turn ends is over with the demand.
        return 1 if self._goes_on and not self._refused else NEVER_TICKS

    def has_work(self) -> bool:
        return self._goes_on and not self._refused and self._share.may_step()

    def step(self) -> None:
        """One step, if it is its time."""
        if not self._goes_on or not self._share.may_step():
            return
        began_s = self._share.now_s()
        try:
            with self._store.turn(sync=False):
                self._goes_on = self._machine.compaction_step(self._rows_max) > 0
        except DiskFull as error:
            self._machine.rollback()
            self._refused = True  # until the next tick
            self._disk_space.make_room()
            log.warning("history is not swept: the disk is full", shard=self._shard, reason=str(error))
            return
        self._machine.committed()
        self._share.stepped(began_s)
        self._answer()

    def _answer(self) -> None:
        owed, self._owed = self._owed, []
        for one in owed:
            if self._machine.is_swept(one.table_id, one.revision):
                self._outgoing.answer(one.waiter.identity, one.waiter.call, one.result, is_applied=True)
            else:
                self._owed.append(one)

    def abandon(self, why: str) -> None:
        """Compacted it is, and whoever leads next answers the same request id once its own rows are gone."""
        owed, self._owed = self._owed, []
        for one in owed:
            self._outgoing.refuse(one.waiter.identity, one.waiter.call, errors.LeaderLost(why))

    def drained(self) -> bool:
        return not self._owed

    def statistics(self) -> Mapping[str, int]:
        return {
            "tables_history_held": self._machine.tables_held,
            "compactions_waiting": len(self._owed),
            "dead_tables_unfreed": len(self._machine.dead_tables.unfreed),
            "leftovers": int(self._machine.has_leftovers),
        }
