"""The ZeroMQ side: one DEALER socket to one replica.

All requests of one turn of the event loop leave in one Envelope, and everything that has arrived is read in one go:
the cost of a message is paid per turn, not per request. ZeroMQ's file descriptor is edge-triggered: it becomes
readable once for any number of messages, and sending can swallow that edge. So whoever touches the socket drains it,
and looks at its events again after sending.

The link says when the replica comes and goes. Nothing is queued for a replica that is away (`immediate`): a request
is either on a connection whose end will be noticed, or it was not taken at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import structlog
import zmq
from zmq.utils.monitor import parse_monitor_message

from proto.internal import frames_pb2 as frames
from proto.internal import sockets, wire

if TYPE_CHECKING:
    import asyncio

DRAIN_MESSAGES_MAX: Final = 128
"""Envelopes read before other work of the loop gets its turn."""

ACKNOWLEDGE_BYTES_MIN: Final = 1 << 20
"""Answers taken before the replica is told; it sends only so much ahead (limits.link_answer_bytes_max)."""

log = structlog.get_logger()


class Listener(Protocol):
    """Who hears what a link has to say."""

    def handle_connected(self, link: Link) -> None: ...
    def handle_disconnected(self, link: Link) -> None: ...
    def handle_unsent(self, link: Link) -> None: ...
    def handle_envelope(self, link: Link, envelope: frames.Envelope) -> None: ...


class Link:
    """The connection to the replica of `shard` on `node`."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: asyncio.AbstractEventLoop,
        listener: Listener,
        *,
        shard: int,
        node: int,
        local: int,
        endpoint: str,
        group: int,
    ) -> None:
        """Start connecting. local is the node id of this coordinator."""
        self.shard = shard
        self.node = node
        self._loop = loop
        self._listener = listener
        self._group = group
        self._local = local
        self._outgoing: frames.Envelope | None = None
        self._closed = False
        self._taken_bytes = 0
        self._has_refused = False
        self._socket = sockets.to_replica(context)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._socket_fd = int(self._socket.get(zmq.FD))
        self._monitor_fd = int(self._monitor.get(zmq.FD))
        loop.add_reader(self._monitor_fd, self._drain_monitor)
        loop.add_reader(self._socket_fd, self._drain)
        self._socket.connect(endpoint)
        self._drain_monitor()
        self._drain()

    def send(
        self,
        number: int,
        method: frames.Method.ValueType,
        table_id: int,
        body: bytes,
        request_id: bytes,
        linearizable: bool,
        cursor: int,
    ) -> None:
        """Put a request into the Envelope of this turn; the reply carries the number."""
        outgoing = self._outgoing
        if outgoing is None:
            outgoing = self._open_envelope()
        outgoing.requests.add(
            call=number,
            method=method,
            table_id=table_id,
            body=body,
            request_id=request_id,
            linearizable=linearizable,
            cursor=cursor,
        )

    def _open_envelope(self) -> frames.Envelope:
        self._outgoing = frames.Envelope()
        self._loop.call_soon(self._flush)
        return self._outgoing

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, None
        if outgoing is None or self._closed:
            return
        try:
            self._socket.send(wire.encode(outgoing, self._group), zmq.NOBLOCK)
        except zmq.Again:
            self._taken_bytes += outgoing.taken_bytes
            self._listener.handle_unsent(self)
        if int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        if self._closed:
            return
        receive = self._socket.recv_multipart
        for _ in range(DRAIN_MESSAGES_MAX):
            try:
                payload, *attachments = receive(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                envelope = wire.decode(payload, self._group)
            except wire.Unreadable as error:
                if not self._has_refused:
                    self._has_refused = True
                    log.warning("dropped an answer", shard=self.shard, node=self.node, reason=str(error))
                continue
            if attachments:
                for reply in envelope.replies:
                    if reply.attachment:
                        reply.body = attachments[reply.attachment - 1]
            self._taken_bytes += sum([len(reply.body) for reply in envelope.replies])
            if self._taken_bytes >= ACKNOWLEDGE_BYTES_MIN:
                outgoing = self._outgoing or self._open_envelope()
                outgoing.taken_bytes, self._taken_bytes = self._taken_bytes + outgoing.taken_bytes, 0
            self._listener.handle_envelope(self, envelope)
        self._loop.call_soon(self._drain)

    def _drain_monitor(self) -> None:
        while not self._closed:
            try:
                parts = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if parse_monitor_message(parts)["event"] == zmq.EVENT_DISCONNECTED:
                self._listener.handle_disconnected(self)
                continue
            outgoing = self._outgoing or self._open_envelope()
            outgoing.hello.node = self._local
            outgoing.hello.acknowledges = True
            self._taken_bytes = outgoing.taken_bytes = 0  # the replica counts anew for each connection
            self._listener.handle_connected(self)

    def close(self) -> None:
        """Drop the connection and whatever was not sent."""
        self._closed = True
        self._loop.remove_reader(self._socket_fd)
        self._loop.remove_reader(self._monitor_fd)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()
