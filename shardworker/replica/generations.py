"""Whether who speaks is of the same group as this replica.

A shard whose majority was lost may go on with what one replica has (shardworker/recovery.py). Should the lost ones come
back, they would elect a leader among themselves, and the shard would have two. So the group that goes on is of a later
generation, which its membership says. All members of a generation but the one that began it came to it by a snapshot: a
replica that has members, and an earlier generation, is of the group that was given up.

Raft messages and snapshots say of which generation they are. An earlier one is not heard, and is answered; who hears of
a later one ends for good. A replica that knows no members has promised nothing, and is told by whoever leads.

What remains: until one of the lost ones hears from the group that goes on, it knows nothing of it. And two survivors
that were both made to go on alone are of the same generation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from proto.internal import frames_pb2 as frames

if TYPE_CHECKING:
    from shardworker.raft import Raft
    from shardworker.replica.outgoing import Outgoing

log = structlog.get_logger()

TOLD_MAX: Final = 256
"""Senders that the log remembers."""


class GivenUp(Exception):
    """The shard goes on without this replica and those that it knows; the text says so."""


class Generations:
    """Of one replica, towards its peers."""

    def __init__(self, shard: int, core: Raft, outgoing: Outgoing) -> None:
        self._shard = shard
        self._core = core
        self._outgoing = outgoing
        self._told: set[bytes] = set()

    def admits(self, identity: bytes, envelope: frames.Envelope) -> bool:
        """Whether what a peer says is to be heard. Raises GivenUp if it says that this replica is not."""
        own = self._core.membership.generation
        if envelope.HasField("superseded"):
            self._hear(envelope.superseded.generation, envelope.superseded.sender)
            return False
        if envelope.raft:
            sender = envelope.raft[0].sender
        elif envelope.HasField("snapshot_chunk"):
            sender = envelope.snapshot_chunk.sender
        else:
            return True
        theirs = envelope.generation - 1
        if theirs > own:
            self._hear(theirs, sender)
        if 0 <= theirs < own:
            self._refuse(identity, sender)
            return False
        return True

    def _hear(self, generation: int, sender: int) -> None:
        membership = self._core.membership
        if generation > membership.generation and membership.nodes():
            raise GivenUp(
                f"shard {self._shard} was recovered without this replica, as node {sender} tells: it goes on as "
                f"generation {generation}, and this replica is of generation {membership.generation}"
            )

    def _refuse(self, identity: bytes, sender: int) -> None:
        if identity not in self._told and len(self._told) < TOLD_MAX:
            self._told.add(identity)
            log.warning(
                "a replica that was given up speaks, and is not heard", shard=self._shard, peer=sender
            )
        own = self._core.membership.generation
        superseded = frames.Superseded(sender=self._core.settings.node, generation=own)
        self._outgoing.notify(identity, frames.Envelope(superseded=superseded))
