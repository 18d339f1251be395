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
    UPDATE = 4
    """Only tells where a member is."""


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
    record: bytes = b""
    """Where the node is, for Membership.directory; empty = as the group knows already."""


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
_STEP = struct.Struct(">BQH")
RECORD_BYTES_MAX = (1 << 16) - 1
_VERSION = 1


def encode_change(change: MembershipChange) -> bytes:
    """The entry data of a change: version, transition, then (kind, node, length of the record, record) per step,
    big-endian."""
    parts = [_HEADER.pack(_VERSION, change.transition)]
    for step in change.steps:
        parts += [_STEP.pack(step.kind, step.node, len(step.record)), step.record]
    return b"".join(parts)


def decode_change(data: bytes) -> MembershipChange:
    """Reads back encode_change. ValueError on anything else: the log is not ours or damaged."""
    if len(data) < _HEADER.size:
        raise ValueError(f"a membership change of {len(data)} bytes")
    version, transition = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise ValueError(f"membership change version {version}")
    steps: list[Step] = []
    at = _HEADER.size
    while at < len(data):
        if at + _STEP.size > len(data):
            raise ValueError(f"a membership change of {len(data)} bytes")
        kind, node, record_bytes = _STEP.unpack_from(data, at)
        at += _STEP.size
        if at + record_bytes > len(data):
            raise ValueError(f"a membership change of {len(data)} bytes")
        steps.append(Step(StepKind(kind), NodeId(node), data[at : at + record_bytes]))
        at += record_bytes
    return MembershipChange(tuple(steps), Transition(transition))


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
    if change.transition is not Transition.AUTO or not simple:
        stepped = _enter_joint(current, stepped, auto_leave=change.transition is not Transition.JOINT)
    told = dict(current.directory) | {step.node: step.record for step in change.steps if step.record}
    return _succeeding(current, stepped, told)


def _take_steps(current: Membership, steps: tuple[Step, ...]) -> Membership | InvalidChange:
    voters, learners = set(current.voters), set(current.learners)
    for step in steps:
        if step.node <= 0:
            return InvalidChange("nodes are numbered from 1")
        if step.kind is StepKind.UPDATE:
            if step.node not in voters | learners:
                return InvalidChange(f"node {step.node} is no member")
            continue
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
    left = Membership(voters=current.voters, learners=current.learners | current.learners_next)
    return _succeeding(current, left, dict(current.directory))


def _succeeding(before: Membership, after: Membership, told: dict[NodeId, bytes]) -> Membership:
    """The membership after, with what outlasts a change."""
    nodes = set(after.nodes())
    left = dict(before.departed) | {node: told.get(node, b"") for node in before.nodes()}
    return replace(
        after,
        directory=tuple((node, told[node]) for node in after.nodes() if node in told),
        generation=before.generation,
        departed=tuple((node, record) for node, record in sorted(left.items()) if node not in nodes),
    )
