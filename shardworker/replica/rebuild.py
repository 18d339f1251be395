"""To start again from nothing but identity, term and vote, and to be rebuilt from the leader.

It begins with the end of this process (`ReplicaStore.begin_rebuild` writes what the next one starts from). A replica
without a membership is sent a snapshot by the leader. Until it has applied everything up to the last entry it had
before, or any entry of a later term, it neither serves nor takes part in elections: it has acknowledged entries that it
lost, and if it voted before it has them again, somebody who never had them could win. It keeps its term and vote, so it
votes for nobody twice; and it acknowledges only what it has, so commits stay true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import structlog

from proto import errors
from shardworker.raft import NodeId
from shardworker.replica.part import Part
from shardworker.store import DiskFull

if TYPE_CHECKING:
    from shardworker.replica.part import ReplicaContext
    from shardworker.store import Promises, ReplicaStore

log = structlog.get_logger()


class RebuildBegun(Exception):
    """The replica's folder holds a replica that waits to be rebuilt; this process has to end."""


def has_peers(store: ReplicaStore) -> bool:
    """Whether there is anybody to rebuild this replica from."""
    return bool({*store.membership.nodes()} - {NodeId(store.identity.node)})


def begin_rebuild(store: ReplicaStore, reason: str, lost: Promises | None = None) -> NoReturn:
    """Start over. What the store has in memory is what this replica has promised, whatever became of the disk; unless
    it is known from others, as `lost`. Raises RebuildBegun once that is on disk."""
    store.begin_rebuild(reason, lost)
    raise RebuildBegun(f"{reason}; this replica starts again from nothing, and is rebuilt from the leader")


class Rebuild(Part):
    """The end of a rebuild that an earlier process of this replica began."""

    def __init__(self, context: ReplicaContext) -> None:
        self._store = context.store
        self._log = log.bind(shard=context.shard, node=context.node)
        if self._store.rebuild is not None:
            self._log.warning("this replica is being rebuilt", until=str(self._store.rebuild.until))

    @property
    def votes(self) -> bool:
        return self._store.rebuild is None

    @property
    def fault(self) -> errors.BoathouseError | None:
        mark = self._store.rebuild
        if mark is None:
            return None
        return errors.Corrupt(
            f"{mark.reason}; it is being rebuilt from the leader and serves again once it has applied "
            f"{mark.until}, or an entry of a later term (now {self._store.applied})"
        )

    def end_turn(self) -> None:
        mark = self._store.rebuild
        if mark is None or self._store.applied < mark.until:
            return
        try:
            with self._store.turn(sync=True) as turn:
                turn.end_rebuild()
        except DiskFull as error:
            self._log.warning("the rebuild cannot be ended yet", reason=str(error))
            return
        self._log.info("this replica is rebuilt and serves again", index=self._store.applied_index)
