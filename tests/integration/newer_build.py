"""A build that is not there yet: `python -m tests.integration.newer_build up FILE --node n1` runs a node of it.

Its workers know one machine level more (newer_worker.py), and whatever its processes say to those of other nodes has a
field that nobody else has heard of."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from config.process import names
from proto.internal import wire

if TYPE_CHECKING:
    from proto.internal import frames_pb2 as frames

UNHEARD_OF: Final = b"\xfa\xff\x7f\x03new"
"""Field 262,143, of three bytes."""


def speak_newer() -> None:
    """Everything that this process says to others has that field, from now on."""
    encode = wire.encode

    def encode_newer(envelope: frames.Envelope, group: int) -> bytes:
        envelope.MergeFromString(UNHEARD_OF)
        for state in [envelope.state] if envelope.HasField("state") else []:
            state.MergeFromString(UNHEARD_OF)
        for message in (*envelope.requests, *envelope.replies, *envelope.raft):
            message.MergeFromString(UNHEARD_OF)
        return encode(envelope, group)

    wire.encode = encode_newer


def run_newer(kind: names.Kind, module: str) -> None:
    """Processes of that kind run this module, in every supervisor that this process becomes."""
    object.__setattr__(kind, "package", module)


if __name__ == "__main__":
    from tools.cli import main

    run_newer(names.SHARDWORKER, "tests.integration.newer_worker")
    run_newer(names.COORDINATOR, "tests.integration.newer_coordinator")
    sys.argv[0] = "boathouse"
    main()
