"""From the router's values to the frames of a link, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.api.credentials import NOBODY
from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.shards.router import Outgoing


def encode(outgoing: Outgoing, *, local: int) -> frames.Envelope:
    """What a replica is sent in one go, by the coordinator of node local."""
    envelope = frames.Envelope(taken_bytes=outgoing.taken_bytes)
    if outgoing.greets or outgoing.asks:
        envelope.hello.node = local
        envelope.hello.acknowledges = outgoing.greets  # asking anew begins no new count of what is on its way
    if outgoing.committed is not None:
        generation, index, term = outgoing.committed
        envelope.committed.generation = generation
        envelope.committed.index = index
        envelope.committed.term = term
    add = envelope.requests.add
    for call in outgoing.calls:
        request = add(
            call=call.number,
            method=call.method,
            table_id=call.table_id,
            body=call.body,
            request_id=call.request_id,
            linearizable=call.linearizable,
            cursor=call.cursor,
            client=call.client,
        )
        if call.shown_revision:
            request.shown_revision = call.shown_revision
        if call.trace:
            request.trace = call.trace
        who = call.who
        if who is not NOBODY:
            request.token = who.token
            request.user = who.user
            request.auth_revision = who.auth_revision
            request.system = who.is_system
    return envelope


def attach(envelope: frames.Envelope, attachments: Sequence[bytes]) -> int:
    """Put the bodies that came as frames of their own into their replies; returns how many bytes those are."""
    if not attachments:
        return 0
    for reply in envelope.replies:
        if reply.attachment:
            reply.body = attachments[reply.attachment - 1]
    return sum(map(len, attachments))
