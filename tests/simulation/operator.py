"""Who changes the membership of the simulated shard, by asking its leader as `boathouse node` does.

Its answers are checked: a change that is said to be made has taken effect on some replica, durably, with what was asked
for in it. An answer may never come; then it is asked for again, or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proto.internal import frames_pb2 as frames
from proto.internal import wire
from shardworker import raft_frames
from shardworker.raft import Membership, NodeId, StepKind
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from shardworker.raft import Step
    from tests.simulation.cluster import Cluster

ADDRESS: Final = "o1"


@dataclass(frozen=True, slots=True)
class _Asked:
    steps: tuple[Step, ...]


class Operator:
    """One for the whole simulation."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._group = cluster.config.group(cluster.shard)
        self._asked: dict[int, _Asked] = {}
        cluster.network.attach(ADDRESS, self._receive)

    def ask(self, *steps: Step) -> None:
        """Ask whoever leads now to change the membership."""
        leader = self._cluster.leader()
        if leader is None:
            return
        number = len(self._asked) + 1
        self._asked[number] = _Asked(steps)
        body = frames.ChangeMembership()
        for step in steps:
            body.steps.add(kind=frames.MembershipStep.Kind.ValueType(step.kind), node=step.node)
        request = frames.Request(call=number, method=frames.CHANGE_MEMBERSHIP, body=body.SerializeToString())
        self._cluster.world.note(f"operator {leader}: {number} {steps}")
        self._cluster.network.send(
            ADDRESS, leader.host.address, wire.encode(frames.Envelope(requests=[request]), self._group)
        )

    def _receive(self, sender: str, payload: bytes) -> None:
        for reply in wire.decode(payload, self._group).replies:
            self._cluster.world.note(f"operator: {reply.call} {reply.error} {reply.detail}")
            self._cluster.count("membership refused" if reply.error else "membership changed")
            if not reply.error:
                self._check(sender, self._asked[reply.call], frames.Membership.FromString(reply.body))

    def _check(self, sender: str, asked: _Asked, answer: frames.Membership) -> None:
        membership = raft_frames.decode_membership(answer)
        if membership not in self._cluster.checkers.memberships:
            raise Violation("membership-made", f"{sender} tells of {membership}, which nobody has applied")
        missing = [step for step in asked.steps if not _is_in(step, membership)]
        if missing:
            raise Violation("membership-made", f"{sender} says that {missing} is done, with {membership}")


def _is_in(step: Step, membership: Membership) -> bool:
    node = NodeId(step.node)
    match step.kind:
        case StepKind.ADD_VOTER:
            return node in membership.voters
        case StepKind.REMOVE:
            return node not in membership.nodes()
        case _:
            return node in membership.nodes()
