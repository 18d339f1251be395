"""`python -m tests.integration.newer_worker`: a worker of a build that is not there yet.

It applies one machine level more, and knows a command that needs it: a put under another number."""

from __future__ import annotations

from typing import Final

from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS, LEVEL, Access, Command
from shardworker.entry import main
from shardworker.machine import REGISTRY, Registry

NEW_COMMAND: Final = frames.Method.ValueType(999)
NEWER: Final = Registry(LEVEL + 1, {**REGISTRY.handlers, NEW_COMMAND: REGISTRY.handlers[frames.ETCD_PUT]})

if __name__ == "__main__":
    from tests.integration.newer_build import speak_newer

    speak_newer()
    COMMANDS[NEW_COMMAND] = Command(access=Access.WRITE, since_level=LEVEL + 1)
    main(NEWER)
