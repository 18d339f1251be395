"""What leaves with a turn: answers gathered per coordinator, Raft messages gathered per peer.

An Envelope carries everything its receiver gets from one turn, up to a bound; large bodies travel beside it. Answers
are bounded too: so many bytes in one turn, and so many on their way to one coordinator that says what it has taken.
What can wait asks `has_room` first, and waits for the next turn, or for the coordinator. Answers to writes never wait,
nor are they ever dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker import raft_frames
from shardworker.machine import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from shardworker.raft import Message, NodeId, Raft

ATTACHMENT_BYTES_MIN: Final = 256 * 1024
"""Bodies from this size on travel beside the Envelope: copying them into it and out again cost 100 ms for 28 MB."""

ENVELOPE_BYTES_MAX: Final = 16 << 20
"""Bodies of the answers in one Envelope; more than that leave in further ones. protobuf encodes nothing over 2 GiB, and
the thousands of reads that a turn may answer come to more."""

WINDOW_PATIENCE_TICKS: Final = 100
"""A coordinator with a full window that takes nothing for so long is gone, or has no room left for what its clients do
not read: what could wait for it is refused, so that it holds up neither reads nor their memory."""

SMALL_BYTES_MAX: Final = 4 << 10
"""A body up to this costs hardly more than a refusal, and is never replaced by one."""


class Outbox(Protocol):
    """Where envelopes leave. Neither call blocks; either may lose what it is given."""

    def send_peer(self, node: NodeId, envelope: frames.Envelope) -> None:
        """Send to the same shard's replica on another node."""

    def send_client(
        self, identity: bytes, envelope: frames.Envelope, attachments: Sequence[bytes] = ()
    ) -> None:
        """Send to the coordinator behind this link; attachments are what Reply.attachment counts."""

    def know_peers(self, endpoints: Mapping[NodeId, str]) -> None:
        """These are the shard's replicas on other nodes, and where they are: no others need a connection."""

    def know_keys(self, keys: Mapping[int, bytes]) -> None:
        """These are the public keys of nodes that came later than the cluster file, by node id: all that are known."""


class _Gathered:
    """What one coordinator gets with this turn."""

    __slots__ = ("attachments", "body_bytes", "envelope")

    def __init__(self) -> None:
        self.envelope = frames.Envelope()
        self.attachments: list[bytes] = []
        self.body_bytes = 0


@dataclass(slots=True)
class _Window:
    """What is on its way to a coordinator that says what it takes."""

    answer_bytes: int = 0
    full_ticks: int = 0
    given_up: bool = False


class Outgoing:
    """Everything that leaves one replica."""

    def __init__(
        self, core: Raft, outbox: Outbox, *, turn_answer_bytes_max: int, link_answer_bytes_max: int
    ) -> None:
        """turn_answer_bytes_max: bodies in memory until a turn ends; link_answer_bytes_max: bodies on their way to one
        coordinator that acknowledges. Either is exceeded by at most one answer."""
        self._core = core
        self._outbox = outbox
        self._turn_answer_bytes_max = turn_answer_bytes_max
        self._link_answer_bytes_max = link_answer_bytes_max
        self._turn_answer_bytes = 0
        self._windows: dict[bytes, _Window] = {}
        self._gathered: dict[bytes, _Gathered] = {}
        self._full: list[tuple[bytes, _Gathered]] = []
        self._refusals: list[frames.Reply] = []
        self._peers: dict[NodeId, frames.Envelope] = {}

    # ---- how much may be answered -----------------------------------------------------------------------------------

    def open_window(self, identity: bytes) -> None:
        """The coordinator behind this link says what it takes (frames.Hello.acknowledges)."""
        self._windows[identity] = _Window()

    def forget_window(self, identity: bytes) -> None:
        """Count no longer for this link."""
        self._windows.pop(identity, None)

    def taken(self, identity: bytes, answer_bytes: int) -> None:
        """It has taken so many bytes of bodies since it last said so."""
        window = self._windows.get(identity)
        if window is not None:
            window.answer_bytes = max(0, window.answer_bytes - answer_bytes)
            window.full_ticks, window.given_up = 0, False

    def tick(self) -> None:
        """Give up on who has a full window and takes nothing."""
        for window in self._windows.values():
            if window.answer_bytes >= self._link_answer_bytes_max:
                window.full_ticks += 1
                window.given_up = window.full_ticks >= WINDOW_PATIENCE_TICKS

    @property
    def turn_is_full(self) -> bool:
        """Whether this turn has answered as much as it may."""
        return self._turn_answer_bytes >= self._turn_answer_bytes_max

    def link_is_full(self, identity: bytes) -> bool:
        """Whether as much is on its way to this coordinator as may be."""
        window = self._windows.get(identity)
        return (
            window is not None and window.answer_bytes >= self._link_answer_bytes_max and not window.given_up
        )

    def has_room(self, identity: bytes) -> bool:
        """Whether this coordinator may be answered in this turn, of what can wait."""
        return not self.turn_is_full and not self.link_is_full(identity)

    # ---- to coordinators --------------------------------------------------------------------------------------------

    def answer(
        self, identity: bytes, call: int, result: Result, cursor: int = 0, *, is_applied: bool = False
    ) -> None:
        """The answer to a call on this link. cursor: an iteration goes on behind it. is_applied: it was a write, and
        nothing else can be said of it any more."""
        window = self._windows.get(identity)
        if window is not None:
            if window.given_up and not is_applied and len(result.body) > SMALL_BYTES_MAX:
                cursor = 0
                result = Result(0, b"", errors.QueueFull("answers wait for clients that do not read"))
            window.answer_bytes += len(result.body)
        error, body = result.error, result.body
        gathered = self._gather(identity)
        if gathered.body_bytes and gathered.body_bytes + len(body) > ENVELOPE_BYTES_MAX:
            self._full.append((identity, self._gathered.pop(identity)))
            gathered = self._gather(identity)
        gathered.body_bytes += len(body)
        self._turn_answer_bytes += len(body)
        attachment = 0
        if len(body) >= ATTACHMENT_BYTES_MIN:
            gathered.attachments.append(body)
            attachment, body = len(gathered.attachments), b""
        reply = gathered.envelope.replies.add(
            call=call,
            revision=result.revision,
            term=self._core.term,
            body=body,
            attachment=attachment,
            cursor=cursor,
        )
        if error is not None:
            reply.error, reply.detail, reply.applied = error.frame_code, error.detail, is_applied
            self._refusals.append(reply)

    def refuse(self, identity: bytes, call: int, error: errors.BoathouseError) -> None:
        """The call gets an error."""
        self.answer(identity, call, Result(0, b"", error))

    def announce(self, identity: bytes, state: frames.ReplicaState) -> None:
        """The coordinator is told who leads: at once, ahead of what the turn gathers."""
        self._outbox.send_client(identity, frames.Envelope(state=state))

    def notify(self, identity: bytes, envelope: frames.Envelope) -> None:
        """Tell whoever is behind this link at once; it may be a peer that this replica has no connection to."""
        self._outbox.send_client(identity, envelope)

    def _gather(self, identity: bytes) -> _Gathered:
        gathered = self._gathered.get(identity)
        if gathered is None:
            gathered = self._gathered[identity] = _Gathered()
        return gathered

    def flush(self, committed: Callable[[], frames.CommitPoint | None]) -> None:
        """The turn has ended: send what was gathered for coordinators. committed: so much is applied by now, if they
        are to know it."""
        for reply in self._refusals:
            # What was announced meanwhile has left ahead of them, and must not be taken back.
            reply.term, reply.leader = self._core.term, self._core.leader
        self._refusals.clear()
        if not self._gathered:
            return
        point = committed()
        for identity, gathered in (*self._full, *self._gathered.items()):
            if point is not None:
                gathered.envelope.committed.CopyFrom(point)
            self._outbox.send_client(identity, gathered.envelope, gathered.attachments)
        self._full.clear()
        self._gathered.clear()
        self._turn_answer_bytes = 0

    # ---- to peers ---------------------------------------------------------------------------------------------------

    def send_peer(self, node: NodeId, envelope: frames.Envelope) -> None:
        """Send to a peer at once."""
        if envelope.HasField("snapshot_chunk"):
            envelope.generation = self._generation()
        self._outbox.send_peer(node, envelope)

    def _generation(self) -> int:
        """As frames.Envelope has it."""
        membership = self._core.membership
        return membership.generation + 1 if membership.nodes() else 0

    def send_raft(self, messages: Iterable[Message]) -> None:
        """Send Raft messages at once; everything for one peer in one envelope."""
        for message in messages:
            envelope = self._peers.get(message.to)
            if envelope is None:
                envelope = self._peers[message.to] = frames.Envelope(generation=self._generation())
            envelope.raft.append(raft_frames.encode_message(message))
        for node, envelope in self._peers.items():
            self._outbox.send_peer(node, envelope)
        self._peers.clear()
