"""Asks replicas themselves: how they are (role, leader, positions, revisions), and to hand over. For the command line;
blocking."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import zmq

from config.tls_files import peer_keys
from proto import errors
from proto.internal import frames_pb2 as frames
from proto.internal import sockets, wire
from proto.internal.curve import BadKeyFile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from config import ClusterConfig
    from config.process.names import ProcessName
    from proto.internal.curve import PeerKeys

_CALL = 1


def ask_replicas(
    cluster: ClusterConfig, replicas: Iterable[ProcessName], *, timeout_s: float
) -> dict[ProcessName, frames.ReplicaStatus]:
    """What each replica says of itself; those that did not answer in time are left out.

    A replica of this machine is asked by its unix socket, others over tcp, with keys of a node that is here."""
    keys = _keys_here(cluster)
    answers: dict[ProcessName, frames.ReplicaStatus] = {}
    deadline_s = time.monotonic() + timeout_s
    with zmq.Context() as context:
        waiting = {}
        for name in replicas:
            assert name.shard is not None
            socket = sockets.asking(context)
            sockets.connect(
                socket, _address(cluster, name.node, name.shard), keys, cluster.node(name.node).id
            )
            group = cluster.group(name.shard)
            socket.send(_question(group), zmq.NOBLOCK)
            waiting[socket] = name, group
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
                    name, group = waiting[socket]
                    status = _status_in(socket.recv(), group)
                    if status is not None:
                        answers[name] = status
        finally:
            for socket in waiting:
                socket.close()
    return answers


def _address(cluster: ClusterConfig, node: str, shard: int) -> str:
    is_here = os.path.exists(cluster.worker_socket(node, shard))
    return cluster.worker_ipc(node, shard) if is_here else cluster.worker_tcp(node, shard)


def _keys_here(cluster: ClusterConfig) -> PeerKeys | None:
    """Those of the first node whose secret this user can read; with none, replicas of other machines do not answer."""
    for node in cluster.nodes:
        with contextlib.suppress(BadKeyFile):
            return peer_keys(cluster, node)
    return None


def ask_transfer(
    cluster: ClusterConfig, leader: ProcessName, target: ProcessName, *, timeout_s: float
) -> str:
    """Ask a shard's leader to hand over to another replica of the shard. Why it does not, in words, or "" once the
    other is asked to take over."""
    assert leader.shard is not None
    group = cluster.group(leader.shard)
    body = frames.TransferLeader(target=cluster.node(target.node).id).SerializeToString()
    request = frames.Request(call=_CALL, method=frames.TRANSFER_LEADER, body=body)
    deadline_s = time.monotonic() + timeout_s
    with zmq.Context() as context, sockets.asking(context) as socket:
        address = _address(cluster, leader.node, leader.shard)
        sockets.connect(socket, address, _keys_here(cluster), cluster.node(leader.node).id)
        socket.send(wire.encode(frames.Envelope(requests=[request]), group), zmq.NOBLOCK)
        while (remaining_ms := int((deadline_s - time.monotonic()) * 1000)) > 0:
            if socket.poll(remaining_ms) and (reply := _reply_in(socket.recv(), group)) is not None:
                return _why(reply)
    return f"it did not answer within {timeout_s:g} s"


def _why(reply: frames.Reply) -> str:
    if not reply.error:
        return ""
    return reply.detail or type(errors.from_frame(reply.error, reply.detail)).__name__


def _question(group: int) -> bytes:
    request = frames.Request(call=_CALL, method=frames.REPLICA_STATUS)
    return wire.encode(frames.Envelope(requests=[request]), group)


def _status_in(payload: bytes, group: int) -> frames.ReplicaStatus | None:
    reply = _reply_in(payload, group)
    return frames.ReplicaStatus.FromString(reply.body) if reply is not None and not reply.error else None


def _reply_in(payload: bytes, group: int) -> frames.Reply | None:
    """The answer in an envelope, which may also bring news we did not ask for."""
    try:
        envelope = wire.decode(payload, group)
    except wire.Unreadable:
        return None  # of another cluster on the same port, or of a newer build: as if it did not answer
    return next((reply for reply in envelope.replies if reply.call == _CALL), None)
