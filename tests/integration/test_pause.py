"""A replica that stood still for a while; the test is its leader."""

from __future__ import annotations

import itertools
import signal
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from proto.internal import frames_pb2 as frames
from shardworker import raft_frames
from shardworker.raft import Message, MessageKind, NodeId, Term
from tests.integration.workers import SHARD, Workers
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.alone

LEADER, FOLLOWER = NodeId(2), NodeId(1)
PAUSE_HEARTBEATS = 40
"""Sent to the stopped process one every 100 ms: several election timeouts."""


def heartbeat(round_: int) -> Message:
    return Message(MessageKind.HEARTBEAT, FOLLOWER, LEADER, Term(5), context=round_)


def test_a_follower_that_stood_still_hears_its_leader_before_it_calls_an_election(tmp_path: Path) -> None:
    with Workers(tmp_path, nodes=3) as workers, zmq.Context() as context:
        follower = workers["n1"]
        inbound: zmq.Socket[Any] = context.socket(zmq.ROUTER)
        outbound: zmq.Socket[Any] = context.socket(zmq.DEALER)
        with inbound, outbound:
            inbound.linger = outbound.linger = 0
            inbound.bind(workers.config.worker_tcp("n2", SHARD))
            outbound.connect(workers.config.worker_tcp("n1", SHARD))
            rounds = itertools.count(1)

            def send(**content: Any) -> None:
                envelope = frames.Envelope(group=workers.config.group(SHARD), **content)
                outbound.send(envelope.SerializeToString())

            def lead() -> int:
                """One more heartbeat; its round."""
                round_ = next(rounds)
                send(raft=[raft_frames.encode_message(heartbeat(round_))])
                return round_

            def heard() -> list[Message]:
                """What the follower says next, nothing if it is silent for 100 ms."""
                if not inbound.poll(100):
                    return []
                _, payload = inbound.recv_multipart()
                envelope = frames.Envelope.FromString(payload)
                if envelope.HasField("census_question"):
                    # Its disk is empty, and so is ours: the shard is new.
                    life = envelope.census_question.life
                    send(census_answer=frames.CensusAnswer(sender=LEADER, life=life, waits=True))
                return [raft_frames.decode_message(one) for one in envelope.raft]

            def follows() -> bool:
                lead()
                return any(one.kind is MessageKind.HEARTBEAT_REPLY for one in heard())

            follower.start()
            wait_until(follows, timeout_s=20, what="a follower")
            follower.signal(signal.SIGSTOP)
            while heard():
                pass
            end = lead() + PAUSE_HEARTBEATS
            wait_until(lambda: lead() >= end, timeout_s=20, what="the pause", interval_s=0.1)
            follower.signal(signal.SIGCONT)
            said = wait_until(heard, timeout_s=20, what="the follower")
        assert {one.kind for one in said} == {MessageKind.HEARTBEAT_REPLY}
