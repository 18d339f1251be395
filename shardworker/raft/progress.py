"""What a leader believes about one peer, and how fast it may talk to it.

    probe      the peer's log is not known: one APPEND at a time, the next only after a reply (or a heartbeat
               reply)
    replicate  the log matched once: APPENDs are pipelined, `next` runs ahead of `match`, bounded by the
               in-flight window
    snapshot   the peer needs entries that were compacted: nothing is sent until a snapshot is reported in

Invariant: match < next. Everything up to `match` is durable on the peer.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

from shardworker.raft.types import SILENT_TICKS_MAX, LogIndex

if TYPE_CHECKING:
    from shardworker.raft.types import Settings


class PeerState(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Inflights:
    """The APPENDs on their way to one peer: a window bounded by count and by bytes."""

    __slots__ = ("_bytes", "_bytes_max", "_count_max", "_sent")

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._sent: deque[tuple[LogIndex, int]] = deque()

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def full(self) -> bool:
        # The bytes bound may be overshot by one message: a larger one than the window must still go out.
        return len(self._sent) >= self._count_max or self._bytes >= self._bytes_max

    def add(self, last_index: LogIndex, size_bytes: int) -> None:
        self._sent.append((last_index, size_bytes))
        self._bytes += size_bytes

    def free_to(self, index: LogIndex) -> None:
        """Everything that ends at or below index has arrived."""
        sent = self._sent
        while sent and sent[0][0] <= index:
            self._bytes -= sent.popleft()[1]

    def clear(self) -> None:
        self._sent.clear()
        self._bytes = 0


class Progress:
    __slots__ = (
        "inflights",
        "match",
        "next",
        "pending_snapshot",
        "probe_sent",
        "recent_active",
        "retry_due",
        "sent_commit",
        "silent_ticks",
        "state",
        "wants_empty",
    )

    def __init__(
        self, settings: Settings, *, match: LogIndex, next_index: LogIndex, recent_active: bool
    ) -> None:
        self.match = match
        """Highest index known to be durable on the peer."""
        self.next = next_index
        """First index to send."""
        self.state = PeerState.PROBE
        self.probe_sent = False
        """In probe: a message is out, wait."""
        self.pending_snapshot = LogIndex(0)
        self.recent_active = recent_active
        """Heard from since the last quorum check."""
        self.silent_ticks = SILENT_TICKS_MAX
        """Since it was last heard from."""
        self.sent_commit = LogIndex(0)
        """The commit index the peer was last told; may have been lost on the way, heartbeats repeat it."""
        self.retry_due = False
        """A tick's heartbeat is out: its reply may repeat a probe. Replies to read rounds, which can come a
        hundred times as often, may not."""
        self.wants_empty = False
        """Send an append even without entries, to find out whether earlier ones were lost."""
        self.inflights = Inflights(settings.inflight_appends_max, settings.inflight_bytes_max)

    def heard(self) -> None:
        """It has answered."""
        self.recent_active = True
        self.silent_ticks = 0

    def become_probe(self) -> None:
        """Start again from what is known, or from the snapshot it was just given."""
        base = self.match
        if self.state is PeerState.SNAPSHOT:
            base = max(base, self.pending_snapshot)
        self._reset(PeerState.PROBE)
        self.next = LogIndex(base + 1)

    def forget(self) -> None:
        """The peer has lost what it had. Only less is counted for it: what is committed stays committed."""
        self.match = LogIndex(0)
        self.become_probe()

    def become_replicate(self) -> None:
        self._reset(PeerState.REPLICATE)
        self.next = LogIndex(self.match + 1)

    def become_snapshot(self, index: LogIndex) -> None:
        self._reset(PeerState.SNAPSHOT)
        self.pending_snapshot = index

    def _reset(self, state: PeerState) -> None:
        self.state = state
        self.probe_sent = False
        self.wants_empty = False
        self.pending_snapshot = LogIndex(0)
        # What was in flight may never arrive, and with it the commit index it carried.
        self.sent_commit = LogIndex(0)
        self.inflights.clear()

    def maybe_update(self, index: LogIndex) -> bool:
        """The peer has everything up to index. False if that was known."""
        if self.next <= index:
            self.next = LogIndex(index + 1)
        if index <= self.match:
            return False
        self.match = index
        self.probe_sent = False
        return True

    def maybe_back_off(self, *, rejected: LogIndex, hint: LogIndex) -> bool:
        """The append after `rejected` did not fit; the logs may meet at hint. False if that answer is
        outdated."""
        if self.state is PeerState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next = LogIndex(self.match + 1)
            return True
        # A probe is answered one at a time: anything but the last one's index is an old answer.
        if self.state is PeerState.SNAPSHOT or rejected != self.next - 1:
            return False
        self.next = LogIndex(max(min(rejected, hint + 1), self.match + 1))
        self.probe_sent = False
        return True
