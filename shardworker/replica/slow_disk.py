"""How long syncs take, and what a leader does when its own have become slow: it hands over.

A shard is as fast as its leader's loop, and the loop waits for each sync. The average of the last few syncs is slow
from `store.slow_sync_ms` on, and fast again below half of that. A leader that has been slow for a while asks the other
voters how they are, once a round, and at the end of the round hands over to the fastest that is not slow or short of
space itself, takes at most half as long, and has nearly all of the log. Nothing is asked while no leader is slow.

Leadership does not swing back: a new leader keeps its office for TENURE_ELECTIONS, however slow it is, and the one
before it is chosen again only once its own disk, which goes on syncing what it follows, has become fast."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from proto.internal import frames_pb2 as frames
from shardworker.raft import NEVER_TICKS, NodeId, Role
from shardworker.replica.part import Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardworker.replica.disk_space import DiskSpace
    from shardworker.replica.leadership import Leadership
    from shardworker.replica.part import ReplicaContext

WEIGHT: Final = 1 / 16
"""Of the newest sync in the average."""
SYNCS_MIN: Final = 16
"""An average of fewer says nothing."""
SYNCS_KEPT: Final = 256
"""For the 99th percentile."""
KEPT_IDLE_MS: Final = 60_000
"""How syncs were is old news then, and whoever looks would take it for how they are."""
PATIENCE_ELECTIONS: Final = 3
"""Election timeouts that a leader has to be slow before it asks."""
TENURE_ELECTIONS: Final = 30
"""Election timeouts that a leader stays in office before it may hand over for this reason."""
REACH_ENTRIES: Final = 1_000
"""A successor lacks no more of the log: it is brought the rest while proposals wait."""

log = structlog.get_logger()


class SlowDisk(Part):
    """The syncs of one replica."""

    def __init__(self, context: ReplicaContext, leadership: Leadership, disk_space: DiskSpace) -> None:
        self._log = log.bind(shard=context.shard, node=context.node)
        self._node = context.node
        self._core = context.core
        self._store = context.store
        self._send = context.outgoing.send_peer
        self._leadership = leadership
        self._disk_space = disk_space
        self._slow_s = context.cluster.store.slow_sync_ms / 1000
        self._round_ticks = context.cluster.raft.election_ticks
        self._last: deque[float] = deque(maxlen=SYNCS_KEPT)
        self._kept_idle_ticks = KEPT_IDLE_MS // context.cluster.raft.tick_ms
        self._idle_ticks = 0
        self._average_s = 0.0
        self._count = 0
        self._count_before = 0
        self._term_led = 0
        self._led_ticks = 0
        self._slow_ticks = 0
        self._ticks_to_round = 0
        self._heard: dict[NodeId, frames.SyncReport] = {}
        self._handed_over = 0
        self.is_slow = False
        """Whether this replica's syncs have become slow and are not fast again."""

    def end_turn(self) -> None:
        for seconds in self._store.take_sync_seconds():
            self._count += 1
            self._last.append(seconds)
            self._idle_ticks = 0
            # The first ones weigh alike, so that one slow sync at the start is not the average for long.
            weight = max(WEIGHT, 1 / self._count)
            self._average_s += (seconds - self._average_s) * weight
        if self._slow_s and self._count >= SYNCS_MIN:
            limit_s = self._slow_s / 2 if self.is_slow else self._slow_s
            self._become(slow=self._average_s >= limit_s)

    def _become(self, *, slow: bool) -> None:
        if slow is not self.is_slow:
            self.is_slow = slow
            said = "syncs have become slow" if slow else "syncs are fast again"
            self._log.warning(said, average_ms=round(self._average_s * 1000))

    # ---- the leader's rounds ----------------------------------------------------------------------------------------

    def tick(self) -> None:
        self._idle_ticks += 1
        if self._idle_ticks >= self._kept_idle_ticks:
            self._last.clear()
        if self._core.role is not Role.LEADER or self._core.term != self._term_led:
            self._term_led = self._core.term if self._core.role is Role.LEADER else 0
            self._led_ticks = self._slow_ticks = self._ticks_to_round = 0
            self._heard.clear()
        if not self._term_led:
            return
        self._led_ticks += 1
        self._slow_ticks = self._slow_ticks + 1 if self.is_slow else 0
        if not self._may_hand_over:
            return
        self._ticks_to_round -= 1
        if self._ticks_to_round <= 0:
            self._ticks_to_round = self._round_ticks
            self._end_round()
            self._begin_round()

    @property
    def _may_hand_over(self) -> bool:
        return (
            self._slow_ticks >= PATIENCE_ELECTIONS * self._round_ticks
            and self._led_ticks >= TENURE_ELECTIONS * self._round_ticks
        )

    def ticks_until_action(self) -> int:
        # Ticks are counted while it leads and is slow; an idle loop that sleeps over some takes a little longer.
        return 1 if self.is_slow and self._core.role is Role.LEADER else NEVER_TICKS

    def _begin_round(self) -> None:
        self._heard.clear()
        self._count_before = self._count
        for node in sorted(self._core.membership.voters - {self._node}):
            self._tell(node, asks=True)

    def _end_round(self) -> None:
        if self._count == self._count_before:
            return  # it has written nothing meanwhile: there is nothing to win
        status = self._core.status()
        able = [
            (report.average_us, node)
            for node, report in self._heard.items()
            if not report.unfit
            and report.average_us <= self._average_s * 1e6 / 2
            and node in status.progress
            and status.progress[node].match + REACH_ENTRIES >= status.last_index
        ]
        if able and self._leadership.hand_over_to(min(able)[1]):
            self._handed_over += 1
            self._log.warning(
                "this leader's disk is slow: another replica is asked to lead",
                average_ms=round(self._average_s * 1000),
                successor=min(able)[1],
                successor_ms=round(min(able)[0] / 1000),
            )

    # ---- what replicas tell each other ------------------------------------------------------------------------------

    def handle(self, identity: bytes, envelope: frames.Envelope) -> None:
        if not envelope.HasField("sync") or envelope.sync.term != self._core.term:
            return  # nothing, or asked under another leader
        report = envelope.sync
        if report.asks:
            self._tell(NodeId(report.sender), asks=False)
        elif self._core.role is Role.LEADER and self._core.membership.is_voter(NodeId(report.sender)):
            self._heard[NodeId(report.sender)] = report

    def _tell(self, node: NodeId, *, asks: bool) -> None:
        report = frames.SyncReport(
            sender=self._node,
            term=self._core.term,
            asks=asks,
            average_us=int(self._average_s * 1e6),
            unfit=self.is_slow or self._count < SYNCS_MIN or self._disk_space.is_short,
        )
        self._send(node, frames.Envelope(sync=report))

    def statistics(self) -> Mapping[str, int]:
        last = sorted(self._last)
        p99_s = last[len(last) * 99 // 100] if last else 0.0
        return {
            "syncs": self._count,
            "sync_average_us": int(self._average_s * 1e6),
            "sync_p99_us": int(p99_s * 1e6),
            "syncs_of_late": len(last),
            "sync_slow": int(self.is_slow),
            "sync_hand_overs": self._handed_over,
        }
