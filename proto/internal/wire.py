"""Envelopes as bytes, and which of them a process listens to.

Each names the shard's group, because shards of different clusters on clashing ports must not talk, and the version of
the protocol that it was written in. Fields may be added within a version; it rises when an older reader would
misunderstand what it reads, and then that reader refuses.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError

from proto.internal import frames_pb2 as frames

PROTOCOL: Final = 1
"""The newest version that this build understands, and the one it writes."""


class Unreadable(Exception):
    """Bytes that are no Envelope for this process; says why."""


class NewerProtocol(Unreadable):
    """Whoever wrote the Envelope belongs to a newer build."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"a message in version {version} of the protocol between nodes, of which this build knows {PROTOCOL}: "
            f"upgrade this node too"
        )
        self.version = version


def encode(envelope: frames.Envelope, group: int) -> bytes:
    """The bytes of an Envelope to somebody of this group."""
    envelope.group = group
    envelope.protocol = PROTOCOL
    return envelope.SerializeToString()


def decode(payload: bytes, group: int) -> frames.Envelope:
    """What the bytes say to somebody of this group. Raises Unreadable.

    An Envelope that names no version comes from a build of before they had one, which is version 1."""
    try:
        envelope = frames.Envelope.FromString(payload)
    except DecodeError:
        raise Unreadable(f"{len(payload)} undecodable bytes") from None
    if envelope.group != group:
        raise Unreadable(f"a message of another shard or cluster (group {envelope.group})")
    if envelope.protocol > PROTOCOL:
        raise NewerProtocol(envelope.protocol)
    return envelope
