"""What leaves with a turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine import Result
from shardworker.replica.outgoing import Outgoing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardworker.raft import NodeId


@dataclass
class Core:
    """As much of Raft's core as answers tell of."""

    term: int = 4
    leader: int = 0


@dataclass
class Sent:
    """An outbox that keeps what it is given."""

    envelopes: list[frames.Envelope] = field(default_factory=list)

    def send_peer(self, node: NodeId, envelope: frames.Envelope) -> None:
        raise AssertionError(f"nothing is meant for {node}")

    def send_client(
        self, identity: bytes, envelope: frames.Envelope, attachments: Sequence[bytes] = ()
    ) -> None:
        self.envelopes.append(envelope)

    def know_keys(self, keys: Mapping[int, bytes]) -> None:
        """Nobody asks for one here."""

    def know_peers(self, endpoints: Mapping[NodeId, str]) -> None:
        raise AssertionError("it knows them")


def test_a_refusal_takes_back_nothing_that_was_announced_in_its_turn() -> None:
    """A candidate refuses a write and is elected in the same turn: the announcement leaves first."""
    core: Any = Core()
    sent = Sent()
    outgoing = Outgoing(core, sent, turn_answer_bytes_max=1, link_answer_bytes_max=1)
    outgoing.refuse(b"c", 1, errors.NotLeader())
    outgoing.answer(b"c", 2, Result(7, b"read"))
    core.leader = 3
    outgoing.announce(b"c", frames.ReplicaState(term=4, leader=3))
    outgoing.flush(lambda: None)
    news, answers = sent.envelopes
    assert news.state.leader == 3
    refusal, answer = answers.replies
    assert (refusal.call, refusal.error, refusal.term, refusal.leader) == (
        1,
        errors.NotLeader.frame_code,
        4,
        3,
    )
    assert (answer.call, answer.body, answer.error) == (2, b"read", 0)
