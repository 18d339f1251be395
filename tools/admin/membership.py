"""Carries out a plan of member_plan.py on a running cluster: asks each shard's leader, waits for who learns, goes on.

The plan is on disk before its first step and until after its last one, so whoever is interrupted runs the same command
again. Every step is looked at before it is taken: what is so already is done."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, Self

from config.durable_files import make_folder, sync_folder, write_durably
from config.process.names import ProcessName
from proto import errors
from proto.internal import curve
from proto.internal import frames_pb2 as frames
from tools.admin.member_plan import Placement, Step, StepKind
from tools.admin.probe import NotChanged, ReplicaProbe, change_members
from tools.admin.shards import REACH_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from config import ClusterConfig

POLL_S: Final = 0.2
ANSWER_S: Final = 1.0
CHANGE_S: Final = 5.0
"""What a leader gets for one change."""
LEADER_S: Final = 30.0
"""How long a shard may be without a leader before the walk ends."""
SILENCE_S: Final = 60.0
"""How long a learner may make no headway."""
SNAPSHOT_S: Final = 600.0
"""How long it may get snapshots in the meantime, of which nobody says how far they are."""

_AGAIN: Final = (
    errors.ChangeUnderWay,
    errors.LeaderLost,
    errors.NotLeader,
    errors.LearnerNotReady,
    errors.ShuttingDown,
)


class ChangeStuck(Exception):
    """A step did not come to its end. The text says which, and why."""


class StepRefused(ChangeStuck):
    """A shard's leader will not have the step, and nothing of it was done."""


class QuorumAtRisk(StepRefused):
    """The next step would cost a shard its quorum; it was not taken."""


class World(Protocol):
    """What carrying out a plan needs."""

    def leader_of(self, shard: int) -> frames.ReplicaStatus | None:
        """What the replica says that leads the shard; None if none says that it does."""

    def change(self, shard: int, leader: int, change: frames.ChangeMembership) -> None:
        """Ask it for a change. Raises NotChanged."""


class RunningCluster:
    """A World of real replicas. Use as a context manager."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self._cluster = cluster
        self._probe = ReplicaProbe(cluster)

    def __enter__(self) -> Self:
        self._probe.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._probe.__exit__(*details)

    def leader_of(self, shard: int) -> frames.ReplicaStatus | None:
        names = [ProcessName.replica(node, shard) for node in self._cluster.nodes]
        answers = [answer.status for answer in self._probe.ask(names, timeout_s=ANSWER_S).values()]
        leading = [status for status in answers if status.leader == status.node]
        return max(leading, key=lambda status: status.term, default=None)

    def change(self, shard: int, leader: int, change: frames.ChangeMembership) -> None:
        name = ProcessName.replica(self._cluster.node(leader).name, shard)
        change_members(self._cluster, name, change, timeout_s=CHANGE_S)


@dataclass(slots=True)
class MemberChange:
    """The walk through a plan."""

    cluster: ClusterConfig
    world: World
    on_progress: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    _names: dict[int, str] = field(init=False)

    def __post_init__(self) -> None:
        self._names = {node.id: node.name for node in self.cluster.nodes.values()}

    def placement(self) -> Placement:
        """Who votes in which shard now. Raises ChangeStuck if a shard has no leader to say it."""
        return {
            shard: frozenset(map(self._name, self._leader(shard).membership.voters))
            for shard in range(1, self.cluster.shards + 1)
        }

    def learns(self, node: str) -> frozenset[int]:
        """The shards of which a node is a learner. Raises ChangeStuck likewise."""
        return frozenset(
            shard
            for shard in range(1, self.cluster.shards + 1)
            if node in map(self._name, self._leader(shard).membership.learners)
        )

    def check(self, steps: Sequence[Step]) -> None:
        """Raises QuorumAtRisk if a shard of the plan has a quorum only with who is to leave it."""
        for step in steps:
            gone = step.node if step.kind is StepKind.LEAVE else step.instead_of
            if gone is None:
                continue
            status = self._leader(step.shard)
            active = {peer.node for peer in status.progress if peer.active} | {status.node}
            stay = {node for node in status.membership.voters if self._name(node) != gone}
            if step.kind is StepKind.VOTE:
                # Who comes is one of as many as before, and is within reach by then.
                needed, there = (len(stay) + 1) // 2 + 1, len(stay & active) + 1
            else:
                needed, there = len(stay) // 2 + 1, len(stay & active)
            if there < needed and stay:
                away = ", ".join(map(self._name, sorted(stay - active)))
                raise QuorumAtRisk(
                    f"shard {step.shard} would lose its quorum without {gone} while {away} is away; nothing was done"
                )

    def run(self, steps: Sequence[Step], on_done: Callable[[Step], None]) -> None:
        """Take the steps, those that are taken already too. Raises ChangeStuck, QuorumAtRisk."""
        for position, step in enumerate(steps):
            try:
                self._take(step)
            except ChangeStuck as error:
                left = len(steps) - position
                raise type(error)(
                    f"{error}; {position} of {len(steps)} steps are done, {left} are left"
                ) from None
            on_done(step)

    # ---- a step -----------------------------------------------------------------------------------------------------

    def _take(self, step: Step) -> None:
        best, heard_s = -1, self.clock()
        snapshot_from_s: float | None = None
        while True:
            status = self._leader(step.shard)
            if self._is_done(step, status.membership):
                return
            reached = self._reached(step, status)
            if reached is None:
                if self._ask(step, status):
                    heard_s = self.clock()
            elif reached > best:
                best, heard_s, snapshot_from_s = reached, self.clock(), None
            elif self._gets_snapshot(step, status):
                if snapshot_from_s is None:
                    snapshot_from_s = self.clock()
                if self.clock() - snapshot_from_s <= SNAPSHOT_S:
                    heard_s = self.clock()
            if self.clock() - heard_s > SILENCE_S:
                raise ChangeStuck(
                    f"{step}: no headway for {SILENCE_S:g} s. Is {step.node} up, and does it reach the others? "
                    f"`boathouse up FILE --node {step.node}` starts it"
                )
            self.pause(POLL_S)

    def _reached(self, step: Step, status: frames.ReplicaStatus) -> int | None:
        """The index that a learner has to, and does not yet, go on from; None if it has what it needs."""
        if step.kind is not StepKind.VOTE:
            return None
        peer = self._peer(step, status)
        if peer is None or peer.node in status.membership.voters:
            return None
        if peer.active and peer.match_index and status.commit_index - peer.match_index <= REACH_ENTRIES:
            return None
        way = (
            "gets a snapshot"
            if peer.state == "snapshot"
            else f"has {peer.match_index} of {status.commit_index} entries"
        )
        self.on_progress(f"shard {step.shard}: {step.node} {way if peer.active else 'does not answer yet'}")
        return peer.match_index

    def _peer(self, step: Step, status: frames.ReplicaStatus) -> frames.PeerProgress | None:
        number = self.cluster.node(step.node).id
        return next((peer for peer in status.progress if peer.node == number), None)

    def _gets_snapshot(self, step: Step, status: frames.ReplicaStatus) -> bool:
        peer = self._peer(step, status)
        return peer is not None and peer.active and peer.state == "snapshot"

    def _ask(self, step: Step, status: frames.ReplicaStatus) -> bool:
        """Whether the leader has answered that it is done."""
        try:
            self.world.change(step.shard, status.node, self._change(step))
        except NotChanged as refusal:
            if isinstance(refusal.error, errors.NotEnoughStarted):
                raise QuorumAtRisk(f"{step}: refused: {refusal}") from None
            if refusal.error is not None and not isinstance(refusal.error, _AGAIN):
                raise StepRefused(f"{step}: {refusal}") from None
            return False
        return True

    def _change(self, step: Step) -> frames.ChangeMembership:
        change, number = frames.ChangeMembership(), self.cluster.node(step.node).id
        match step.kind:
            case StepKind.LEARN:
                record = node_record(self.cluster, step.node)
                change.steps.add(kind=frames.MembershipStep.ADD_LEARNER, node=number, record=record)
            case StepKind.VOTE:
                change.steps.add(kind=frames.MembershipStep.ADD_VOTER, node=number)
                if step.instead_of is not None:
                    gone = self.cluster.node(step.instead_of).id
                    change.steps.add(kind=frames.MembershipStep.REMOVE, node=gone)
            case StepKind.LEAVE:
                change.steps.add(kind=frames.MembershipStep.REMOVE, node=number)
        return change

    def _is_done(self, step: Step, membership: frames.Membership) -> bool:
        voters, learners = set(map(self._name, membership.voters)), set(map(self._name, membership.learners))
        if membership.voters_outgoing:
            return False
        match step.kind:
            case StepKind.LEARN:
                return step.node in voters | learners
            case StepKind.VOTE:
                return step.node in voters and step.instead_of not in voters | learners
            case StepKind.LEAVE:
                return step.node not in voters | learners

    def _leader(self, shard: int) -> frames.ReplicaStatus:
        deadline_s = self.clock() + LEADER_S
        while (status := self.world.leader_of(shard)) is None:
            if self.clock() >= deadline_s:
                raise ChangeStuck(
                    f"shard {shard} has had no leader for {LEADER_S:g} s that could change its members"
                )
            self.pause(POLL_S)
        return status

    def _name(self, node: int) -> str:
        return self._names.get(node, f"node {node}")


def node_record(cluster: ClusterConfig, node: str) -> frames.NodeRecord:
    """What a shard's log is to say of a node of the file."""
    endpoint = cluster.worker_tcp(node, 1).removeprefix("tcp://")
    return frames.NodeRecord(
        member_id=cluster.member_id(node),
        name=node,
        peer_urls=[f"http://{endpoint}"],
        client_urls=[cluster.client_url(node)],
        peer_key=_public_key(cluster, node),
    )


def _public_key(cluster: ClusterConfig, node: str) -> bytes:
    """What lets it into the others; empty if it is not here, or there are no keys. Raises ChangeStuck."""
    if cluster.tls.peer is None or cluster.node(node).id in cluster.member_keys:
        return cluster.member_keys.get(cluster.node(node).id, "").encode()
    try:
        return curve.read_public(cluster.tls.peer.keys, node)
    except curve.BadKeyFile as error:
        raise ChangeStuck(str(error)) from None


# ---- the plan on disk ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan that has begun."""

    command: str
    steps: tuple[Step, ...]


def plan_file(cluster: ClusterConfig) -> Path:
    """Where a plan lies while it is carried out."""
    return cluster.data_dir / "node-change.json"


def read_plan(cluster: ClusterConfig) -> StoredPlan | None:
    """The plan that somebody has begun here and not ended. Raises ChangeStuck for a damaged file."""
    file = plan_file(cluster)
    try:
        found: Mapping[str, object] = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ChangeStuck(
            f"{file} can't be read ({error}); remove it if no change of nodes is under way"
        ) from None
    try:
        steps = found["steps"]
        assert isinstance(steps, list)
        return StoredPlan(str(found["command"]), tuple(map(Step.from_json, steps)))
    except (KeyError, ValueError, TypeError, AssertionError):
        raise ChangeStuck(f"{file} holds no plan; remove it if no change of nodes is under way") from None


def write_plan(cluster: ClusterConfig, plan: StoredPlan) -> None:
    """Durable on return. Raises OSError."""
    make_folder(cluster.data_dir)  # no node need be here
    document = {"command": plan.command, "steps": [step.to_json() for step in plan.steps]}
    write_durably(plan_file(cluster), json.dumps(document, indent=2) + "\n")


def end_plan(cluster: ClusterConfig) -> None:
    """It is carried out, and no crash of the machine brings it back. Raises OSError."""
    plan_file(cluster).unlink(missing_ok=True)
    sync_folder(cluster.data_dir)
