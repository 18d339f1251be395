"""What the methods that copy tables between clusters need of the state machine."""

from __future__ import annotations

from typing import Any

from proto.internal import frames_pb2 as frames
from shardworker.machine.handler import Handler
from shardworker.machine.replication import apply, snapshot

HANDLERS: dict[int, Handler[Any]] = {
    frames.REPLICATE_CHANGES: Handler(
        parse=apply.read_changes,
        write=apply.apply_changes,
        add_keys=apply.add_keys,
        origin_of=lambda op: int(op.origin),
    ),
    frames.REPLICATE_SNAPSHOT: Handler(
        parse=snapshot.read_part, write=snapshot.take_part, origin_of=lambda op: int(op.origin)
    ),
    frames.TABLE_PAIRS: Handler(parse=lambda body: None, parts=snapshot.pair_parts),
}
