"""Which envelopes a process listens to."""

from __future__ import annotations

import pytest

from proto.internal import frames_pb2 as frames
from proto.internal import wire

GROUP = 7


def test_what_is_written_is_read() -> None:
    read = wire.decode(wire.encode(frames.Envelope(hello=frames.Hello(node=3)), GROUP), GROUP)
    assert (read.hello.node, read.group, read.protocol) == (3, GROUP, wire.PROTOCOL)


def test_an_envelope_without_a_version_is_of_the_first() -> None:
    payload = frames.Envelope(group=GROUP, hello=frames.Hello(node=3)).SerializeToString()
    assert wire.decode(payload, GROUP).hello.node == 3


def test_a_newer_protocol_is_refused_in_words() -> None:
    payload = frames.Envelope(group=GROUP, protocol=wire.PROTOCOL + 1).SerializeToString()
    with pytest.raises(wire.NewerProtocol, match=r"version 2 .* this build knows 1: upgrade this node too"):
        wire.decode(payload, GROUP)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"\xff", "1 undecodable bytes"),
        (frames.Envelope(group=GROUP + 1).SerializeToString(), "another shard or cluster"),
    ],
)
def test_what_is_not_for_this_process_is_refused(payload: bytes, why: str) -> None:
    with pytest.raises(wire.Unreadable, match=why):
        wire.decode(payload, GROUP)
