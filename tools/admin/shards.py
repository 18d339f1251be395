"""Shards as an operator sees them: who leads, who trails, who could take over, and which moves spread the leaders
evenly. Pure; leadership.py carries out what is decided here."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from config.process.names import ProcessName
    from proto.internal import frames_pb2 as frames

REACH_ENTRIES: Final = 1_000
"""A replica that trails its leader by no more is with it: under load answers of two replicas are a moment apart, and a
new leader is brought the rest before it takes over."""


@dataclass(frozen=True, slots=True)
class ShardView:
    """One shard at one moment, by the word of its replicas."""

    shard: int
    replicas: tuple[ProcessName, ...]
    """All that the cluster has of it, whether or not they answer."""
    answers: Mapping[ProcessName, frames.ReplicaStatus]
    """What those say that answer."""

    @property
    def leader(self) -> ProcessName | None:
        """Who leads, by its own word: the newest if there are several."""
        leading = [
            (status.term, str(name), name)
            for name, status in self.answers.items()
            if status.leader == status.node
        ]
        return max(leading)[2] if leading else None

    @property
    def voters(self) -> tuple[ProcessName, ...]:
        """Whose vote counts, as the leader has it; every replica while nobody leads."""
        leader = self.leader
        nodes = set(self.answers[leader].voters) if leader is not None else set()
        if not nodes:
            return self.replicas
        known = {status.node: name for name, status in self.answers.items()}
        silent = [name for name in self.replicas if name not in self.answers]
        counted = [known[node] for node in sorted(nodes & known.keys())]
        # Who does not answer can't say which node it is; there are as many voters among the silent as are missing.
        return (*counted, *silent[: len(nodes) - len(counted)])

    def lag(self, name: ProcessName) -> int | None:
        """How many committed entries a replica has not applied; None if it is not known."""
        leader, status = self.leader, self.answers.get(name)
        if leader is None or status is None:
            return None
        return max(0, self.answers[leader].commit_index - status.applied_index)

    def serves(self, name: ProcessName) -> bool:
        """Whether a replica is a full part of its shard now: it answers, follows or leads, and keeps up."""
        status, lag = self.answers.get(name), self.lag(name)
        return (
            status is not None
            and status.leader != 0
            and not status.fault
            and (lag is None or lag <= REACH_ENTRIES)
        )

    @property
    def has_quorum(self) -> bool:
        """Whether enough replicas serve."""
        voters = self.voters
        return sum(self.serves(name) for name in voters) > len(voters) // 2

    def needs(self, name: ProcessName) -> bool:
        """Whether the shard has a quorum, and would not without this replica.

        A lone voter is no such case: whoever runs one takes the pause of each restart."""
        voters = self.voters
        serving = [other for other in voters if self.serves(other)]
        return len(voters) > 1 and name in serving and len(serving) == len(voters) // 2 + 1

    @property
    def away(self) -> tuple[ProcessName, ...]:
        """Voters that do not serve."""
        return tuple(name for name in self.voters if not self.serves(name))

    def successors(self, leaders: Mapping[str, int]) -> list[ProcessName]:
        """Who could lead instead, the best first: a voter that keeps up, on the node that leads the fewest shards
        (`leaders`, by node), and among those the one that is furthest along."""
        leader = self.leader
        able = [
            name
            for name in self.voters
            if name != leader and self.serves(name) and not self.answers[name].no_space
        ]
        return sorted(
            able, key=lambda name: (leaders.get(name.node, 0), -self.answers[name].last_index, name.node)
        )


def view(
    shard: int,
    replicas: Sequence[ProcessName],
    answers: Mapping[ProcessName, frames.ReplicaStatus],
) -> ShardView:
    """A shard out of the answers of many."""
    return ShardView(shard, tuple(replicas), {name: answers[name] for name in replicas if name in answers})


def leaders_by_node(views: Iterable[ShardView]) -> Counter[str]:
    """How many shards each node leads."""
    return Counter(leader.node for each in views if (leader := each.leader) is not None)


@dataclass(frozen=True, slots=True)
class Move:
    """Leadership of a shard goes from one node to another."""

    shard: int
    source: str
    target: str


def plan_balance(views: Sequence[ShardView], nodes: Sequence[str]) -> list[Move]:
    """The moves, in order, after which no node leads two shards more than another, as far as the shards' places allow:
    each round sends one leadership from a node that leads many, over others if need be, to one that leads few."""
    leads = {each.shard: leader.node for each in views if (leader := each.leader) is not None}
    able = {
        each.shard: {name.node for name in each.successors({})} | {leads[each.shard]}
        for each in views
        if each.shard in leads
    }
    counts = Counter(dict.fromkeys(nodes, 0))
    counts.update(leads.values())
    moves: list[Move] = []
    while path := _relieving_path(leads, able, counts):
        for move in reversed(path):  # the last first: no node leads more meanwhile than before
            leads[move.shard] = move.target
            moves.append(move)
        counts[path[0].source] -= 1
        counts[path[-1].target] += 1
    return moves


def _relieving_path(
    leads: Mapping[int, str], able: Mapping[int, set[str]], counts: Mapping[str, int]
) -> list[Move]:
    """The shortest way for one leadership from a node to one that leads at least two fewer; [] if there is none."""
    for source in sorted(counts, key=lambda node: (-counts[node], node)):
        came: dict[str, list[Move]] = {source: []}
        waiting = deque([source])
        while waiting:
            at = waiting.popleft()
            if counts[at] <= counts[source] - 2:
                return came[at]
            for shard in sorted(shard for shard, node in leads.items() if node == at):
                for target in sorted(able[shard] - came.keys(), key=lambda node: (counts[node], node)):
                    came[target] = [*came[at], Move(shard, at, target)]
                    waiting.append(target)
    return []
