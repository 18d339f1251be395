"""Leading, handing over, and ceasing to lead at the end of the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.message import DecodeError

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine import Result
from shardworker.raft import NO_NODE, Accepted, NodeId, Role
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shardworker.replica.part import Handler, ReplicaContext


class _Transfer(NamedTuple):
    """Who waits until `target` leads."""

    identity: bytes
    call: int
    target: NodeId


class Leadership(Part):
    """What one replica does about its leadership, beside the core."""

    def __init__(self, context: ReplicaContext, prepare: Callable[[], None]) -> None:
        """prepare: proposes what the next leader should know, before leadership is handed over by plan."""
        self._prepare = prepare
        self._shard = context.shard
        self._node = context.node
        self._core = context.core
        self._outgoing = context.outgoing
        self._led_term: int | None = None
        self._draining = False
        self._handing_over = False
        self._transfers: list[_Transfer] = []

    # ---- leading ----------------------------------------------------------------------------------------------------

    def check_leads(self) -> None:
        """Raises NotLeader, or ShuttingDown if this replica is about to end."""
        if self._core.role is not Role.LEADER:
            raise errors.NotLeader
        if self._draining:
            raise errors.ShuttingDown

    def lost(self) -> str:
        """A sentence if this replica led at the last call and leads no longer, or in another term; empty otherwise."""
        led, self._led_term = self._led_term, self._core.term if self._core.role is Role.LEADER else None
        if led is None or led == self._led_term:
            return ""
        return f"node {self._node} led shard {self._shard} in term {led} and leads no longer"

    def hand_over(self) -> bool:
        """Ask the most up-to-date voter that answers to lead. False if there is none, or nothing to hand over."""
        return isinstance(self._core.transfer_leadership(), Accepted)

    def hand_over_to(self, target: NodeId) -> bool:
        """Ask this voter to lead. False if that can't be."""
        return isinstance(self._core.transfer_leadership(target), Accepted)

    def methods(self) -> Mapping[int, Handler]:
        return {frames.TRANSFER_LEADER: self._transfer}

    def _transfer(self, identity: bytes, request: frames.Request) -> None:
        """Hand over as a TransferLeader says. Raises NoSuccessor, BadTransferee or MalformedRequest."""
        try:
            asked = frames.TransferLeader.FromString(request.body)
        except DecodeError:
            raise errors.MalformedRequest("no TransferLeader") from None
        target = NodeId(asked.target)
        members = self._core.membership
        if not target:
            self._prepare()
            if not self.hand_over():
                raise errors.NoSuccessor
        elif target not in members.nodes():
            raise errors.BadTransferee(f"node {target} has no replica of shard {self._shard}")
        elif not members.is_voter(target):
            raise errors.BadTransferee(f"node {target} is a learner of shard {self._shard}: it cannot lead")
        elif target != self._node:  # to itself changes nothing, as in etcd
            self._prepare()
            self._core.transfer_leadership(target)
        if asked.wait and target:
            self._transfers.append(_Transfer(identity, request.call, target))
            return
        self._outgoing.answer(identity, request.call, Result(0, b""))

    def end_turn(self) -> None:
        """Answer who waits for a transfer that has come to its end: one way or the other an election follows it, or
        this leader goes on once its target has had an election timeout."""
        if not self._transfers:
            return
        core = self._core.status()
        waiting, self._transfers = self._transfers, []
        for transfer in waiting:
            if core.leader == transfer.target:
                self._outgoing.answer(transfer.identity, transfer.call, Result(0, b""))
            elif core.leader == NO_NODE or transfer.target == core.transferee:
                self._transfers.append(transfer)
            else:
                slow = errors.TransferTooSlow(f"node {core.leader} leads, not node {transfer.target}")
                self._outgoing.refuse(transfer.identity, transfer.call, slow)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no new requests, and hand leadership over if somebody can take it."""
        self._draining = True
        self._prepare()
        self._handing_over = self.hand_over()

    def drained(self) -> bool:
        """Whether nobody is about to take over."""
        return self._core.role is not Role.LEADER or not self._handing_over
