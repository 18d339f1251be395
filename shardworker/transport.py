"""ZeroMQ: how a worker hears coordinators and peers, and how it answers.

One ROUTER socket takes everything that comes in, on the node's ipc path and on tcp. Answers to coordinators leave
through it too, by the identity their link connected with. Each peer has a DEALER of its own for Raft traffic; back on
it comes nothing but that one is heard no more (replica/generations.py). What their options are, and who may connect,
proto/internal says (sockets.py, gatekeeper.py).
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog
import zmq

from proto.internal import frames_pb2 as frames
from proto.internal import sockets, wire
from proto.internal.gatekeeper import Gatekeeper
from shardworker.raft import NodeId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from proto.internal.curve import PeerKeys

DRAIN_MESSAGES_MAX: Final = 512
"""Messages taken in one turn; bounds a turn's length. The rest waits in ZeroMQ's queue for the next turn."""

NEWER_LATELY_S: Final = 60.0
"""Whoever speaks a newer version does so every few seconds at least."""

STRANGERS_MAX: Final = 256
"""Senders that were refused once and whose further messages are dropped without a word."""

log = structlog.get_logger()


class _Peer(NamedTuple):
    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    endpoint: str


class Transport:
    """The sockets of one worker. All calls come from one thread, except wake()."""

    def __init__(
        self,
        *,
        binds: tuple[str, ...],
        peers: Mapping[NodeId, str],
        group: int,
        keys: PeerKeys | None = None,
    ) -> None:
        """Bind and connect, with keys if there are any. Raises zmq.ZMQError if an address is taken or not ours."""
        self._group = group
        self._context = zmq.Context(io_threads=1)
        self._keys = keys
        self._gatekeeper = None if keys is None else Gatekeeper(self._context, keys, _tell_refused)
        self._router = sockets.listening(self._context)
        sockets.bind(self._router, binds, keys)
        self._peers: dict[NodeId, _Peer] = {}
        self._traffic: dict[NodeId, frames.PeerTraffic] = {}
        self._monitors: dict[zmq.Socket[bytes], NodeId] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._wake_read, zmq.POLLIN)
        if self._gatekeeper is not None:
            self._poller.register(self._gatekeeper.socket, zmq.POLLIN)
        self._disconnected: list[NodeId] = []
        self._watched: dict[int, Callable[[], None]] = {}
        self._strangers: dict[bytes, None] = {}
        self._newer = (0, 0.0)
        """The version of the protocol that was last refused as too new, and when."""
        self._closed = False
        self.know_peers(peers)

    def know_peers(self, endpoints: Mapping[NodeId, str]) -> None:
        """Have a connection to each of these peers, where it is now, and no others."""
        for node, peer in list(self._peers.items()):
            if endpoints.get(node) != peer.endpoint:
                del self._peers[node]
                self._disconnect(peer)
        for node, endpoint in endpoints.items():
            if node not in self._peers:
                self._connect(node, endpoint)

    def know_keys(self, keys: Mapping[int, bytes]) -> None:
        """These are the public keys of nodes that came later than the cluster file: no others are let in."""
        if self._keys is not None:
            self._keys.of_members = dict(keys)

    def _connect(self, node: NodeId, endpoint: str) -> None:
        if self._keys is not None and self._keys.of(node) is None:
            log.error(
                "a member of the shard is not reached: its public key is not known. `boathouse node add` tells it, or "
                "put it among this node's, and restart this process",
                member=node,
            )
            return
        self._traffic.setdefault(node, frames.PeerTraffic(node=node))
        socket = sockets.to_peer(self._context)
        monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._monitors[monitor] = node
        self._poller.register(monitor, zmq.POLLIN)
        sockets.connect(socket, endpoint, self._keys, node)
        self._poller.register(socket, zmq.POLLIN)
        self._peers[node] = _Peer(socket, monitor, endpoint)

    def _disconnect(self, peer: _Peer) -> None:
        self._poller.unregister(peer.monitor)
        self._poller.unregister(peer.socket)
        del self._monitors[peer.monitor]
        peer.socket.disable_monitor()
        peer.monitor.close(linger=0)  # an open one keeps term() waiting for ever
        peer.socket.close()

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back from receive() when fd is readable (the supervisor's pipe)."""
        self._watched[fd] = callback
        self._poller.register(fd, zmq.POLLIN)

    def unwatch(self, fd: int) -> None:
        """Stop watching fd."""
        del self._watched[fd]
        self._poller.unregister(fd)

    def wake(self) -> None:
        """Make a running or the next receive() return at once. Safe from any thread and from signal handlers, also
        after close()."""
        if self._closed:
            return
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups already

    def receive(self, timeout_s: float, *, pace_until: float = 0.0) -> list[tuple[bytes, frames.Envelope]]:
        """All waiting envelopes with their senders' identities, at most DRAIN_MESSAGES_MAX.

        Waits up to timeout_s for the first one, then until pace_until on the monotonic clock. Envelopes of another
        shard's group or a newer protocol and undecodable bytes are dropped, and logged once per sender."""
        noticed: list[tuple[bytes, frames.Envelope]] = []
        for source, _ in self._poller.poll(math.ceil(timeout_s * 1000)):
            if source == self._wake_read:
                os.read(self._wake_read, 4096)
            elif isinstance(source, int):
                self._watched[source]()
            elif self._gatekeeper is not None and source is self._gatekeeper.socket:
                self._gatekeeper.answer()
            elif source in self._monitors:
                source.recv_multipart()
                self._disconnected.append(self._monitors[source])
            elif source is not self._router:
                noticed += self._taken(b"", source.recv_multipart(zmq.NOBLOCK))
        early_s = pace_until - time.monotonic()
        if early_s > 0:
            time.sleep(early_s)
        return noticed + self._drain()

    def disconnected(self) -> list[NodeId]:
        """Peers whose connection broke since the last call: within milliseconds when a process dies."""
        nodes, self._disconnected = self._disconnected, []
        return nodes

    def _drain(self) -> list[tuple[bytes, frames.Envelope]]:
        received: list[tuple[bytes, frames.Envelope]] = []
        receive = self._router.recv_multipart
        for _ in range(DRAIN_MESSAGES_MAX):
            try:
                identity, *payloads = receive(zmq.NOBLOCK)
            except zmq.Again:
                break
            received += self._taken(identity, payloads)
        return received

    def _taken(self, identity: bytes, payloads: list[bytes]) -> list[tuple[bytes, frames.Envelope]]:
        """The envelope that a message is, if it is one of ours."""
        if len(payloads) != 1:
            log.warning("dropped a message that is not one envelope")
            return []
        try:
            envelope = wire.decode(payloads[0], self._group)
        except wire.Unreadable as error:
            self._refuse(identity, error)
            return []
        if envelope.raft:
            traffic = self._traffic.get(NodeId(envelope.raft[0].sender))
            if traffic is not None:
                traffic.received_bytes += len(payloads[0])
        return [(identity, envelope)]

    def _refuse(self, identity: bytes, error: wire.Unreadable) -> None:
        """Drop what a sender says, and tell once: it will say more."""
        if isinstance(error, wire.NewerProtocol):
            self._newer = error.version, time.monotonic()
        if identity in self._strangers:
            return
        self._strangers[identity] = None
        if len(self._strangers) > STRANGERS_MAX:
            del self._strangers[next(iter(self._strangers))]
        log.warning("dropped a message", reason=str(error), sender=identity.hex())

    def send_peer(self, node: NodeId, envelope: frames.Envelope) -> None:
        """Send to a peer if its connection takes it now; otherwise the envelope is lost, which Raft allows for."""
        peer = self._peers.get(node)
        if peer is None:
            return
        traffic, payload = self._traffic[node], wire.encode(envelope, self._group)
        try:
            peer.socket.send(payload, zmq.NOBLOCK)
        except zmq.Again:
            traffic.lost_messages += 1
        else:
            traffic.sent_bytes += len(payload)

    @property
    def newer_protocol(self) -> int:
        """In which version of the protocol somebody has lately spoken that this build can't read; 0 if nobody has."""
        version, at_s = self._newer
        return version if time.monotonic() - at_s < NEWER_LATELY_S else 0

    @property
    def traffic(self) -> Iterable[frames.PeerTraffic]:
        """With each peer, since the process began. What comes from one is counted as far as it carries Raft messages:
        copies of the database are large, and travel apart from them."""
        return self._traffic.values()

    def send_client(
        self, identity: bytes, envelope: frames.Envelope, attachments: Sequence[bytes] = ()
    ) -> None:
        """Answer a coordinator. One that has gone gets nothing: its calls ended with its connection."""
        try:
            # Large buffers are handed over, not copied: pyzmq copies only below its own threshold of 64 KiB.
            self._router.send_multipart(
                (identity, wire.encode(envelope, self._group), *attachments),
                zmq.NOBLOCK,
                copy=not attachments,
            )
        except zmq.Again:
            log.warning("dropped an answer: the coordinator's queue is full")
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise

    def close(self) -> None:
        """Deliver what is queued for coordinators, for a moment, and release the sockets."""
        for peer in self._peers.values():
            self._disconnect(peer)
        self._router.close()
        if self._gatekeeper is not None:
            self._gatekeeper.close()
        self._context.term()
        self._closed = True
        os.close(self._wake_read)
        os.close(self._wake_write)


def _tell_refused(address: str) -> None:
    log.warning("refused a connection: its key is not of a node of this cluster", peer=address)
