"""The ZeroMQ side: one DEALER socket to one replica.

The requests of one turn of the event loop come and leave together, and everything that has arrived is read in one go:
the cost of a message is paid per turn, not per request. ZeroMQ's file descriptor is edge-triggered: it becomes
readable once for any number of messages, and sending can swallow that edge. So whoever touches the socket drains it,
and looks at its events again after sending.

The link says when its replica comes and goes. Nothing is queued for a replica that is away (`immediate`): a request
is either on a connection whose end will be noticed, or it was not taken at all. News that want no answer are kept
until there is room for them, of each kind the newest, and no request goes ahead of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import structlog
import zmq
from zmq.utils.monitor import parse_monitor_message

from coordinator.shards import envelopes
from proto.internal import sockets, wire

if TYPE_CHECKING:
    import asyncio

    from coordinator.shards.router import Outgoing, Replica
    from proto.internal import frames_pb2 as frames
    from proto.internal.curve import PeerKeys

DRAIN_MESSAGES_MAX: Final = 128
"""Envelopes read before other work of the loop gets its turn."""

log = structlog.get_logger()


class Listener(Protocol):
    """Who hears what a link has to say."""

    def handle_connected(self, replica: Replica) -> None: ...
    def handle_disconnected(self, replica: Replica) -> None: ...
    def handle_envelope(self, replica: Replica, envelope: frames.Envelope, attached_bytes: int) -> None: ...

    def turn(self) -> None:
        """All that has arrived was handed over."""


class Link:
    """The connection to one replica."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: asyncio.AbstractEventLoop,
        listener: Listener,
        replica: Replica,
        *,
        endpoint: str,
        group: int,
        local: int,
        keys: PeerKeys | None,
    ) -> None:
        """Start connecting. local is the node id of this coordinator, keys are needed for other nodes, and have to
        have this one's."""
        self.endpoint = endpoint
        self._replica = replica
        self._loop = loop
        self._listener = listener
        self._group = group
        self._local = local
        self._closed = False
        self._has_refused = False
        self._untold: dict[str, bytes] = {}
        """By kind, what there was no room for."""
        self._socket = sockets.to_replica(context)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._socket_fd = int(self._socket.get(zmq.FD))
        self._monitor_fd = int(self._monitor.get(zmq.FD))
        loop.add_reader(self._monitor_fd, self._drain_monitor)
        loop.add_reader(self._socket_fd, self._drain)
        sockets.connect(self._socket, endpoint, keys, replica.node)
        # What was readable before the readers were there causes no event any more.
        loop.call_soon(self._drain_monitor)
        loop.call_soon(self._drain)

    def send(self, outgoing: Outgoing) -> bool:
        """Send it all, after the news that were told before, or return False."""
        envelope = envelopes.encode(outgoing, local=self._local)
        sent = self._tell_untold() and self._send(wire.encode(envelope, self._group))
        self._look_again()
        return sent

    def tell(self, news: frames.Envelope) -> None:
        """Send what wants no answer, at once or when there is room, unless there are newer news of its kind by then."""
        kind = news.ListFields()[0][0].name
        self._untold[kind] = wire.encode(news, self._group)
        self._tell_untold()
        self._look_again()

    def _tell_untold(self) -> bool:
        """Whether no news are left."""
        for kind, payload in list(self._untold.items()):
            if not self._send(payload):
                return False
            del self._untold[kind]
        return True

    def _send(self, payload: bytes) -> bool:
        try:
            self._socket.send(payload, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _look_again(self) -> None:
        """After sending, or trying to."""
        events = int(self._socket.get(zmq.EVENTS))
        if events & zmq.POLLIN or (self._untold and events & zmq.POLLOUT):
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        if self._closed:
            return
        receive = self._socket.recv_multipart
        for _ in range(DRAIN_MESSAGES_MAX):
            try:
                payload, *attachments = receive(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._handle(payload, attachments)
        else:
            self._loop.call_soon(self._drain)
        if self._untold:
            self._tell_untold()
            self._look_again()
        self._listener.turn()

    def _handle(self, payload: bytes, attachments: list[bytes]) -> None:
        try:
            envelope = wire.decode(payload, self._group)
        except wire.Unreadable as error:
            if not self._has_refused:
                self._has_refused = True
                log.warning(
                    "dropped an answer", shard=self._replica.shard, node=self._replica.node, reason=str(error)
                )
            return
        attached_bytes = envelopes.attach(envelope, attachments)
        self._listener.handle_envelope(self._replica, envelope, attached_bytes)

    def _drain_monitor(self) -> None:
        while not self._closed:
            try:
                parts = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if parse_monitor_message(parts)["event"] == zmq.EVENT_DISCONNECTED:
                self._listener.handle_disconnected(self._replica)
            else:
                self._listener.handle_connected(self._replica)
        if not self._closed:
            self._listener.turn()

    def close(self) -> None:
        """Drop the connection and whatever was not sent."""
        self._closed = True
        self._loop.remove_reader(self._socket_fd)
        self._loop.remove_reader(self._monitor_fd)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()
