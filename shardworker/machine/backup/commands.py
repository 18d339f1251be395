"""What the methods of backup and restore need of the state machine. Who may ask for them the coordinator has looked at:
they are the cluster's own."""

from __future__ import annotations

from typing import Any

from proto import errors
from proto.internal import frames_pb2 as frames
from shardworker.machine.backup import giving, restoring
from shardworker.machine.handler import Handler

HANDLERS: dict[int, Handler[Any]] = {
    frames.TABLE_BACKUP: Handler(parse=giving.read_asked, parts=giving.backup_parts),
    frames.TABLE_RESTORE: Handler(
        parse=restoring.read_part, write=restoring.take_part, replaces_rows=errors.RestoreInterrupted
    ),
}
