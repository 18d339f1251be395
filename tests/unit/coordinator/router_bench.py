"""A router in a time that the test makes, with replicas that only note what they were sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.shards.bounds import AnswerBudget, Bounds
from coordinator.shards.router import ACKNOWLEDGE_BYTES_MIN, Router
from coordinator.shards.shard_call import LEADER, NEAREST, ShardCall
from proto.ids import NodeId, ShardId
from proto.internal import frames_pb2 as frames
from proto.methods import Access

if TYPE_CHECKING:
    from coordinator.shards.router import CommitPoint, Replica
    from coordinator.shards.shard_call import Target
    from proto import errors

SHARD = ShardId(1)
N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)
REQUEST_ID = b"i" * 16


class Bench:
    """A router with one shard on nodes 1 (local), 2 and 3, all connected, led by node 1 in term 1."""

    def __init__(self, *, leader: int = 1, calls_max: int = 100, bytes_max: int = 1_000) -> None:
        self.now = 100.0
        self.bounds = Bounds(calls_max=calls_max, bytes_max=bytes_max)
        self.held_bytes = 0
        budget = AnswerBudget(lambda: self.held_bytes, bytes_max=ACKNOWLEDGE_BYTES_MIN)
        self.router = Router([SHARD], local=N1, bounds=self.bounds, budget=budget)
        self.replicas: dict[int, Replica] = {}
        self._sent: dict[int, list[ShardCall]] = {}
        self._numbers: dict[int, list[int]] = {}
        self.greeted: list[int] = []
        self.asked: list[int] = []
        self.acknowledged: list[tuple[int, int]] = []
        self.cursors_closed: list[int] = []
        self.told: list[tuple[int, CommitPoint]] = []
        """Whom what was told to be committed."""
        self.ended: list[ShardCall] = []
        for node in (N1, N2, N3):
            self.add(node)
        self.poll()
        if leader:
            self.say(1, term=1, leader=leader)

    def add(self, node: NodeId) -> None:
        self.replicas[node] = self.router.add_replica(SHARD, node)
        self._sent[node], self._numbers[node] = [], []
        self.router.handle_connected(self.replicas[node])

    def poll(self) -> None:
        """Note what the router wants done."""
        outgoing, ended = self.router.poll(self.now)
        for replica, greets, asks, taken_bytes, calls, committed in outgoing:
            self.told += [] if committed is None else [(replica.node, committed)]
            if taken_bytes:
                self.acknowledged.append((replica.node, taken_bytes))
            if greets:
                self.greeted.append(replica.node)
            if asks:
                self.asked.append(replica.node)
            for call in calls:
                if call.method == frames.CURSOR_CLOSE:
                    self.cursors_closed.append(call.cursor)
                else:
                    self._sent[replica.node].append(call)
                    self._numbers[replica.node].append(call.number)
        for call in ended:
            assert call not in self.ended, "ended twice"
            self.ended.append(call)

    def pass_time(self, seconds: float) -> None:
        """As a driver would let it pass."""
        end = self.now + seconds
        while (deadline := self.router.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.poll()
        self.now = end

    def sent(self, node: int) -> list[ShardCall]:
        """What node was sent so far; the numbers are those of then."""
        self.poll()
        return self._sent[node]

    def numbers(self, node: int) -> list[int]:
        self.poll()
        return self._numbers[node]

    def say(self, node: int, *, term: int, leader: int) -> None:
        state = frames.ReplicaState(shard=SHARD, node=node, term=term, leader=leader)
        self.hear(node, frames.Envelope(state=state))

    def hear(self, node: int, envelope: frames.Envelope) -> None:
        self.router.handle_envelope(self.replicas[node], envelope)
        self.poll()

    def reply(self, node: int, number: int, body: bytes = b"", *, cursor: int = 0) -> None:
        self.hear(node, frames.Envelope(replies=[frames.Reply(call=number, body=body, cursor=cursor)]))

    def refuse(
        self,
        node: int,
        number: int,
        error: errors.BoathouseError,
        *,
        term: int,
        leader: int = 0,
        applied: bool = False,
    ) -> None:
        reply = frames.Reply(
            call=number,
            error=error.frame_code,
            detail=error.detail,
            term=term,
            leader=leader,
            applied=applied,
        )
        self.hear(node, frames.Envelope(replies=[reply]))

    def disconnect(self, node: int) -> None:
        self.router.handle_disconnected(self.replicas[node])
        self.poll()

    def write(self, *, timeout_s: float = 5.0, body: bytes = b"w") -> ShardCall:
        return self._submit(
            ShardCall(
                SHARD, LEADER, Access.WRITE, frames.ETCD_PUT, 1, body,
                deadline=self.now + timeout_s, request_id=REQUEST_ID,
            )
        )  # fmt: skip

    def read(
        self, target: Target = NEAREST, *, timeout_s: float = 5.0, cursor: int = 0, body: bytes = b"r"
    ) -> ShardCall:
        return self._submit(
            ShardCall(
                SHARD, target, Access.READ, frames.ETCD_RANGE, 1, body,
                deadline=self.now + timeout_s, linearizable=target is LEADER, cursor=cursor,
            )
        )  # fmt: skip

    def _submit(self, call: ShardCall) -> ShardCall:
        self.router.submit(call, self.now)
        return call


def body_of(call: ShardCall) -> bytes:
    assert call.error is None
    assert call.reply is not None
    return call.reply.body


def is_open(call: ShardCall) -> bool:
    return call.reply is None and call.error is None
