"""Asks replicas themselves: how they are, and to hand over. Blocking, for programs of an operator.

A replica of this machine is asked by its unix socket, others over tcp, with keys of a node that is here."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

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
    from proto.catalog import TableEntry
    from proto.internal.curve import PeerKeys

GIVE_UP_S: Final = 3.0
"""A question unanswered for so long is asked anew, on another connection. Until then no second one queues behind it:
a replica that was away must not be met by a backlog."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a replica said, and between which moments: its own clock's reading lies in there."""

    status: frames.ReplicaStatus
    asked_at: float
    answered_at: float
    """Unix seconds by this machine's clock."""


@dataclass(slots=True)
class _Line:
    socket: sockets.Socket
    group: int
    call: int = 0
    asked_at: float | None = None
    """In Unix seconds; None: nothing is asked."""
    asked_s: float = 0.0
    """The same on a clock that nobody sets."""
    is_late: bool = False
    """It let a poll down, and is waited for no more until it answers."""


class ReplicaProbe:
    """Connections to replicas, kept from one poll to the next. Use as a context manager, from one thread."""

    def __init__(self, cluster: ClusterConfig) -> None:
        self._cluster = cluster
        self._keys = _keys_here(cluster)
        self._context: sockets.Context = zmq.Context()
        self._lines: dict[ProcessName, _Line] = {}
        self.newer: dict[ProcessName, int] = {}
        """Who answered last in a version of the protocol that this program can't read, and in which."""
        self._reading: dict[ProcessName, _Line] = {}
        """Lines of their own: an answer to one question is none to another."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for line in (*self._lines.values(), *self._reading.values()):
            line.socket.close()
        self._context.term()

    def go_by(self, cluster: ClusterConfig) -> None:
        """From now on replicas are where this one says."""
        before, self._cluster = self._cluster, cluster
        if self._keys is not None:
            self._keys.of_members = {
                number: key.encode() for number, key in cluster.member_keys.items() if key
            }
        for lines in (self._lines, self._reading):
            moved = [name for name in lines if _place(before, name) != _place(cluster, name)]
            for name in moved:
                lines.pop(name).socket.close()

    def ask(self, names: Iterable[ProcessName], *, timeout_s: float) -> dict[ProcessName, Answered]:
        """What each says; who did not answer in time is left out. Who let the last poll down is asked, but not waited
        for: a dead node costs timeout_s once."""
        wanted = [name for name in names if self.can_ask(name)]
        for name in wanted:
            self._ask(name)
            self.newer.pop(name, None)
        answers: dict[ProcessName, Answered] = {}
        by_socket = {self._lines[name].socket: name for name in wanted}
        poller = zmq.Poller()
        for socket in by_socket:
            poller.register(socket, zmq.POLLIN)
        deadline_s = time.monotonic() + timeout_s
        while len(answers) < len(wanted):
            owed = [name for name in wanted if name not in answers and name not in self.newer]
            awaited = any(not self._lines[name].is_late for name in owed)
            remaining_ms = int((deadline_s - time.monotonic()) * 1000) if awaited else 0
            ready = poller.poll(max(0, remaining_ms))
            for socket, _ in ready:
                assert isinstance(socket, zmq.Socket)
                self._take(by_socket[socket], answers)
            if not ready and (remaining_ms <= 0 or not awaited):
                break
        for name in wanted:
            self._lines[name].is_late = name not in answers and name not in self.newer
        return answers

    def can_ask(self, name: ProcessName) -> bool:
        """Whether it is known where that replica listens, and by which key it is known."""
        if not _place(self._cluster, name):
            return False
        return self._keys is None or self._keys.of(self._cluster.node(name.node).id) is not None

    def read(self, name: ProcessName, table: TableEntry, body: bytes, *, timeout_s: float) -> bytes | None:
        """What a replica answers to an etcd RangeRequest about one of boathouse's own tables, without asking its
        leader. None if nothing in time, or a refusal."""
        line = self._reading.get(name)
        if line is None:
            line = self._reading[name] = _open(self._context, self._cluster, name, self._keys)
        line.call += 1
        _send(line, frames.ETCD_RANGE, body, table_id=table.id)
        deadline_s = time.monotonic() + timeout_s
        while (remaining_ms := int((deadline_s - time.monotonic()) * 1000)) > 0:
            if line.socket.poll(remaining_ms) and (reply := _reply_in(line.socket.recv(), line)):
                return None if reply.error else reply.body
        self._reading.pop(name).socket.close()
        return None

    def _ask(self, name: ProcessName) -> None:
        line = self._lines.get(name)
        if line is not None and line.asked_at is not None:
            if time.monotonic() - line.asked_s < GIVE_UP_S:
                return
            line.socket.close()
            line = None
        if line is None:
            before = self._lines.get(name)
            line = self._lines[name] = _open(self._context, self._cluster, name, self._keys)
            line.is_late = before is not None and before.is_late
        line.call += 1
        line.asked_at, line.asked_s = time.time(), time.monotonic()
        _send(line, frames.REPLICA_STATUS)

    def _take(self, name: ProcessName, answers: dict[ProcessName, Answered]) -> None:
        line = self._lines[name]
        payload = line.socket.recv()
        if (version := _newer_protocol(payload, line)) is not None:
            self.newer[name], line.asked_at = version, None
            return
        reply = _reply_in(payload, line)
        if reply is not None and line.asked_at is not None:
            if not reply.error:
                status = frames.ReplicaStatus.FromString(reply.body)
                answers[name] = Answered(status, line.asked_at, time.time())
            line.asked_at = None


def ask_replicas(
    cluster: ClusterConfig, replicas: Iterable[ProcessName], *, timeout_s: float
) -> dict[ProcessName, frames.ReplicaStatus]:
    """What each replica says of itself, once; those that did not answer in time are left out."""
    with ReplicaProbe(cluster) as probe:
        answers = probe.ask(replicas, timeout_s=timeout_s)
    return {name: answer.status for name, answer in answers.items()}


class NotHandedOver(Exception):
    """A leader was not asked, or would not; says why."""


class NotChanged(Exception):
    """A leader was not asked to change its shard's members, or would not; says why."""

    def __init__(self, why: str, error: errors.BoathouseError | None = None) -> None:
        super().__init__(why)
        self.error = error
        """What it said, if it answered."""


def change_members(
    cluster: ClusterConfig, leader: ProcessName, change: frames.ChangeMembership, *, timeout_s: float
) -> None:
    """Have a shard's leader change who belongs to it; the change is applied when this returns. Raises NotChanged."""
    reply = _ask_once(cluster, leader, frames.CHANGE_MEMBERSHIP, change.SerializeToString(), timeout_s)
    if reply is None:
        raise NotChanged(f"{leader} did not answer within {timeout_s:g} s")
    if reply.error:
        error = errors.from_frame(reply.error, reply.detail)
        raise NotChanged(error.detail or type(error).__name__, error)


def hand_over(cluster: ClusterConfig, leader: ProcessName, target: str | None, *, timeout_s: float) -> None:
    """Have a shard's leader ask another replica to lead: the one on node `target`, or the one that is furthest. The
    election follows. Raises NotHandedOver."""
    body = frames.TransferLeader(target=cluster.node(target).id if target is not None else 0)
    reply = _ask_once(cluster, leader, frames.TRANSFER_LEADER, body.SerializeToString(), timeout_s)
    if reply is None:
        raise NotHandedOver(f"{leader} did not answer within {timeout_s:g} s")
    if reply.error:
        error = errors.from_frame(reply.error, reply.detail)
        raise NotHandedOver(f"{leader} did not hand over: {error.detail or type(error).__name__}")


def _ask_once(
    cluster: ClusterConfig,
    replica: ProcessName,
    method: frames.Method.ValueType,
    body: bytes,
    timeout_s: float,
) -> frames.Reply | None:
    """What a replica answers, on a connection for this alone; None if it does not in time."""
    with zmq.Context() as context:
        line = _open(context, cluster, replica, _keys_here(cluster))
        try:
            line.call += 1
            _send(line, method, body)
            deadline_s = time.monotonic() + timeout_s
            while (remaining_ms := int((deadline_s - time.monotonic()) * 1000)) > 0:
                if line.socket.poll(remaining_ms) and (reply := _reply_in(line.socket.recv(), line)):
                    return reply
        finally:
            line.socket.close()
    return None


def _address(cluster: ClusterConfig, node: str, shard: int) -> str:
    is_here = os.path.exists(cluster.worker_socket(node, shard))
    return cluster.worker_ipc(node, shard) if is_here else cluster.worker_tcp(node, shard)


def _place(cluster: ClusterConfig, name: ProcessName) -> str:
    """Where a replica listens by tcp; empty if that is not known (present.py)."""
    assert name.shard is not None
    node = cluster.nodes.get(name.node)
    if node is None or not (node.host or cluster.holders.get(name.shard, {}).get(node.id)):
        return ""
    return cluster.worker_tcp(name.node, name.shard)


def _keys_here(cluster: ClusterConfig) -> PeerKeys | None:
    """Those of the first node whose secret this user can read; with none, replicas of other machines do not answer."""
    for node in cluster.nodes:
        with contextlib.suppress(BadKeyFile):
            return peer_keys(cluster, node)
    return None


def _open(
    context: sockets.Context, cluster: ClusterConfig, name: ProcessName, keys: PeerKeys | None
) -> _Line:
    assert name.shard is not None
    socket = sockets.asking(context)
    address = _address(cluster, name.node, name.shard)
    sockets.connect(socket, address, keys, cluster.node(name.node).id)
    return _Line(socket, cluster.group(name.shard))


def _send(line: _Line, method: frames.Method.ValueType, body: bytes = b"", table_id: int = 0) -> None:
    request = frames.Request(call=line.call, method=method, table_id=table_id, body=body)
    line.socket.send(wire.encode(frames.Envelope(requests=[request]), line.group), zmq.NOBLOCK)


def _reply_in(payload: bytes, line: _Line) -> frames.Reply | None:
    """The answer to this line's call in an envelope, which may also bring news we did not ask for."""
    try:
        envelope = wire.decode(payload, line.group)
    except wire.Unreadable:
        return None  # of another cluster on the same port, or of a newer build: as if it did not answer
    return next((reply for reply in envelope.replies if reply.call == line.call), None)


def _newer_protocol(payload: bytes, line: _Line) -> int | None:
    """The version that it is in, if that is too new for this program."""
    try:
        wire.decode(payload, line.group)
    except wire.NewerProtocol as error:
        return error.version
    except wire.Unreadable:
        pass
    return None
