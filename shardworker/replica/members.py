"""Who belongs to the shard: changes that an operator asks for, and where each member is.

A change is an entry of the log, one at a time (raft/membership.py says how the core gets from one membership to the
next). The leader takes it only if the shard keeps its quorum by it: of the voters that there will be, a majority has
answered within an election timeout. Who joins learns first, and gets its vote once it has, but for a moment, what the
leader has: so a voter that starts on an empty disk has always lost one (census.py). The leader gives it by itself if
the record of the learner says so. The answer to a change comes when it is applied, and tells the membership.

What is so already is done. So a change whose answer was lost can be asked for again, of whoever leads by then.

The log also tells every replica where a member is that was not there when the cluster file founded the shard. That is
the truth about it: it comes with the log and with snapshots, and no file has to be there or right for it. Of founders
the file says it, until somebody changes it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog
from google.protobuf.message import DecodeError

from config.topology import FileTopology
from proto import errors, ids
from proto.internal import frames_pb2 as frames
from proto.node_records import check_peer_urls, endpoint_of, in_record
from shardworker import raft_frames
from shardworker.machine import Result
from shardworker.raft import (
    NEVER_TICKS,
    Accepted,
    InvalidChange,
    LogIndex,
    MembershipChange,
    NodeId,
    Reason,
    Rejected,
    Role,
    Step,
    StepKind,
    Term,
    next_membership,
)
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shardworker.raft import Membership
    from shardworker.replica.outgoing import Outbox
    from shardworker.replica.part import Handler, ReplicaContext

REACH_ENTRIES: Final = 1_000
"""A learner that lacks no more is promoted: under load it is never quite even, and this much is there in a moment."""

LEARNERS_MAX: Final = 1
"""etcd's. Each of them gets the whole state from the leader."""

log = structlog.get_logger()


class _Waiting(NamedTuple):
    """Who waits for the entry at `applied_at` to be applied."""

    identity: bytes
    call: int
    applied_at: LogIndex
    term: Term


class Members(Part):
    """The membership of one replica's shard, beside the core."""

    def __init__(self, context: ReplicaContext, outbox: Outbox) -> None:
        self._shard = context.shard
        self._node = context.node
        self._core = context.core
        self._outgoing = context.outgoing
        self._outbox = outbox
        self._cluster = context.cluster
        self._founders = FileTopology(context.cluster)
        self._election_ticks = context.cluster.raft.election_ticks
        self._keys = {node: key.encode() for node, key in context.cluster.member_keys.items() if key}
        """Between nodes, of those that came later, as a coordinator said last."""
        self._waiting: list[_Waiting] = []
        self._told: Membership | None = None
        self._tell_addresses()

    # ---- where members are ------------------------------------------------------------------------------------------

    def _tell_addresses(self) -> None:
        """Have the outbox reach whom the membership names."""
        membership = self._told = self._core.membership
        self._tell_keys()
        if membership.nodes():
            found = {node: self._endpoint(node) for node in membership.nodes() if node != self._node}
            self._outbox.know_peers({node: endpoint for node, endpoint in found.items() if endpoint})

    def _endpoint(self, node: NodeId) -> str:
        """Where a member is, empty if nobody has said it."""
        record = dict(self._core.membership.directory).get(node)
        if record is not None:
            endpoint = endpoint_of(in_record(record), self._shard)
            if not endpoint:
                log.error(
                    "a member can't be reached at what its record says; `etcdctl member update` corrects it",
                    shard=self._shard,
                    member=node,
                    peer_urls=list(in_record(record).peer_urls),
                )
            return endpoint
        try:
            return self._founders.address_of(ids.NodeId(node), ids.ShardId(self._shard))
        except KeyError:
            log.error("a member's address is not known", shard=self._shard, member=node)
            return ""

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        if envelope.HasField("node_keys"):
            # Of all shards' members: their coordinators come to this replica, too.
            self._keys = dict(envelope.node_keys.keys)
            self._tell_addresses()

    def _tell_keys(self) -> None:
        records = {node: in_record(record) for node, record in self._core.membership.directory}
        own = {int(node): record.peer_key for node, record in records.items() if record.peer_key}
        self._outbox.know_keys(self._keys | own)

    # ---- a change ---------------------------------------------------------------------------------------------------

    def methods(self) -> Mapping[int, Handler]:
        return {frames.CHANGE_MEMBERSHIP: self._change}

    def _change(self, identity: bytes, request: frames.Request) -> None:
        """Propose what is asked for, or only look whether that could be done. Raises MembershipError, NotLeader,
        ChangeUnderWay or MalformedRequest."""
        try:
            asked = frames.ChangeMembership.FromString(request.body)
        except DecodeError:
            raise errors.MalformedRequest("no ChangeMembership") from None
        if not asked.steps:
            raise errors.MalformedRequest("a change of membership without steps")
        steps = tuple(self._step(step) for step in asked.steps if not self._is_done(step))
        if asked.only_check and steps:
            self._check(MembershipChange(steps))
        if asked.only_check or not steps:
            self._outgoing.answer(identity, request.call, self._result())
            return
        accepted = self._propose(steps)
        self._waiting.append(_Waiting(identity, request.call, accepted.index, accepted.term))

    def _propose(self, steps: tuple[Step, ...]) -> Accepted:
        change = MembershipChange(steps)
        self._check(change)
        outcome = self._core.propose_membership(change)
        if isinstance(outcome, Rejected):
            raise _refusal(outcome)
        log.info("a change of membership", shard=self._shard, node=self._node, steps=_in_words(steps))
        return outcome

    def tick(self) -> None:
        """Give a learner its vote that is to have it, once that can be."""
        learner = self._promoted_next()
        if learner is not None:
            with contextlib.suppress(errors.MembershipError, errors.NotLeader):
                self._propose((Step(StepKind.ADD_VOTER, learner),))

    def ticks_until_action(self) -> int:
        return NEVER_TICKS if self._promoted_next() is None else 1

    def _promoted_next(self) -> NodeId | None:
        membership = self._core.membership
        if not membership.learners or self._core.role is not Role.LEADER:
            return None
        known = dict(membership.directory)
        wanted = (node for node in sorted(membership.learners) if in_record(known.get(node, b"")).promote)
        return next(wanted, None)

    def _step(self, asked: frames.MembershipStep) -> Step:
        try:
            kind = StepKind(asked.kind)
        except ValueError:
            raise errors.MalformedRequest(f"a membership step of kind {asked.kind}") from None
        record = asked.record.SerializeToString(deterministic=True) if asked.HasField("record") else b""
        return Step(kind, NodeId(asked.node), record)

    def _is_done(self, asked: frames.MembershipStep) -> bool:
        """Whether it is so already. Raises MemberExists if that node is somebody else."""
        membership, step = self._core.membership, self._step(asked)
        known = dict(membership.directory).get(step.node, b"")
        same = not step.record or step.record == known
        match step.kind:
            case StepKind.REMOVE:
                return step.node not in membership.nodes()
            case StepKind.UPDATE:
                return same and step.node in membership.nodes()
            case StepKind.ADD_LEARNER | StepKind.ADD_VOTER if step.node in membership.nodes() and not same:
                raise errors.MemberExists(f"node {step.node} is a member of shard {self._shard} already")
            case StepKind.ADD_LEARNER:
                return step.node in membership.nodes()
            case StepKind.ADD_VOTER:
                return step.node in membership.voters

    def _check(self, change: MembershipChange) -> None:
        """Raises what is wrong with a change that the core could make."""
        membership = self._core.membership
        after = next_membership(membership, change)
        if membership.is_joint:
            raise errors.ChangeUnderWay
        if isinstance(after, InvalidChange):
            if not self._left(change):
                raise errors.NotEnoughStarted(f"shard {self._shard} would have no voter left")
            raise errors.MemberNotFound(after.why)
        for step in change.steps:
            if step.record:
                self._check_number(step)
                self._check_address(step)
            if step.kind is StepKind.ADD_VOTER:
                self._check_reach(step.node)
        if len(after.learners) > max(LEARNERS_MAX, len(membership.learners)):
            raise errors.TooManyLearners(f"shard {self._shard} has a learner already")
        if after.voters != membership.voters:
            self._check_quorum(after.voters)

    def _left(self, change: MembershipChange) -> set[NodeId]:
        gone = {step.node for step in change.steps if step.kind is StepKind.REMOVE}
        added = {step.node for step in change.steps if step.kind is StepKind.ADD_VOTER}
        return (set(self._core.membership.voters) - gone) | added

    def _check_number(self, step: Step) -> None:
        """A number is one node's for ever: old data of another one would be taken for its own."""
        former = dict(self._core.membership.departed).get(step.node)
        if former is None:
            return
        before, now = self._member_id(step.node, former), in_record(step.record).member_id
        if before and before != now:
            name = in_record(former).name
            raise errors.MemberExists(
                f"number {step.node} was another node's{f', {name}' if name else ''}; numbers are not given anew: "
                "take one that no node of the cluster ever had"
            )

    def _member_id(self, node: NodeId, record: bytes) -> int:
        """etcd's id of a member; 0 if nobody has said it."""
        if record:
            return in_record(record).member_id
        try:
            return self._cluster.member_id(node)
        except KeyError:
            return 0

    def _check_address(self, step: Step) -> None:
        """Raises BadMemberUrls for an address that no replica could connect to, however it came here: once it is in the
        log, it is met at every start. Raises PeerUrlExists."""
        try:
            check_peer_urls(in_record(step.record).peer_urls, shards=self._cluster.shards)
        except ValueError as error:
            raise errors.BadMemberUrls(str(error)) from None
        endpoint = endpoint_of(in_record(step.record), self._shard)
        others = (node for node in self._core.membership.nodes() if node != step.node)
        if any(self._endpoint(node) == endpoint for node in others):
            raise errors.PeerUrlExists(f"another member of shard {self._shard} is at {endpoint}")

    def _check_reach(self, learner: NodeId) -> None:
        core = self._core.status()
        if learner not in core.membership.learners:
            raise errors.MembershipError(
                f"node {learner} is no learner of shard {self._shard}: add it as one first"
            )
        match = core.progress[learner].match if learner in core.progress else 0
        missing = core.commit - match
        # Who has nothing lacks the state, too, however few entries that are.
        if not match or missing > REACH_ENTRIES or not self._is_active(learner):
            raise errors.LearnerNotReady(f"node {learner} lacks {missing} entries of shard {self._shard}")

    def _check_quorum(self, voters: frozenset[NodeId]) -> None:
        active = {node for node in voters if self._is_active(node)}
        if len(active) < len(voters) // 2 + 1:
            silent = ", ".join(f"node {node}" for node in sorted(voters - active))
            raise errors.NotEnoughStarted(
                f"shard {self._shard} would lose its quorum: {silent} of {len(voters)} voters did not answer lately"
            )

    def _is_active(self, node: NodeId) -> bool:
        progress = self._core.status().progress.get(node)
        return progress is not None and progress.silent_ticks <= self._election_ticks

    # ---- its end ----------------------------------------------------------------------------------------------------

    def end_turn(self) -> None:
        if self._core.membership is not self._told:
            self._tell_addresses()
        if self._waiting:
            self._waiting = [waiting for waiting in self._waiting if not self._answer(waiting)]

    def _answer(self, waiting: _Waiting) -> bool:
        """Answer who has waited long enough. Whether he has."""
        if self._core.log.applied < waiting.applied_at or self._core.membership.is_joint:
            return False
        self._outgoing.answer(waiting.identity, waiting.call, self._result())
        return True

    def abandon(self, why: str) -> None:
        """A change may take the leader's own vote: then it is applied, and the leadership over."""
        for waiting in self._waiting:
            if not (self._is_ours(waiting) and self._answer(waiting)):
                self._outgoing.refuse(waiting.identity, waiting.call, errors.LeaderLost(why))
        self._waiting = []

    def _is_ours(self, waiting: _Waiting) -> bool:
        """Whether what is applied at its index is what was proposed here."""
        own = self._core.log
        if not own.first_index() <= waiting.applied_at <= own.applied:
            return False
        return own.term(waiting.applied_at) == waiting.term

    def _result(self) -> Result:
        return Result(0, raft_frames.encode_membership(self._core.membership).SerializeToString())

    # ---- for people -------------------------------------------------------------------------------------------------

    def describe(self, status: frames.ReplicaStatus) -> None:
        """Say who belongs to the shard, and how far a leader has brought each."""
        core = self._core.status()
        status.membership.CopyFrom(raft_frames.encode_membership(core.membership))
        for node, progress in core.progress.items():
            if node != self._node:
                status.progress.add(
                    node=node,
                    match_index=progress.match,
                    active=progress.silent_ticks <= self._election_ticks,
                    state=progress.state,
                )


def _refusal(outcome: Rejected) -> errors.BoathouseError:
    match outcome.reason:
        case Reason.CHANGE_IN_FLIGHT:
            return errors.ChangeUnderWay()
        case Reason.INVALID_CHANGE:
            return errors.MembershipError(outcome.detail)
        case _:
            return errors.NotLeader(outcome.reason.value)


def _in_words(steps: Iterable[Step]) -> str:
    return ", ".join(f"{step.kind.name.lower().replace('_', ' ')} {step.node}" for step in steps)
