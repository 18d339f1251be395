"""Which steps bring a node into a cluster, out of it, or in another's place. Pure.

A step concerns one shard and can be repeated: what is so already is done. Who joins learns first; a replica that is to
go goes by the same change that gives the new one its vote, so a shard has as many voters all the while."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


class StepKind(enum.StrEnum):
    """What is done to a shard."""

    LEARN = "learn"
    VOTE = "vote"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class Step:
    """One change of one shard's members."""

    shard: int
    kind: StepKind
    node: str
    instead_of: str | None = None
    """Of a vote: who leaves by the same change."""

    def __str__(self) -> str:
        match self.kind:
            case StepKind.LEARN:
                return f"shard {self.shard}: {self.node} gets a replica, which learns"
            case StepKind.VOTE if self.instead_of is not None:
                return (
                    f"shard {self.shard}: {self.node} votes in place of {self.instead_of}, once within reach"
                )
            case StepKind.VOTE:
                return f"shard {self.shard}: {self.node} votes, once within reach"
            case StepKind.LEAVE:
                return f"shard {self.shard}: {self.node} leaves"

    def to_json(self) -> dict[str, Any]:
        return {
            "shard": self.shard,
            "step": str(self.kind),
            "node": self.node,
            "instead_of": self.instead_of,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Step:
        """Raises KeyError or ValueError."""
        return cls(data["shard"], StepKind(data["step"]), data["node"], data["instead_of"])


class NoPlan(Exception):
    """What is asked for cannot be; says why."""


REBUILT_EMPTY: Final = (
    "If it only lost its disk, `boathouse up FILE --node {}` starts it empty, and the others fill it again"
)
"""What whoever wants to replace a node by itself is looking for."""

Placement = dict[int, frozenset[str]]
"""By shard, the nodes that vote in it."""


def plan_add(placement: Placement, node: str, *, replicas: int, learns: Collection[int] = ()) -> list[Step]:
    """Give a node its even share of replicas: of shards that have too few, and else in place of those of the nodes that
    hold the most. learns: shards of which it is a learner already, of a plan that was not ended; it gets its vote."""
    held = {shard for shard, nodes in placement.items() if node in nodes}
    counts = _counts(placement)
    counts.setdefault(node, len(held))
    steps: list[Step] = []
    wanting = sorted(
        placement.keys() - held, key=lambda shard: (shard not in learns, len(placement[shard]), shard)
    )
    for shard in wanting:
        nodes = placement[shard]
        if len(nodes) < replicas:
            steps += _joins(shard, node)
            counts[node] += 1
            continue
        fullest = max(sorted(nodes), key=lambda name: counts[name])
        if shard in learns or counts[fullest] - counts[node] >= 2:
            steps += _joins(shard, node, instead_of=fullest)
            counts[fullest] -= 1
            counts[node] += 1
    if not steps and not held:
        # No node has two more than it: it still is to be of use.
        shard = min(placement, key=lambda shard: (len(placement[shard]), shard))
        steps = _joins(shard, node, instead_of=max(sorted(placement[shard]), key=lambda name: counts[name]))
    return steps


def plan_remove(
    placement: Placement,
    node: str,
    others: Sequence[str],
    *,
    replicas: int,
    learns: Collection[int] = (),
) -> list[Step]:
    """Take a node out of its shards; where another of the nodes `others` can hold what it held, that comes first.
    learns: shards of which it is only a learner.

    Raises NoPlan for the only replica of a shard that nobody else can hold."""
    counts = _counts(placement) | {
        name: 0 for name in others if not any(name in n for n in placement.values())
    }
    steps: list[Step] = []
    for shard, nodes in sorted(placement.items()):
        if node not in nodes:
            if shard in learns:
                steps.append(Step(shard, StepKind.LEAVE, node))
            continue
        able = sorted((name for name in others if name not in nodes), key=lambda name: (counts[name], name))
        if able and len(nodes) <= replicas:
            steps += _joins(shard, able[0], instead_of=node)
            counts[able[0]] += 1
        elif len(nodes) == 1:
            raise NoPlan(f"{node} holds the only replica of shard {shard}, and no other node can take it")
        else:
            steps.append(Step(shard, StepKind.LEAVE, node))
    return steps


def plan_replace(placement: Placement, old: str, new: str) -> list[Step]:
    """Give a node all that another holds. Raises NoPlan if it holds some of that already: those shards would only lose
    a voter."""
    held = {shard: nodes for shard, nodes in sorted(placement.items()) if old in nodes}
    if both := [str(shard) for shard, nodes in held.items() if new in nodes]:
        raise NoPlan(
            f"{new} votes in shard {', '.join(both)} already and can't take the place of {old} there; "
            f"`boathouse node remove {old}` takes {old} out. {REBUILT_EMPTY.format(old)}"
        )
    return [step for shard in held for step in _joins(shard, new, instead_of=old)]


def _joins(shard: int, node: str, instead_of: str | None = None) -> list[Step]:
    return [Step(shard, StepKind.LEARN, node), Step(shard, StepKind.VOTE, node, instead_of)]


def _counts(placement: Placement) -> dict[str, int]:
    counts: dict[str, int] = {}
    for nodes in placement.values():
        for name in nodes:
            counts[name] = counts.get(name, 0) + 1
    return counts
