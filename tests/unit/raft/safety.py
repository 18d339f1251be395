"""The guarantees of the paper's figure 3, checked on a set of replicas after every step.

(Leader append-only, the remaining line there, holds because only LogView.append writes, and a leader only
calls it with the next index.)"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardworker.raft import Entry, LogIndex, Membership, NodeId, Role, Term

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.unit.raft.replica import Replica


class Violation(AssertionError):
    """A guarantee of the paper does not hold."""


class SafetyChecker:
    def __init__(self) -> None:
        self.leaders: dict[Term, NodeId] = {}
        self.committed: dict[LogIndex, Entry] = {}
        """Every entry that any replica ever applied, and the term in which that was first seen, below."""
        self._committed_in: dict[LogIndex, Term] = {}
        self._reads: dict[int, LogIndex] = {}
        self._memberships: dict[LogIndex, Membership] = {}

    def read_asked(self, context: int) -> None:
        """A leader took a read: its answer must not lie before what is committed now (thesis 6.4)."""
        self._reads[context] = max(self.committed, default=LogIndex(0))

    def check_reads(self, replicas: Mapping[NodeId, Replica]) -> int:
        """How many reads were answered since the last time."""
        answered = 0
        for node, replica in replicas.items():
            for read in replica.reads:
                newest = self._reads[read.context]
                if read.index < newest:
                    raise Violation(f"stale read: {node} reads at {read.index}, when asked it was {newest}")
            answered += len(replica.reads)
            replica.reads.clear()
        return answered

    def check(self, replicas: Mapping[NodeId, Replica]) -> None:
        for node, replica in replicas.items():
            self._check_election_safety(node, replica)
            self._check_state_machine_safety(node, replica)
            self._check_membership(node, replica)
        for node, replica in replicas.items():
            self._check_leader_completeness(node, replica)
        self._check_log_matching(list(replicas.values()))

    def _check_election_safety(self, node: NodeId, replica: Replica) -> None:
        if replica.raft.role is Role.LEADER:
            other = self.leaders.setdefault(replica.raft.term, node)
            if other != node:
                raise Violation(f"election safety: {other} and {node} both lead term {replica.raft.term}")

    def _check_state_machine_safety(self, node: NodeId, replica: Replica) -> None:
        for entry in reversed(replica.disk.state):
            if entry.index in self.committed and self.committed[entry.index] is entry:
                break
            known = self.committed.setdefault(entry.index, entry)
            self._committed_in.setdefault(entry.index, replica.raft.term)
            if known != entry:
                raise Violation(f"state machine safety: {node} applied {entry}, others {known}")

    def _check_membership(self, node: NodeId, replica: Replica) -> None:
        """A membership follows from what is applied: equal applied indexes mean equal memberships."""
        raft = replica.raft
        if raft.membership.voters and raft.log.pending_snapshot is None:
            known = self._memberships.setdefault(raft.log.applied, raft.membership)
            if known != raft.membership:
                at = raft.log.applied
                raise Violation(f"membership: {node} at {at} has {raft.membership}, others {known}")

    def _check_leader_completeness(self, node: NodeId, replica: Replica) -> None:
        raft = replica.raft
        if raft.role is not Role.LEADER:
            return
        first = raft.log.first_index()
        for index, entry in self.committed.items():
            # A leader deposed without knowing it may lack what later terms committed.
            if index < first or self._committed_in[index] > raft.term:
                continue
            if not raft.log.matches(index, entry.term):
                raise Violation(f"leader completeness: {node} leads term {raft.term} without {entry}")

    def _check_log_matching(self, replicas: list[Replica]) -> None:
        logs = [{entry.index: entry for entry in whole_log(replica)} for replica in replicas]
        for position, log in enumerate(logs):
            for other in logs[position + 1 :]:
                self._check_pair(log, other)

    def _check_pair(self, log: dict[LogIndex, Entry], other: dict[LogIndex, Entry]) -> None:
        agreed = False
        for index in sorted(log.keys() & other.keys(), reverse=True):
            agreed = agreed or log[index].term == other[index].term
            if agreed and log[index] != other[index]:
                raise Violation(f"log matching: {log[index]} and {other[index]} below an equal entry")


def whole_log(replica: Replica) -> Iterable[Entry]:
    """What a replica has, durable or not."""
    log = replica.raft.log
    return log.entries(log.first_index(), LogIndex(log.last_index + 1), 1 << 40)
