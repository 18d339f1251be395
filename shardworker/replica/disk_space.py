"""What a full disk changes: writes are refused in good time, and leadership moves to a node with space.

ROOMY: everything is taken. NEARLY_FULL: there is less than the reserve, which is kept for what is in flight and for
what frees space; other writes are refused. REFUSED: the disk took nothing of the last turn, which is tried again once a
tick; what the replica has held back for that moment (store/spare.py) is given up, and held again when everything is
taken again. Where nothing is held, iterations end that keep the write-ahead log from starting over, the oldest first:
in what it has something may still be written. Pages of the database that hold nothing any more count as space: who
deletes and compacts may write again, though the file does not shrink. Back to ROOMY it goes with twice the reserve, so
that it does not change with every file.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import structlog

from proto import errors
from proto.methods import frees_space
from shardworker.raft import NEVER_TICKS, Role
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proto.internal import frames_pb2 as frames
    from shardworker.replica.cursors import Cursors
    from shardworker.replica.leadership import Leadership
    from shardworker.replica.part import ReplicaContext
    from shardworker.store import DiskFull

FULL_ELECTIONS: Final = 5
"""Election timeouts after which a leader whose disk is full tries again to hand over. Not sooner: where all disks are
full, leadership goes from one to the next."""

log = structlog.get_logger()


class Space(enum.Enum):
    """See the module."""

    ROOMY = "roomy"
    NEARLY_FULL = "nearly full"
    REFUSED = "refused"


class DiskSpace(Part):
    """The space on one replica's disk."""

    def __init__(self, context: ReplicaContext, leadership: Leadership, cursors: Cursors) -> None:
        self._shard = context.shard
        self._node = context.node
        self._core = context.core
        self._store = context.store
        self._leadership = leadership
        self._cursors = cursors
        self._reserve_bytes = context.cluster.store.disk_free_bytes_min
        self._spare_bytes = context.cluster.store.spare_bytes
        self._patience_ticks = FULL_ELECTIONS * context.cluster.raft.election_ticks
        self._leading_ticks = 0
        self._tried = False
        self.space = Space.ROOMY

    @property
    def is_short(self) -> bool:
        """Whether writes are refused."""
        return self.space is not Space.ROOMY

    def check_takes(self, request: frames.Request) -> None:
        """Raises NoSpace if a write must wait for space."""
        if self.space is Space.ROOMY or (self.space is Space.NEARLY_FULL and frees_space(request)):
            return
        raise errors.NoSpace(f"the disk of node {self._node} is full")

    def _room_bytes(self) -> int:
        """What may still be written, in the end: to the disk, and into pages of the database that hold nothing any
        more. With less than half of the reserve on the disk these do not count, since whatever is written goes to the
        write-ahead log first."""
        free_bytes = self._store.free_bytes()
        if not self._reserve_bytes // 2 <= free_bytes <= self._roomy_bytes:
            return free_bytes
        return free_bytes + self._store.reusable_bytes()

    @property
    def _roomy_bytes(self) -> int:
        """With more than this everything is taken again; what was given up is to find its place, too."""
        return 2 * self._reserve_bytes + self._store.spare.given_up_bytes

    @property
    def may_write(self) -> bool:
        """Whether a turn may try to write: after a refusal not before the next tick."""
        return not self._tried

    def refused(self, error: DiskFull) -> None:
        """The disk took nothing of this turn."""
        if self.space is Space.ROOMY:
            log.error("the disk is full: writes are refused", shard=self._shard, reason=str(error))
        self.space = Space.REFUSED
        self._tried = True
        self.make_room()
        self._leadership.hand_over()

    def make_room(self) -> None:
        """The disk took nothing of what frees space: there is to be some for the next try."""
        if not self.give_up_spare():
            self._cursors.close_oldest(f"the disk of node {self._node} is full")

    def give_up_spare(self) -> bool:
        """Whether anything was held back for what frees space, which is there now."""
        spare = self._store.spare
        if not spare.held_bytes:
            return False
        log.warning("what was held back is given up for what frees space", shard=self._shard)
        spare.give_up()
        return True

    def written(self) -> None:
        """The disk took a turn."""
        if self.space is Space.REFUSED:
            self.space = Space.NEARLY_FULL

    def tick(self) -> None:
        """Refuse writes while there is still room for what is already in flight; accept again with some margin."""
        self._tried = False
        room_bytes = self._room_bytes()
        if self.space is Space.ROOMY and room_bytes < self._reserve_bytes:
            log.warning(
                "the disk is nearly full: only what frees space is taken",
                shard=self._shard,
                room_bytes=room_bytes,
            )
            self.space = Space.NEARLY_FULL
            self._leadership.hand_over()
        elif self.space is Space.NEARLY_FULL and room_bytes > self._roomy_bytes:
            log.info("there is space again: writes are accepted", shard=self._shard, room_bytes=room_bytes)
            self.space = Space.ROOMY
        elif self.space is not Space.ROOMY and self._core.role is Role.LEADER:
            # Nobody could take over then, or this replica was elected since.
            self._leading_ticks += 1
            if self._leading_ticks >= self._patience_ticks and self._leadership.hand_over():
                self._leading_ticks = 0
        elif self.space is Space.ROOMY and self._store.spare.held_bytes < self._spare_bytes:
            self._hold_spare()

    def _hold_spare(self) -> None:
        """Not where it would bring the disk near to being full."""
        if self._store.free_bytes() > 2 * self._reserve_bytes + self._spare_bytes:
            self._store.spare.hold(self._spare_bytes)

    def ticks_until_action(self) -> int:
        return 1 if self.is_short else NEVER_TICKS

    def statistics(self) -> Mapping[str, int]:
        return {"disk_free_bytes": self._store.free_bytes()}
