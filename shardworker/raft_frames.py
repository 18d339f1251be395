"""The rim between the pure core's dataclasses and the frames that travel between processes."""

from __future__ import annotations

import structlog

from proto.internal import frames_pb2 as frames
from shardworker.raft import (
    Entry,
    EntryKind,
    LogIndex,
    Membership,
    Message,
    MessageKind,
    NodeId,
    SnapshotMeta,
    Term,
)

log = structlog.get_logger()


def encode_membership(membership: Membership) -> frames.Membership:
    """The frame of a membership; node ids ascend, so that equal memberships have equal frames."""
    return frames.Membership(
        voters=sorted(membership.voters),
        voters_outgoing=sorted(membership.voters_outgoing),
        learners=sorted(membership.learners),
        learners_next=sorted(membership.learners_next),
        auto_leave=membership.auto_leave,
        directory=[frames.MemberRecord(node=node, record=record) for node, record in membership.directory],
        generation=membership.generation,
        departed=[frames.MemberRecord(node=node, record=record) for node, record in membership.departed],
    )


def decode_membership(frame: frames.Membership) -> Membership:
    """The membership that a frame stands for."""
    return Membership(
        voters=frozenset(NodeId(node) for node in frame.voters),
        voters_outgoing=frozenset(NodeId(node) for node in frame.voters_outgoing),
        learners=frozenset(NodeId(node) for node in frame.learners),
        learners_next=frozenset(NodeId(node) for node in frame.learners_next),
        auto_leave=frame.auto_leave,
        directory=tuple((NodeId(entry.node), entry.record) for entry in frame.directory),
        generation=frame.generation,
        departed=tuple((NodeId(entry.node), entry.record) for entry in frame.departed),
    )


def encode_snapshot_meta(meta: SnapshotMeta) -> frames.SnapshotMeta:
    """The frame of a snapshot's position and membership."""
    return frames.SnapshotMeta(
        index=meta.index, term=meta.term, membership=encode_membership(meta.membership)
    )


def decode_snapshot_meta(frame: frames.SnapshotMeta) -> SnapshotMeta:
    """The snapshot position that a frame stands for."""
    return SnapshotMeta(
        index=LogIndex(frame.index), term=Term(frame.term), membership=decode_membership(frame.membership)
    )


def encode_message(message: Message) -> frames.RaftMessage:
    """The frame of a Raft message."""
    frame = frames.RaftMessage(
        kind=message.kind,
        to=message.to,
        sender=message.sender,
        term=message.term,
        log_term=message.log_term,
        index=message.index,
        commit=message.commit,
        reject=message.reject,
        reject_hint=message.reject_hint,
        context=message.context,
        forced=message.forced,
    )
    for entry in message.entries:
        frame.entries.add(index=entry.index, term=entry.term, kind=entry.kind, data=entry.data)
    if message.snapshot is not None:
        frame.snapshot.CopyFrom(encode_snapshot_meta(message.snapshot))
    return frame


def decode_messages(envelope: frames.Envelope) -> list[Message]:
    """The Raft messages in an envelope. One of a kind that this version does not know, or with an entry of such a kind,
    is dropped and logged: to Raft it is lost, so its sender repeats it and commits nothing by this replica's word."""
    messages: list[Message] = []
    for frame in envelope.raft:
        try:
            messages.append(decode_message(frame))
        except ValueError as error:
            log.warning(
                "dropped a message of a newer version: upgrade this node",
                peer=frame.sender,
                reason=str(error),
            )
    return messages


def decode_message(frame: frames.RaftMessage) -> Message:
    """The Raft message that a frame stands for. Raises ValueError for a kind, of its own or of an entry, that this
    version does not know."""
    return Message(
        kind=MessageKind(frame.kind),
        to=NodeId(frame.to),
        sender=NodeId(frame.sender),
        term=Term(frame.term),
        log_term=Term(frame.log_term),
        index=LogIndex(frame.index),
        entries=tuple(
            Entry(
                term=Term(entry.term),
                index=LogIndex(entry.index),
                kind=EntryKind(entry.kind),
                data=entry.data,
            )
            for entry in frame.entries
        ),
        commit=LogIndex(frame.commit),
        reject=frame.reject,
        reject_hint=LogIndex(frame.reject_hint),
        context=frame.context,
        snapshot=decode_snapshot_meta(frame.snapshot) if frame.HasField("snapshot") else None,
        forced=frame.forced,
    )
