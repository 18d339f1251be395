"""Raises the shard's machine level when every voter can apply the next one.

While nodes are upgraded one by one, builds of two versions hold the same shard. The newer one knows commands at which
the older one would have to stop. So the level is part of the replicated state (machine/level.py), a command is proposed
only at a level that knows it, and the leader raises the level in this way:

- A leader whose build knows a higher level than the shard has asks every voter which level its process can apply, once
  an election timeout. In a cluster of one version nobody asks anything.
- When all voters have answered within one such round, it proposes the lowest of their levels, if that is higher. An
  answer from before counts for nothing: its process may have been replaced by an older build since.

A voter that is down holds the level back, as it should: nobody knows what it will be started with. Learners are not
asked; one that is too old stops, with a sentence, and takes no part in any majority.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from proto import errors
from proto.internal import frames_pb2 as frames
from proto.methods import COMMANDS
from shardworker.raft import NEVER_TICKS, NodeId, Role
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardworker.replica.part import ReplicaContext
    from shardworker.replica.proposals import Proposals

log = structlog.get_logger()


class Levels(Part):
    """What one replica says of its level, and a leader hears."""

    def __init__(self, context: ReplicaContext, proposals: Proposals) -> None:
        self._log = log.bind(shard=context.shard, node=context.node)
        self._node = context.node
        self._core = context.core
        self._machine = context.machine
        self._send = context.outgoing.send_peer
        self._proposals = proposals
        self._round_ticks = context.cluster.raft.election_ticks
        self._ticks_to_ask = 0
        self._heard: dict[NodeId, int] = {}

    def check_knows(self, method: int) -> None:
        """Raises UpgradeInProgress for a command that the shard's level does not have yet."""
        since = COMMANDS[method].since_level
        if since > self._machine.level:
            raise errors.UpgradeInProgress(
                f"the shard is at machine level {self._machine.level}, this needs {since}; it rises when every voter"
                " runs a version that can apply it"
            )

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        if not envelope.HasField("level"):
            return
        report = envelope.level
        if report.term != self._core.term:
            return  # asked, or answered, under another leader
        if report.asks:
            self._tell(NodeId(report.sender), asks=False)
        elif self._core.role is Role.LEADER:
            self._heard[NodeId(report.sender)] = report.level
            self._maybe_raise()

    @property
    def _may_rise(self) -> bool:
        return self._core.role is Role.LEADER and self._machine.level < self._machine.build_level

    def tick(self) -> None:
        if not self._may_rise:
            self._ticks_to_ask = 0
            return
        self._ticks_to_ask -= 1
        if self._ticks_to_ask <= 0:
            self._ticks_to_ask = self._round_ticks
            self._ask()

    def ticks_until_action(self) -> int:
        return max(1, self._ticks_to_ask) if self._may_rise else NEVER_TICKS

    def _ask(self) -> None:
        self._heard = {self._node: self._machine.build_level}
        for node in sorted(self._voters() - {self._node}):
            self._tell(node, asks=True)
        self._maybe_raise()

    def _tell(self, node: NodeId, *, asks: bool) -> None:
        report = frames.LevelReport(
            sender=self._node, term=self._core.term, level=self._machine.build_level, asks=asks
        )
        self._send(node, frames.Envelope(level=report))

    def _voters(self) -> frozenset[NodeId]:
        membership = self._core.membership
        return membership.voters | membership.voters_outgoing

    def _maybe_raise(self) -> None:
        if not self._voters() <= self._heard.keys():
            return
        level = min(self._heard[node] for node in self._voters())
        if level > self._machine.level:
            self._log.info("every voter can apply the next machine level: it is raised", level=level)
            self._proposals.add_own(frames.RAISE_LEVEL, frames.MachineLevel(level=level).SerializeToString())
            self._heard.clear()  # if it is lost, the next round proposes it again

    def statistics(self) -> Mapping[str, int]:
        return {"machine_level": self._machine.level, "build_level": self._machine.build_level}
