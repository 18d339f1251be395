"""Whole copies of the state on their way between replicas, beside the Raft messages that ask for them.

The leader's core asks for a snapshot to be sent to a peer that needs entries the log no longer has. A copy is made in
the background (peers that ask meanwhile share it) and travels in chunks, a few ahead of what the peer has
acknowledged; neither side ever holds it in memory. What a full queue drops is sent again from the last acknowledged
byte. The peer hashes and checks the copy in the background, and only then steps the SNAPSHOT message into its own core:
for the core, a snapshot arrives whole or not at all.

Making a copy and sending it give way to clients (giving_way.py): then one chunk is under way at a time. But the entries
that are written meanwhile have to be there once the copy is, or all was in vain. So nobody gives way while the log's
tail is used up faster than the copy gets on, nor, while it is made, to a write-ahead log that has become long: it can't
start over meanwhile.

Bounds: CHUNKS_AHEAD chunks and `snapshot_rate_bytes` a second on the way out, one copy at a time on the way in, and
PATIENCE_TICKS without progress on either side.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker import raft_frames
from shardworker.raft import NEVER_TICKS, Message, MessageKind, NodeId, Term
from shardworker.replica.giving_way import Share
from shardworker.replica.part import Part
from shardworker.store import DiskFull, SnapshotRejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardworker.raft import SnapshotMeta
    from shardworker.replica.part import ReplicaContext
    from shardworker.store import ReceivedSnapshot, SnapshotFile, SnapshotReceiver

CHUNKS_AHEAD: Final = 4
RESEND_TICKS: Final = 5
PATIENCE_TICKS: Final = 100

SHARE_MAX: Final = 0.5
"""Of the time, while clients want the replica. Less of it makes the peer lack more in the end, which costs as much."""

TAIL_SHARE_FIRST: Final = 0.1
TAIL_SHARE_LAST: Final = 0.5
"""Of the log's tail: what may be written until the first chunk leaves, and until the last one is there. The rest is for
what the peer does with the copy, and for the entries themselves."""

WAL_BYTES_MAX: Final = 64 << 20
"""A write-ahead log of more is too long to rest. What it holds has fewer bytes of entries, so of the log's tail."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Sending:
    """One peer's copy on its way out."""

    stream: int
    term: int
    """Of the leadership that began it. A later one of this replica begins anew; another leader sends its own."""
    sent_bytes: int = 0
    acknowledged_bytes: int = 0
    quiet_ticks: int = 0
    chunk_sent_s: float = 0.0


@dataclass(slots=True)
class _Receiving:
    """The copy on its way in."""

    sender: NodeId
    term: Term
    """In which the sender led. By the time the copy is checked somebody else may lead."""
    receiver: SnapshotReceiver
    checking: bool = False
    quiet_ticks: int = 0


class Snapshots(Part):
    """Both directions of one replica. Called from the loop's thread only."""

    def __init__(self, context: ReplicaContext) -> None:
        cluster = context.cluster
        self._node = context.node
        self._core = context.core
        self._store = context.store
        self._background = context.background
        self._send = context.outgoing.send_peer
        self._demand = context.demand
        self._share = Share(context.demand, SHARE_MAX)
        self._tail_entries = max(1, cluster.raft.log_tail_entries)
        self._tail_bytes = max(1, cluster.raft.log_tail_bytes)
        self._chunk_bytes = cluster.store.snapshot_chunk_bytes
        self._tick_bytes = max(1, cluster.store.snapshot_rate_bytes * cluster.raft.tick_ms // 1000)
        self._budget_bytes = self._tick_bytes
        self._attempts = itertools.count(1)
        self._making = False
        self._made: SnapshotFile | None = None
        self._sending: dict[NodeId, _Sending] = {}
        self._receiving: _Receiving | None = None
        self._received: ReceivedSnapshot | None = None

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        if envelope.HasField("snapshot_chunk"):
            self._handle_chunk(envelope.snapshot_chunk)
        if envelope.HasField("snapshot_ack"):
            self._handle_ack(envelope.snapshot_ack)

    # ---- sending ------------------------------------------------------------------------------------------------

    def start(self, peer: NodeId) -> None:
        """The core wants this peer to have a snapshot."""
        term = self._core.term
        if peer in self._sending and self._sending[peer].term == term:
            return
        # A restarted sender leads in a later term, so an attempt's number never comes again.
        self._sending[peer] = _Sending(stream=term << 20 | next(self._attempts), term=term)
        log.info("sending a snapshot", node=self._node, peer=peer)
        if self._made is not None:
            self._pump(peer)
        elif not self._making:
            self._making = True
            try:
                self._background.submit(self._make, self._use)
            except errors.QueueFull as error:
                log.warning("no snapshot can be made now", node=self._node, peer=peer, reason=str(error))
                self._use(None)

    def _make(self) -> SnapshotFile | None:
        try:
            return self._store.create_snapshot(self._rest)
        except DiskFull as error:
            log.error("no snapshot can be made", node=self._node, reason=str(error))
            return None

    def _rest(self, took_s: float) -> None:
        """In the job's thread, between two pieces of the copy."""
        rest_s = self._share.rest_s(took_s)
        if rest_s > 0.0 and self._store.wal_bytes < WAL_BYTES_MAX:
            self._background.rest(rest_s)

    def _use(self, made: SnapshotFile | None) -> None:
        self._making = False
        self._made = made
        for peer in list(self._sending):
            if made is None:
                self._end(peer, ok=False)
            else:
                self._pump(peer)
        self._forget_unused()

    def _pump(self, peer: NodeId) -> None:
        """Send what the peer's window and this tick's budget allow, and clients."""
        sending, made = self._sending[peer], self._made
        assert made is not None
        window = sending.acknowledged_bytes + self._chunks_ahead(made, sending) * self._chunk_bytes
        while sending.sent_bytes < min(made.size_bytes, window) and self._budget_bytes > 0:
            data = made.read(sending.sent_bytes, self._chunk_bytes)
            last = sending.sent_bytes + len(data) == made.size_bytes
            chunk = frames.SnapshotChunk(
                sender=self._node,
                term=sending.term,
                meta=raft_frames.encode_snapshot_meta(made.meta),
                stream=sending.stream,
                offset=sending.sent_bytes,
                data=data,
                total_bytes=made.size_bytes,
                sha256=made.sha256 if last else b"",
                last=last,
            )
            sending.chunk_sent_s = self._share.now_s()
            self._send(peer, frames.Envelope(snapshot_chunk=chunk))
            sending.sent_bytes += len(data)
            self._budget_bytes -= len(data)

    def _chunks_ahead(self, made: SnapshotFile, sending: _Sending) -> int:
        """How many may be under way now."""
        if not self._demand.is_there() or self._is_late(made, sending):
            return CHUNKS_AHEAD
        return int(self._share.may_step())

    def _is_late(self, made: SnapshotFile, sending: _Sending) -> bool:
        """Whether the log's tail might not reach until the copy is there."""
        log, since = self._store.log, made.meta.index
        used = max((log.last_index() - since) / self._tail_entries, log.bytes_after(since) / self._tail_bytes)
        done = sending.acknowledged_bytes / made.size_bytes
        return used > TAIL_SHARE_FIRST + (TAIL_SHARE_LAST - TAIL_SHARE_FIRST) * done

    def _handle_ack(self, ack: frames.SnapshotAck) -> None:
        """A peer says how far it is."""
        peer = NodeId(ack.sender)
        sending = self._sending.get(peer)
        if sending is None or sending.stream != ack.stream or self._made is None:
            return
        if ack.refused:
            log.warning("a peer refused a snapshot", node=self._node, peer=peer, reason=ack.refused)
            self._end(peer, ok=False)
            return
        if ack.received_bytes > sending.acknowledged_bytes:
            sending.acknowledged_bytes = ack.received_bytes
            sending.quiet_ticks = 0
            self._share.stepped(sending.chunk_sent_s)
        if ack.received_bytes == self._made.size_bytes:
            self._end(peer, ok=True)
        else:
            self._pump(peer)

    def _end(self, peer: NodeId, *, ok: bool) -> None:
        del self._sending[peer]
        self._core.report_snapshot(peer, ok)
        self._forget_unused()

    def _forget_unused(self) -> None:
        if self._made is not None and not self._sending:
            self._made.remove()
            self._made = None

    def _tick_sending(self) -> None:
        self._budget_bytes = self._tick_bytes
        if self._made is None:
            return
        for peer, sending in list(self._sending.items()):
            sending.quiet_ticks += 1
            if sending.quiet_ticks > PATIENCE_TICKS:
                self._end(peer, ok=False)
                continue
            if sending.quiet_ticks % RESEND_TICKS == 0:
                sending.sent_bytes = sending.acknowledged_bytes
            self._pump(peer)

    # ---- receiving ----------------------------------------------------------------------------------------------

    def _handle_chunk(self, chunk: frames.SnapshotChunk) -> None:
        """A piece of a copy has arrived."""
        sender = NodeId(chunk.sender)
        if chunk.term < self._core.term:
            return  # from a leader of the past
        try:
            receiving = self._stream(sender, chunk)
            if receiving.checking:
                return
            receiving.quiet_ticks = 0
            received_bytes = receiving.receiver.write(chunk.offset, chunk.data)
        except (DiskFull, SnapshotRejected) as error:
            self._give_up(sender, chunk.stream, str(error))
            return
        if received_bytes < chunk.total_bytes:
            self._acknowledge(sender, chunk.stream, received_bytes)
        elif chunk.last:
            receiving.checking = True
            self._check(receiving, raft_frames.decode_snapshot_meta(chunk.meta), chunk.sha256)

    def _stream(self, sender: NodeId, chunk: frames.SnapshotChunk) -> _Receiving:
        """The copy this chunk belongs to; the first chunk of a later attempt replaces an earlier one."""
        receiving = self._receiving
        if receiving is not None and receiving.receiver.stream == chunk.stream:
            return receiving
        if self._received is not None:
            raise SnapshotRejected("another snapshot waits to be installed")
        if receiving is not None:
            if receiving.checking or receiving.receiver.stream > chunk.stream:
                raise SnapshotRejected("another snapshot is arriving")
            receiving.receiver.discard()
        log.info("receiving a snapshot", node=self._node, sender=sender, bytes=chunk.total_bytes)
        self._receiving = None
        receiver = self._store.receive_snapshot(chunk.stream, chunk.total_bytes)
        self._receiving = _Receiving(sender, Term(chunk.term), receiver)
        return self._receiving

    def _check(self, receiving: _Receiving, meta: SnapshotMeta, sha256: bytes) -> None:
        def check() -> ReceivedSnapshot | str:
            try:
                return receiving.receiver.finish(meta, sha256)
            except (DiskFull, SnapshotRejected) as error:
                return str(error)

        def checked(outcome: ReceivedSnapshot | str) -> None:
            if isinstance(outcome, str):
                self._give_up(receiving.sender, receiving.receiver.stream, outcome)
            else:
                self._accept(receiving, outcome)

        try:
            self._background.submit(check, checked)
        except errors.QueueFull as error:
            self._give_up(receiving.sender, receiving.receiver.stream, str(error))

    def _accept(self, receiving: _Receiving, received: ReceivedSnapshot) -> None:
        """The copy is whole: now the core hears of it, and the next Ready may ask for it to be installed."""
        self._receiving = None
        self._received = received
        self._core.step(
            Message(
                MessageKind.SNAPSHOT,
                to=self._node,
                sender=receiving.sender,
                term=receiving.term,
                snapshot=received.meta,
            )
        )
        self._acknowledge(receiving.sender, receiving.receiver.stream, received.size_bytes)

    def received(self, meta: SnapshotMeta) -> ReceivedSnapshot:
        """The copy that the core wants installed."""
        assert self._received is not None, "the core was told of a snapshot that is not here"
        assert self._received.meta == meta
        return self._received

    def installed(self) -> None:
        self._received = None

    def end_turn(self) -> None:
        """Go on with who has rested. Drop a copy that has arrived and that the core had no use for."""
        if self._made is not None:
            for peer in self._sending:
                self._pump(peer)
        if self._received is not None and self._core.log.pending_snapshot is None:
            self._store.discard_received(self._received)
            self._received = None

    def _give_up(self, sender: NodeId, stream: int, reason: str) -> None:
        log.warning("a snapshot was refused", node=self._node, sender=sender, reason=reason)
        if self._receiving is not None and self._receiving.receiver.stream == stream:
            self._receiving.receiver.discard()
            self._receiving = None
        self._send(
            sender,
            frames.Envelope(
                snapshot_ack=frames.SnapshotAck(sender=self._node, stream=stream, refused=reason)
            ),
        )

    def _acknowledge(self, sender: NodeId, stream: int, received_bytes: int) -> None:
        ack = frames.SnapshotAck(sender=self._node, stream=stream, received_bytes=received_bytes)
        self._send(sender, frames.Envelope(snapshot_ack=ack))

    # ---- time ---------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Refill the budget, repeat what was lost, give up on who is silent."""
        self._tick_sending()
        receiving = self._receiving
        if receiving is not None and not receiving.checking:
            receiving.quiet_ticks += 1
            if receiving.quiet_ticks > PATIENCE_TICKS:
                self._give_up(receiving.sender, receiving.receiver.stream, "no chunk arrived for too long")

    def ticks_until_action(self) -> int:
        return 1 if self._sending or self._receiving is not None else NEVER_TICKS

    def statistics(self) -> Mapping[str, int]:
        return {
            "snapshots_sending": len(self._sending),
            "snapshots_receiving": int(self._receiving is not None),
        }
