"""The ZeroMQ sockets between processes of a cluster: every option that any of them has.

A worker listens on one ROUTER. Its peers, coordinators and the command line connect with DEALERs. All notice within
HEARTBEAT_TIMEOUT_MS that the other end is gone: TCP would keep a connection to a vanished host for a quarter of an
hour, and be silent after a partition for as long again as that lasted. ZeroMQ's own thread answers heartbeats, so a
busy process is not taken for a lost one.

Between nodes, over tcp, connections are encrypted by CURVE if there are keys: each side proves that it has the secret
of its node, and a worker lets in the cluster's nodes only (proto/internal/gatekeeper.py). Within a node they are unix
sockets in a folder of this user's own, and plain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import zmq

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proto.internal.curve import PeerKeys

    Socket = zmq.Socket[bytes]
    Context = zmq.Context[zmq.Socket[bytes]]

HEARTBEAT_INTERVAL_MS: Final = 2_000
HEARTBEAT_TIMEOUT_MS: Final = 5_000

CLIENT_QUEUE_MESSAGES_MAX: Final = 100_000
"""Envelopes from and to one coordinator that wait in a worker's socket."""

PEER_QUEUE_MESSAGES_MAX: Final = 256
"""Short: Raft repeats what is lost, and a peer that was away must not be met by a backlog from another time."""

LINK_QUEUE_MESSAGES_MAX: Final = 10_000
"""Envelopes waiting for a replica that is connected but does not read."""

CONNECT_TIMEOUT_MS: Final = 2_000
"""A connection that is not made within this is tried anew: TCP repeats a lost first packet ever more rarely."""

RECONNECT_FIRST_MS: Final = 20
RECONNECT_MAX_MS: Final = 500
"""A restarted worker is noticed within this; it also bounds the attempts of an idle cluster."""

CLOSE_LINGER_MS: Final = 500
"""How long the end of a worker lets ZeroMQ deliver the last answers."""


ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
"""Where ZeroMQ asks whether a client may connect (its RFC 27)."""
ZAP_DOMAIN: Final = b"nodes"


def listening(context: Context) -> Socket:
    """A worker's: what comes in from everybody, and answers by the identity of a connection. See bind()."""
    socket = context.socket(zmq.ROUTER)
    socket.sndhwm = CLIENT_QUEUE_MESSAGES_MAX
    socket.rcvhwm = CLIENT_QUEUE_MESSAGES_MAX
    socket.linger = CLOSE_LINGER_MS
    socket.router_mandatory = True  # else it drops answers without a word
    _watch(socket)
    return socket


def to_peer(context: Context) -> Socket:
    """A worker's, to the same shard's replica on another node."""
    socket = _connecting(context)
    socket.sndhwm = PEER_QUEUE_MESSAGES_MAX
    # A connection to a machine that does not answer must not be waited for longer than one that broke.
    socket.connect_timeout = CONNECT_TIMEOUT_MS
    return socket


def to_replica(context: Context) -> Socket:
    """A coordinator's, to one replica."""
    socket = _connecting(context)
    socket.sndhwm = LINK_QUEUE_MESSAGES_MAX
    socket.rcvhwm = 0  # answers are bounded by the calls in flight, and metered (Envelope.taken_bytes)
    return socket


def asking(context: Context) -> Socket:
    """For one question to a replica, whose answer is waited for."""
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.ipv6 = True
    return socket


def deciding(context: Context) -> Socket:
    """For a worker's gatekeeper. To be made before bind(): without it ZeroMQ lets everybody in."""
    socket = context.socket(zmq.REP)
    socket.linger = 0
    socket.bind(ZAP_ENDPOINT)
    return socket


def bind(socket: Socket, endpoints: Iterable[str], keys: PeerKeys | None) -> None:
    """Listen, with keys only for who has some of this cluster's. Raises zmq.ZMQError."""
    # Options count for what is bound after them: unix sockets come first, and stay plain.
    for endpoint in sorted(endpoints, key=_is_remote):
        if keys is not None and _is_remote(endpoint):
            socket.curve_server = True
            socket.curve_secretkey = keys.secret
            socket.zap_domain = ZAP_DOMAIN
        socket.bind(endpoint)


def connect(socket: Socket, endpoint: str, keys: PeerKeys | None, node: int) -> None:
    """Connect to a replica of a node, with keys, of which this one's has to be known, so that nobody else can be taken
    for it."""
    if keys is not None and _is_remote(endpoint):
        public = keys.of(node)
        assert public is not None, f"the public key of node {node} is not known"
        socket.curve_publickey = keys.public
        socket.curve_secretkey = keys.secret
        socket.curve_serverkey = public
    socket.connect(endpoint)


def _is_remote(endpoint: str) -> bool:
    return endpoint.startswith("tcp:")


def _connecting(context: Context) -> Socket:
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    # Without a completed connection nothing is queued: stale votes and appends are worse than none, and a request is
    # either on a connection whose end will be noticed, or was not taken at all.
    socket.immediate = True
    socket.reconnect_ivl = RECONNECT_FIRST_MS
    socket.reconnect_ivl_max = RECONNECT_MAX_MS
    # Also how soon somebody tries again who was not known yet (gatekeeper.py).
    socket.handshake_ivl = HEARTBEAT_TIMEOUT_MS
    _watch(socket)
    return socket


def _watch(socket: Socket) -> None:
    socket.ipv6 = True  # as well as IPv4
    socket.heartbeat_ivl = HEARTBEAT_INTERVAL_MS
    socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
