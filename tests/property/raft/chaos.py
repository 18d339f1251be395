"""A cluster of cores under everything that can go wrong, driven by one source of choices.

The choices come from a seeded generator or from hypothesis; the same choices give the same run. Messages are
lost, repeated and reordered, replicas crash and lose what was not synced, disks fill up, leadership and
membership change. After every action the paper's guarantees are checked, and each answered read against what
was committed when it was asked. `heal` then ends the trouble: the group must elect a leader and commit."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from shardworker.raft import (
    LEAVE_JOINT,
    Accepted,
    Entry,
    LogIndex,
    Membership,
    MembershipChange,
    Message,
    NodeId,
    Raft,
    Role,
    Step,
    StepKind,
)
from tests.unit.raft.replica import Replica, members, settings_of
from tests.unit.raft.safety import SafetyChecker, Violation

if TYPE_CHECKING:
    from collections.abc import Callable

NETWORK_MAX = 300
"""More messages than this under way: the oldest are lost."""


class Choices(Protocol):
    def randrange(self, start: int, stop: int) -> int: ...


@dataclass(frozen=True)
class Trouble:
    """What a run consists of; weights of the actions."""

    voters: int = 3
    learners: int = 0
    spares: int = 2
    pre_vote: bool = True
    check_quorum: bool = True
    election_ticks: int = 5
    append_bytes_max: int = 60
    weights: dict[str, int] = field(
        default_factory=lambda: {
            "turn": 300,
            "deliver": 420,
            "lose": 30,
            "repeat": 20,
            "tick": 130,
            "propose": 60,
            "read": 30,
            "campaign": 3,
            "crash": 4,
            "transfer": 4,
            "disconnect": 6,
            "change": 10,
            "compact": 5,
            "give_up_snapshot": 5,
            "isolate": 4,
            "heal_links": 6,
            "fill_disk": 2,
            "free_disk": 6,
        }
    )

    def reweighted(self, **weights: int) -> Trouble:
        return Trouble(
            self.voters,
            self.learners,
            self.spares,
            self.pre_vote,
            self.check_quorum,
            self.election_ticks,
            self.append_bytes_max,
            {**self.weights, **weights},
        )


class ChaosCluster:
    def __init__(self, choices: Choices, trouble: Trouble, raft_class: type[Raft] = Raft) -> None:
        self._choices = choices
        self._checker = SafetyChecker()
        self._snapshots: dict[LogIndex, tuple[Entry, ...]] = {}
        self.network: list[Message] = []
        self._cut: set[NodeId] = set()
        self._reads = 0
        self._proposals = 0
        self.reads_answered = 0
        learners = range(trouble.voters + 1, trouble.voters + 1 + trouble.learners)
        membership = members(*range(1, trouble.voters + 1), learners=tuple(learners))
        total = trouble.voters + trouble.learners + trouble.spares
        seed = choices.randrange(0, 1 << 30)
        self.replicas = {
            NodeId(number): Replica(
                settings_of(
                    number,
                    election_ticks=trouble.election_ticks,
                    append_bytes_max=trouble.append_bytes_max,
                    inflight_appends_max=4,
                    pre_vote=trouble.pre_vote,
                    check_quorum=trouble.check_quorum,
                ),
                membership if NodeId(number) in membership.nodes() else Membership(frozenset()),
                seed=seed,
                raft_class=raft_class,
                snapshots=self._snapshots,
            )
            for number in range(1, total + 1)
        }
        self._nodes = list(self.replicas)
        self._actions: list[Callable[[], None]] = []
        self._bounds: list[int] = []
        for name, weight in trouble.weights.items():
            self._actions.append(getattr(self, f"_{name}"))
            self._bounds.append(weight + (self._bounds[-1] if self._bounds else 0))

    # ---- a run

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        drawn = self._choices.randrange(0, self._bounds[-1])
        next(action for action, bound in zip(self._actions, self._bounds, strict=True) if drawn < bound)()
        self._check()

    def heal(self) -> None:
        """The trouble ends: some leader must bring an entry to every voter within a bounded time."""
        self._cut.clear()
        for replica in self.replicas.values():
            replica.disk_is_full = False
        for _ in range(400):
            for replica in self.replicas.values():
                replica.raft.tick()
            for node in self._nodes:
                self._report_snapshots(node)
            self._settle()
            if self._serves():
                return
        raise Violation("liveness: no leader commits after everything was healed")

    def _serves(self) -> bool:
        """Whether one leader commits a new entry on every voter."""
        leaders = [replica for replica in self.replicas.values() if replica.raft.role is Role.LEADER]
        for leader in leaders:
            answer = leader.raft.propose(b"after")
            self._settle()
            if isinstance(answer, Accepted) and leader.disk.applied >= answer.index:
                voters = leader.raft.membership.voters
                return all(self.replicas[node].disk.applied >= answer.index for node in voters)
        return False

    def _settle(self) -> None:
        for _ in range(100):
            for node in self._nodes:
                while self.replicas[node].raft.has_ready():
                    self._turn_of(node)
            arriving, self.network = self.network, []
            for message in arriving:
                self.replicas[message.to].raft.step(message)
            self._check()
            if not arriving:
                return

    # ---- actions

    def _node(self) -> NodeId:
        return self._nodes[self._choices.randrange(0, len(self._nodes))]

    def _turn(self) -> None:
        self._turn_of(self._node())

    def _turn_of(self, node: NodeId) -> None:
        replica = self.replicas[node]
        _, sent = replica.turn()
        self.network += [m for m in sent if m.to not in self._cut and node not in self._cut]
        del self.network[:-NETWORK_MAX]

    def _deliver(self) -> None:
        if self.network:
            message = self.network.pop(self._choices.randrange(0, len(self.network)))
            self.replicas[message.to].raft.step(message)

    def _lose(self) -> None:
        if self.network:
            self.network.pop(self._choices.randrange(0, len(self.network)))

    def _repeat(self) -> None:
        if self.network:
            self.network.append(self.network[self._choices.randrange(0, len(self.network))])

    def _tick(self) -> None:
        self.replicas[self._node()].raft.tick()

    def _propose(self) -> None:
        self._proposals += 1
        self.replicas[self._node()].raft.propose(b"%d" % self._proposals)

    def _read(self) -> None:
        self._reads += 1
        if isinstance(self.replicas[self._node()].raft.read_index(self._reads), Accepted):
            self._checker.read_asked(self._reads)

    def _campaign(self) -> None:
        self.replicas[self._node()].raft.campaign()

    def _crash(self) -> None:
        self.replicas[self._node()].crash_and_restart()

    def _transfer(self) -> None:
        self.replicas[self._node()].raft.transfer_leadership(self._node())

    def _disconnect(self) -> None:
        self.replicas[self._node()].raft.report_disconnected(self._node())

    def _change(self) -> None:
        raft = self.replicas[self._node()].raft
        if raft.membership.is_joint and raft.membership.auto_leave is False:
            raft.propose_membership(LEAVE_JOINT)
            return
        steps = tuple(
            Step(StepKind(self._choices.randrange(1, 4)), self._node())
            for _ in range(1 + self._choices.randrange(0, 2))
        )
        raft.propose_membership(MembershipChange(steps))

    def _compact(self) -> None:
        replica = self.replicas[self._node()]
        replica.compact(keep_entries=self._choices.randrange(0, 5))

    def _give_up_snapshot(self) -> None:
        self._report_snapshots(self._node())

    def _report_snapshots(self, node: NodeId) -> None:
        """The transport gives up the transfers that this leader has under way."""
        raft = self.replicas[node].raft
        for peer, progress in raft.status().progress.items():
            if progress.state == "snapshot":
                raft.report_snapshot(peer, ok=False)

    def _isolate(self) -> None:
        if len(self._cut) < 2:
            self._cut.add(self._node())

    def _heal_links(self) -> None:
        self._cut.clear()

    def _fill_disk(self) -> None:
        self.replicas[self._node()].disk_is_full = True

    def _free_disk(self) -> None:
        for replica in self.replicas.values():
            replica.disk_is_full = False

    # ---- checks

    def _check(self) -> None:
        self._checker.check(self.replicas)
        self.reads_answered += self._checker.check_reads(self.replicas)


def run_seed(seed: int, trouble: Trouble, *, steps: int, raft_class: type[Raft] = Raft) -> ChaosCluster:
    """One whole run from one seed: trouble, then healing."""
    cluster = ChaosCluster(random.Random(seed), trouble, raft_class)
    cluster.run(steps)
    cluster.heal()
    return cluster
