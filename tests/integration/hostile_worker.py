"""`python -m tests.integration.hostile_worker`: a worker that tells one follower another entry than it writes itself.

The entry is well formed for Raft, with the right index and term; what it holds is no batch of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shardworker import raft_frames
from shardworker.entry import main

if TYPE_CHECKING:
    from proto.internal import frames_pb2 as frames
    from shardworker.raft import Message

VICTIM: Final = 3
POISON: Final = b"poison"
"""In what it says otherwise."""

_encode = raft_frames.encode_message


def _encode_otherwise(message: Message) -> frames.RaftMessage:
    frame = _encode(message)
    for entry in frame.entries:
        if message.to == VICTIM and POISON in entry.data:
            entry.data = b"\xff" * len(entry.data)
    return frame


if __name__ == "__main__":
    raft_frames.encode_message = _encode_otherwise
    main()
