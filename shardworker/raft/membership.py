"""Computing the next membership from a change (paper section 6, thesis chapter 4).

Two ways to change:

- simple: at most one voter is added or removed. Any majority before and any majority after share a node, so
  no in-between is needed (thesis 4.1).
- joint: any number at once. First both voter sets must agree (`voters_outgoing` holds the old one), then a
  second, empty change leaves the joint membership (paper section 6). With `auto_leave` the leader proposes
  that itself.

As in etcd and unlike the paper, a membership takes effect when its entry is *applied*, not when it is
appended. What keeps that safe: at most one change is in flight, and nobody campaigns while a committed change
waits to be applied.

The functions are pure: given the same membership and change, each replica computes the same next one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum

from shardworker.raft.types import Membership, NodeId


class StepKind(IntEnum):
    """Stored in the log: never renumbered."""

    ADD_VOTER = 1
    """Also promotes a learner."""
    ADD_LEARNER = 2
    """Also demotes a voter."""
    REMOVE = 3


class Transition(IntEnum):
    """How a change gets from one membership to the next. Stored in the log: never renumbered."""

    AUTO = 0
    """Simple if at most one voter changes, else joint and left automatically."""
    JOINT_AUTO_LEAVE = 1
    JOINT = 2
    """Joint until an empty change is proposed."""


@dataclass(frozen=True, slots=True)
class Step:
    kind: StepKind
    node: NodeId


@dataclass(frozen=True, slots=True)
class MembershipChange:
    """What to change. Without steps: leave the joint membership."""

    steps: tuple[Step, ...] = ()
    transition: Transition = Transition.AUTO


@dataclass(frozen=True, slots=True)
class InvalidChange:
    """The change cannot be made, and why, for a person."""

    why: str


LEAVE_JOINT = MembershipChange()

_HEADER = struct.Struct(">BB")
_STEP = struct.Struct(">BQ")
_VERSION = 1


def encode_change(change: MembershipChange) -> bytes:
    """The entry data of a change: version, transition, then (kind, node) per step, big-endian."""
    parts = [_HEADER.pack(_VERSION, change.transition)]
    parts += [_STEP.pack(step.kind, step.node) for step in change.steps]
    return b"".join(parts)


def decode_change(data: bytes) -> MembershipChange:
    """Reads back encode_change. ValueError on anything else: the log is not ours or damaged."""
    if len(data) < _HEADER.size or (len(data) - _HEADER.size) % _STEP.size:
        raise ValueError(f"a membership change of {len(data)} bytes")
    version, transition = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise ValueError(f"membership change version {version}")
    steps = tuple(
        Step(StepKind(kind), NodeId(node)) for kind, node in _STEP.iter_unpack(data[_HEADER.size :])
    )
    return MembershipChange(steps, Transition(transition))


def next_membership(current: Membership, change: MembershipChange) -> Membership | InvalidChange:
    """The membership after the change, or why there is none."""
    if not change.steps:
        return _leave_joint(current)
    if current.is_joint:
        return InvalidChange("leave the joint membership first")
    stepped = _take_steps(current, change.steps)
    if isinstance(stepped, InvalidChange):
        return stepped
    if not stepped.voters:
        return InvalidChange("no voter would be left")
    simple = len(stepped.voters ^ current.voters) <= 1
    if change.transition is Transition.AUTO and simple:
        return stepped
    return _enter_joint(current, stepped, auto_leave=change.transition is not Transition.JOINT)


def _take_steps(current: Membership, steps: tuple[Step, ...]) -> Membership | InvalidChange:
    voters, learners = set(current.voters), set(current.learners)
    for step in steps:
        if step.node <= 0:
            return InvalidChange("nodes are numbered from 1")
        voters.discard(step.node)
        learners.discard(step.node)
        if step.kind is StepKind.ADD_VOTER:
            voters.add(step.node)
        elif step.kind is StepKind.ADD_LEARNER:
            learners.add(step.node)
    return replace(current, voters=frozenset(voters), learners=frozenset(learners))


def _enter_joint(current: Membership, target: Membership, *, auto_leave: bool) -> Membership:
    # A voter of the old half cannot be a learner yet: it still votes there until the joint membership is
    # left.
    demoted = target.learners & current.voters
    return Membership(
        voters=target.voters,
        voters_outgoing=current.voters,
        learners=target.learners - demoted,
        learners_next=demoted,
        auto_leave=auto_leave,
    )


def _leave_joint(current: Membership) -> Membership | InvalidChange:
    if not current.is_joint:
        return InvalidChange("the membership is not joint")
    return Membership(voters=current.voters, learners=current.learners | current.learners_next)
