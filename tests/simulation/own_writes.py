"""Who was answered through a coordinator reads there what he knows, serializably as well, as from a member of etcd.

Each coordinator has a client of its own, and says with its reads what that one was shown. A replica that lags waits:
for its leader, unless it can do without, because its log has already what the coordinator knows to be committed. One
that cannot, and hears nothing for long, answers with what it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from shardworker.raft import LogIndex, Term
from shardworker.replica.reads import CATCH_UP_MS
from tests.simulation.violation import Violation
from tests.simulation.world import MS

if TYPE_CHECKING:
    from coordinator.shards.router import CommitPoint
    from tests.simulation.cluster import Cluster

WAIT_US_MIN: Final = CATCH_UP_MS * MS // 2
"""Clocks may go faster than the world's."""


class Known(NamedTuple):
    """As a read is sent to a replica."""

    node: int
    life: int
    sent_us: int
    revision: int
    committed: CommitPoint
    is_in_log: bool
    """Whether the replica could do without its leader."""


class OwnWrites:
    """Reads that may be stale are no older than what their coordinator has answered."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def asked(self, node: int, revision: int, committed: CommitPoint) -> Known:
        """Note what the coordinator knows, and what this replica has, when a read is about to be sent to it."""
        host, process = self._cluster.hosts[node - 1], self._cluster.hosts[node - 1].process
        generation, index, term = committed
        is_in_log = (
            process is not None
            and not host.full
            and process.core.membership.generation == generation
            and process.core.log.matches(LogIndex(index), Term(term))
        )
        return Known(node, host.lives, self._cluster.world.now_us, revision, committed, is_in_log)

    def answered(self, known: Known, revision: int, applied: CommitPoint) -> None:
        """The read that was sent with `known` shows this revision, from a replica that has applied so much."""
        if revision >= known.revision or applied >= known.committed:
            return
        host = self._cluster.hosts[known.node - 1]
        waited_us = self._cluster.world.now_us - known.sent_us
        self._cluster.counts["read-cut-off"] += 1
        if known.is_in_log and host.lives == known.life and not host.full:
            raise Violation(
                "own-writes",
                f"n{known.node} showed revision {revision} to who had been shown {known.revision}, and its log had it",
            )
        if waited_us < WAIT_US_MIN:
            raise Violation(
                "own-writes",
                f"n{known.node} showed revision {revision} to who had been shown {known.revision}, and waited for "
                f"{waited_us // MS} ms",
            )
