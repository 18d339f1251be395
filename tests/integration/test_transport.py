"""The sockets between two replicas, on a link that the fault proxy cuts without ending its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import zmq
from structlog.testing import capture_logs

from proto.internal import frames_pb2 as frames
from proto.internal import wire
from proto.internal.sockets import CLIENT_QUEUE_MESSAGES_MAX, HEARTBEAT_INTERVAL_MS, HEARTBEAT_TIMEOUT_MS
from shardworker.raft import NodeId
from shardworker.transport import Transport
from tests.integration.proxy import FaultProxy
from tests.waiting import free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

GIVEN_UP_S = (HEARTBEAT_INTERVAL_MS + HEARTBEAT_TIMEOUT_MS) / 1000 + 8
PEER = NodeId(2)


class Transports:
    """A transport and its peer's, as two replicas of one shard have them."""

    def __init__(self, port: int, peers: Mapping[NodeId, str]) -> None:
        own, *_ = free_ports(1)
        self.near = Transport(binds=(f"tcp://127.0.0.1:{own}",), peers=peers, group=1)
        self.far = Transport(binds=(f"tcp://127.0.0.1:{port}",), peers={}, group=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.near.close()
        self.far.close()

    def arrives(self) -> bool:
        """Whether something sent now, or a moment ago, is heard."""
        self.near.send_peer(PEER, frames.Envelope())
        return bool(self.far.receive(0.05))

    def broken(self) -> bool:
        self.near.receive(0.05)
        return self.near.disconnected() == [PEER]


def test_a_silent_connection_is_given_up_on_both_sides() -> None:
    """Only so is what was sent into it soon sent again: TCP itself would wait for as long as the silence lasted."""
    (port,) = free_ports(1)
    with FaultProxy(seed=1) as proxy:
        link = proxy.link(port)
        with Transports(port, {PEER: f"tcp://127.0.0.1:{link.port}"}) as both:
            wait_until(both.arrives, timeout_s=10, what="a first envelope")
            ends = [pipe.sink for pipe in link.pipes if not pipe.sink.is_closing()]
            assert len(ends) == 2
            link.cut()
            wait_until(both.broken, timeout_s=GIVEN_UP_S, what="the connecting side to give up")
            wait_until(
                lambda: all(end.is_closing() for end in ends),
                timeout_s=GIVEN_UP_S,
                what="the other side to give up",
            )
            link.heal()
            wait_until(both.arrives, timeout_s=10, what="an envelope on a new connection")


def test_a_newer_build_is_refused_in_words_once() -> None:
    (port,) = free_ports(1)
    endpoint = f"tcp://127.0.0.1:{port}"
    transport = Transport(binds=(endpoint,), peers={}, group=1)
    newer = frames.Envelope(group=1, protocol=wire.PROTOCOL + 1).SerializeToString()
    with zmq.Context() as context, context.socket(zmq.DEALER) as sender, capture_logs() as logged:
        sender.linger = 0
        sender.connect(endpoint)
        for payload in (newer, newer, wire.encode(frames.Envelope(), 1)):
            sender.send(payload)
        received = wait_until(lambda: transport.receive(0.05), timeout_s=10, what="what can be understood")
    assert transport.newer_protocol == wire.PROTOCOL + 1
    transport.close()
    assert [envelope.protocol for _, envelope in received] == [wire.PROTOCOL]
    (line,) = logged
    assert "upgrade this node too" in line["reason"]


def test_a_late_wake_up_is_harmless() -> None:
    """A second SIGTERM may come while the worker is ending; its descriptors may be another file's by then."""
    port, own = free_ports(2)
    transport = Transport(binds=(f"tcp://127.0.0.1:{own}",), peers={PEER: f"tcp://127.0.0.1:{port}"}, group=1)
    transport.close()
    transport.wake()


def test_answers_for_a_coordinator_that_reads_nothing_are_dropped_and_logged() -> None:
    (port,) = free_ports(1)
    endpoint = f"tcp://127.0.0.1:{port}"
    transport = Transport(binds=(endpoint,), peers={}, group=1)
    answer = frames.Envelope()
    answer.replies.add(detail="x" * 200)
    with zmq.Context() as context, context.socket(zmq.DEALER) as coordinator:
        coordinator.linger = 0
        coordinator.rcvhwm = 1
        coordinator.rcvbuf = 4096
        coordinator.connect(endpoint)
        coordinator.send(frames.Envelope(group=1).SerializeToString())
        received = wait_until(lambda: transport.receive(0.05), timeout_s=10, what="a coordinator")
        identity = received[0][0]
        with capture_logs() as logged:
            for _ in range(2 * CLIENT_QUEUE_MESSAGES_MAX):
                transport.send_client(identity, answer)
                if logged:
                    break
        assert [line["event"] for line in logged] == ["dropped an answer: the coordinator's queue is full"]

    def is_gone() -> bool:
        """Nothing is logged for one that has gone, and nothing raised."""
        transport.receive(0.0)
        with capture_logs() as unlogged:
            transport.send_client(identity, answer)
        return not unlogged

    wait_until(is_gone, timeout_s=10, what="the connection's end")
    transport.close()


def test_a_peer_that_moves_is_found_where_it_is_now_and_one_that_left_is_not() -> None:
    first, second = free_ports(2)
    with Transports(first, {PEER: f"tcp://127.0.0.1:{first}"}) as both:
        wait_until(both.arrives, timeout_s=10, what="a first envelope")
        both.far.close()
        both.far = Transport(binds=(f"tcp://127.0.0.1:{second}",), peers={}, group=1)
        both.near.know_peers({PEER: f"tcp://127.0.0.1:{second}"})
        wait_until(both.arrives, timeout_s=10, what="an envelope at the new place")
        both.near.know_peers({})
        both.far.receive(0.05)
        assert not both.arrives()
