"""Gives pages of the database that hold nothing back to the disk, a few at a time.

SQLite moves pages from the end of the file into free ones, and cuts the end off. A step shares the loop with all the
rest, so nobody waits for more than one, and gives way to clients (giving_way.py); what becomes free meanwhile is for
the next time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine import Result
from shardworker.raft import NEVER_TICKS
from shardworker.replica.giving_way import Share
from shardworker.replica.part import Part
from shardworker.replica.proposals import Waiter
from shardworker.store import DiskFull

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardworker.replica.disk_space import DiskSpace
    from shardworker.replica.part import Handler, ReplicaContext

STEP_PAGES: Final = 64
"""A quarter of a megabyte: a millisecond or two."""
SHARE_MAX: Final = 0.25
"""Of the loop's time while clients want it."""
WAITING_MAX: Final = 1_024

log = structlog.get_logger()


class Defragment(Part):
    """The free pages of one replica."""

    def __init__(self, context: ReplicaContext, disk_space: DiskSpace) -> None:
        self._shard = context.shard
        self._store = context.store
        self._outgoing = context.outgoing
        self._disk_space = disk_space
        self._waiting: list[Waiter] = []
        self._pages_left = 0
        self._share = Share(context.demand, SHARE_MAX)

    def methods(self) -> Mapping[int, Handler]:
        return {frames.DEFRAGMENT: self._begin}

    def _begin(self, identity: bytes, request: frames.Request) -> None:
        """Begin, or wait for what is under way. Raises QueueFull."""
        if len(self._waiting) >= WAITING_MAX:
            raise errors.QueueFull(f"{len(self._waiting)} calls wait for free pages to be given back")
        self._waiting.append(Waiter(identity, request.call))
        if self._pages_left <= 0:
            self._pages_left = self._store.free_pages()

    def ticks_until_action(self) -> int:
        return 1 if self._waiting else NEVER_TICKS

    def has_work(self) -> bool:
        return bool(self._waiting) and self._share.may_step()

    def end_turn(self) -> None:
        if not self._waiting or not self._share.may_step():
            return
        began_s = self._share.now_s()
        try:
            with self._store.turn(sync=False):
                left = self._store.give_back_pages(STEP_PAGES) if self._pages_left > 0 else 0
        except DiskFull as error:
            if self._disk_space.give_up_spare():
                return  # the next turn goes on
            log.warning("free pages are not given back: the disk is full", shard=self._shard)
            self._end(errors.NoSpace(f"the disk is full: {error}"))
            return
        self._share.stepped(began_s)
        self._pages_left -= STEP_PAGES
        if self._pages_left <= 0 or left == 0:
            self._end(None)

    def _end(self, error: errors.BoathouseError | None) -> None:
        waiting, self._waiting, self._pages_left = self._waiting, [], 0
        for waiter in waiting:
            self._outgoing.answer(waiter.identity, waiter.call, Result(0, b"", error))

    def drained(self) -> bool:
        return not self._waiting

    def statistics(self) -> Mapping[str, int]:
        return {"defragments_waiting": len(self._waiting)}
