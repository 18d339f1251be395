"""Asks replicas themselves how they are: role, leader, positions, revisions. For the command line;
blocking."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import zmq

from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Iterable

    from config import ClusterConfig
    from config.process.names import ProcessName

_CALL = 1


def ask_replicas(
    cluster: ClusterConfig, replicas: Iterable[ProcessName], *, timeout_s: float
) -> dict[ProcessName, frames.ReplicaStatus]:
    """What each replica says of itself; those that did not answer in time are left out.

    Over tcp even within a node: that way one call also reaches nodes on other machines."""
    answers: dict[ProcessName, frames.ReplicaStatus] = {}
    deadline_s = time.monotonic() + timeout_s
    with zmq.Context() as context:
        waiting = {}
        for name in replicas:
            assert name.shard is not None
            socket = context.socket(zmq.DEALER)
            socket.linger = 0
            socket.connect(cluster.worker_tcp(name.node, name.shard))
            socket.send(_question(cluster.group(name.shard)), zmq.NOBLOCK)
            waiting[socket] = name
        try:
            poller = zmq.Poller()
            for socket in waiting:
                poller.register(socket, zmq.POLLIN)
            while len(answers) < len(waiting):
                remaining_ms = int((deadline_s - time.monotonic()) * 1000)
                if remaining_ms <= 0:
                    break
                for socket, _ in poller.poll(remaining_ms):
                    assert isinstance(socket, zmq.Socket)
                    status = _status_in(socket.recv())
                    if status is not None:
                        answers[waiting[socket]] = status
        finally:
            for socket in waiting:
                socket.close()
    return answers


def _question(group: int) -> bytes:
    request = frames.Request(call=_CALL, method=frames.REPLICA_STATUS)
    return frames.Envelope(group=group, requests=[request]).SerializeToString()


def _status_in(payload: bytes) -> frames.ReplicaStatus | None:
    """The answer in an envelope, which may also bring news we did not ask for."""
    for reply in frames.Envelope.FromString(payload).replies:
        if reply.call == _CALL and not reply.error:
            return frames.ReplicaStatus.FromString(reply.body)
    return None
