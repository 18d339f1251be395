"""The coordinators that have said hello: they hear who leads and who is a member, and say what they have taken of their
answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from proto.internal import frames_pb2 as frames
from shardworker import raft_frames
from shardworker.raft import NO_NODE
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardworker.raft import Membership, NodeId, Term
    from shardworker.replica.part import ReplicaContext

LINKS_MAX: Final = 256
"""Coordinators remembered; the one that said hello longest ago is forgotten first."""

log = structlog.get_logger()


class Links(Part):
    """The coordinators of one replica."""

    def __init__(self, context: ReplicaContext) -> None:
        self._shard = context.shard
        self._node = context.node
        self._core = context.core
        self._outgoing = context.outgoing
        self._links: dict[bytes, None] = {}
        self._announced = self._news()
        self._last_leader = context.core.leader
        self._leader_changes = 0

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        if envelope.HasField("hello"):
            self._remember(identity, acknowledges=envelope.hello.acknowledges)
        if envelope.taken_bytes:
            self._outgoing.taken(identity, envelope.taken_bytes)

    def _remember(self, identity: bytes, *, acknowledges: bool) -> None:
        self._links.pop(identity, None)
        self._links[identity] = None
        if acknowledges:
            self._outgoing.open_window(identity)
        if len(self._links) > LINKS_MAX:
            oldest = next(iter(self._links))
            del self._links[oldest]
            self._outgoing.forget_window(oldest)
        self._outgoing.announce(identity, self._state())

    def tick(self) -> None:
        self._outgoing.tick()

    def announce(self) -> None:
        """Say who leads and who is a member, if that has changed; at once. Calls wait for it, and no answer depends on
        it: it does not wait for the sync of a turn, and what a crash takes back is forgotten with the connection."""
        before, now = self._announced, self._news()
        if now == before:
            return
        self._announced = now
        if now[1] not in (NO_NODE, self._last_leader):
            self._last_leader = now[1]
            self._leader_changes += 1
        if now[:2] != before[:2]:
            log.info("leadership", shard=self._shard, node=self._node, term=now[0], leader=now[1])
        for identity in self._links:
            self._outgoing.announce(identity, self._state())

    def end_turn(self) -> None:
        self.announce()

    def statistics(self) -> Mapping[str, int]:
        return {"leader_changes": self._leader_changes}

    def _news(self) -> tuple[Term, NodeId, Membership]:
        core = self._core
        return core.term, core.leader, core.membership

    def _state(self) -> frames.ReplicaState:
        core = self._core
        state = frames.ReplicaState(
            shard=self._shard,
            node=self._node,
            term=core.term,
            leader=core.leader,
            applied_index=core.log.applied,
        )
        if core.membership.nodes():
            state.membership.CopyFrom(raft_frames.encode_membership(core.membership))
        return state
