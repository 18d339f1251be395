"""Connections between nodes with keys: who is let in by tcp, who is not, and that unix sockets stay as they are."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import zmq
from structlog.testing import capture_logs

from proto.internal import frames_pb2 as frames
from proto.internal import sockets, wire
from proto.internal.curve import PeerKeys
from shardworker.raft import NodeId
from shardworker.transport import Transport
from tests.waiting import free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAR = NodeId(2)
REFUSED_WITHIN_S = 1.0


def cluster_keys() -> dict[int, PeerKeys]:
    """Of nodes 1 and 2."""
    pairs = {node: zmq.curve_keypair() for node in (1, 2)}
    public_of = {node: public for node, (public, _) in pairs.items()}
    return {node: PeerKeys(public, secret, public_of) for node, (public, secret) in pairs.items()}


KEYS = cluster_keys()


@contextlib.contextmanager
def listening(*more_binds: str) -> Iterator[tuple[Transport, str]]:
    """Node 2's transport, and where it is by tcp."""
    (port,) = free_ports(1)
    endpoint = f"tcp://127.0.0.1:{port}"
    transport = Transport(binds=(endpoint, *more_binds), peers={}, group=1, keys=KEYS[2])
    try:
        yield transport, endpoint
    finally:
        transport.close()


@contextlib.contextmanager
def asking(endpoint: str, keys: PeerKeys | None) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context:
        socket = sockets.asking(context)
        sockets.connect(socket, endpoint, keys, FAR)
        socket.send(wire.encode(frames.Envelope(), 1), zmq.NOBLOCK)
        try:
            yield socket
        finally:
            socket.close()


def is_heard(transport: Transport, endpoint: str, keys: PeerKeys | None, within_s: float) -> bool:
    with asking(endpoint, keys):
        try:
            wait_until(lambda: transport.receive(0.05), timeout_s=within_s, what="an envelope")
        except AssertionError:
            return False
        return True


def test_nodes_of_the_cluster_are_let_in() -> None:
    (own,) = free_ports(1)
    with listening() as (far, endpoint):
        near = Transport(binds=(f"tcp://127.0.0.1:{own}",), peers={FAR: endpoint}, group=1, keys=KEYS[1])

        def arrives() -> bool:
            near.send_peer(FAR, frames.Envelope())
            return bool(far.receive(0.05))

        try:
            wait_until(arrives, timeout_s=10, what="an envelope")
            assert near.disconnected() == []
        finally:
            near.close()


@pytest.mark.parametrize(
    "who", ["no keys", "keys of nobody", "keys of another cluster", "the right server only"]
)
def test_nobody_else_is_let_in(who: str) -> None:
    public, secret = zmq.curve_keypair()
    keys = {
        "no keys": None,
        "keys of nobody": PeerKeys(public, secret, {FAR: KEYS[2].public}),
        "keys of another cluster": cluster_keys()[1],
        "the right server only": PeerKeys(public, KEYS[1].secret, {FAR: KEYS[2].public}),
    }[who]
    with listening() as (transport, endpoint), capture_logs() as logs:
        assert not is_heard(transport, endpoint, keys, REFUSED_WITHIN_S)
        assert is_heard(transport, endpoint, KEYS[1], 10), "and those who may are"
    told = [entry["event"] for entry in logs]
    proved = who == "keys of nobody"  # the others do not get as far as to say who they are
    assert told == (["refused a connection: its key is not of a node of this cluster"] if proved else [])


def test_a_server_that_is_another_is_not_talked_to() -> None:
    """Whoever takes a node's address has not its secret, and learns nothing."""
    other = PeerKeys(KEYS[1].public, KEYS[1].secret, {FAR: cluster_keys()[2].public})
    with listening() as (transport, endpoint):
        assert not is_heard(transport, endpoint, other, REFUSED_WITHIN_S)


def test_unix_sockets_stay_plain(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path / 'socket'}"
    with listening(endpoint) as (transport, _):
        assert is_heard(transport, endpoint, None, 10)
        assert is_heard(transport, endpoint, KEYS[1], 10), "with keys at hand as well"
