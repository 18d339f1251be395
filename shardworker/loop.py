"""The loop of a worker: wait for messages or a tick, hand over what has arrived, let the replica take a turn.

It knows time and sockets only as `Clock` and `Transport`, so the simulator runs it too. Under load it holds requests
back for a moment (pace.py); what peers say is handed over at once. Every round that ends is a sign of life (`beat`):
whoever hears none for long may take this process to hang.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from shardworker.pace import Pace
from shardworker.ticks import Ticks

if TYPE_CHECKING:
    from collections.abc import Callable

    from proto.internal import frames_pb2 as frames
    from shardworker.raft import NodeId
    from shardworker.replica.replica import Replica

ANNOUNCE_S: Final = 0.005
"""Followers learn what is committed from the next append. If none follows within this, they are told at once: under
load that saves each of them a turn per batch, and without load they lag no longer than this."""

DRAIN_S_MAX: Final = 2.0
"""An orderly stop waits so long for a successor and for owed answers."""

BEAT_S: Final = 1.0
"""Once the last sign of life is so old, the next round gives one."""

WAIT_S_MAX: Final = 1.5
"""After the last sign of life a round comes within this. It is longer, so that an idle replica, which hears a heartbeat
now and then, does not wake up for its signs of life alone."""


class Clock(Protocol):
    """Clocks that only go forward, in seconds."""

    def now(self) -> float:
        """Of the wall."""

    def cpu(self) -> float:
        """CPU time that this thread has used."""


class Transport(Protocol):
    """What brings messages."""

    def receive(self, timeout_s: float, *, pace_until: float = 0.0) -> list[tuple[bytes, frames.Envelope]]:
        """What has arrived, with the identities of its senders; waits for the first up to timeout_s, then until
        pace_until on the loop's clock. May return early, and empty."""

    def disconnected(self) -> list[NodeId]:
        """Peers whose connection broke since the last call."""


class Loop:
    """One worker's loop."""

    def __init__(
        self,
        replica: Replica,
        transport: Transport,
        clock: Clock,
        *,
        tick_s: float,
        alone: Callable[[], bool],
        beat: Callable[[], None],
    ) -> None:
        """alone: whether nobody but clients talks to it, so the loop can sleep over what it would only hold,
        and need not hold it for as long."""
        now = clock.now()
        self._replica = replica
        self._transport = transport
        self._clock = clock
        self._alone = alone
        self._beat = beat
        self._beaten_at = now - BEAT_S
        self._ticks = Ticks(tick_s, now)
        self._pace = Pace(now)
        self._held: list[tuple[bytes, frames.Envelope]] = []
        self._stopping = False

    def run(self) -> None:
        """Take steps until stop(); then hand leadership over and answer what is owed, for at most DRAIN_S_MAX."""
        while not self._stopping:
            self.step()
        self._replica.drain()
        deadline = self._clock.now() + DRAIN_S_MAX
        while not self._replica.drained() and self._clock.now() < deadline:
            self.step()

    def stop(self) -> None:
        """End run() soon. Safe in a signal handler; somebody has to wake the transport."""
        self._stopping = True

    def wait_s(self) -> float:
        """How long nothing has to be done unless a message comes."""
        if self._replica.has_work():
            return 0.0
        until = min(self._ticks.due(self._replica.ticks_until_action()), self._beaten_at + WAIT_S_MAX)
        if self._held:
            until = min(until, self._pace.next_batch)
        wait_s = max(0.0, until - self._clock.now())
        return min(wait_s, ANNOUNCE_S) if self._replica.owes_commit() else wait_s

    def step(self) -> None:
        """Wait for something to do, and do it."""
        owes_commit = self._replica.owes_commit()
        received = self._transport.receive(
            self.wait_s(), pace_until=self._pace.next_batch if self._alone() else 0.0
        )
        if owes_commit and not received:
            self._replica.announce_commit()
        now, cpu = self._clock.now(), self._clock.cpu()
        # Under load most rounds are shorter than a tick: the parts are not asked in vain.
        has_ticked = now >= self._ticks.due(1)
        before, after = self._ticks.passed(now, self._replica.ticks_until_action()) if has_ticked else (0, 0)
        self._tick(before)
        for node in self._transport.disconnected():
            self._replica.handle_disconnected(node)
        has_taken, requests = self._take(received, now)
        self._tick(after)
        if has_ticked and self._ticks.missed:
            self._replica.miss(self._ticks.missed)
        if has_taken:
            self._replica.turn()
        if requests:
            self._pace.turned(requests, self._clock.cpu() - cpu, now, alone=self._alone())
        if now - self._beaten_at >= BEAT_S:
            self._beaten_at = now
            self._beat()

    def _take(self, received: list[tuple[bytes, frames.Envelope]], now: float) -> tuple[bool, int]:
        """Hand over what has arrived; requests that come before the next batch is due are held back until then, so
        that peers are answered at once and clients together. Whether a turn should follow, and how many requests it
        has to serve."""
        held_before = len(self._held)
        for identity, envelope in received:
            if envelope.requests:
                self._held.append((identity, envelope))
            else:
                self._replica.handle(identity, envelope)
        all_held = bool(received) and len(self._held) - held_before == len(received)
        if not self._held or now < self._pace.next_batch:
            return not all_held, 0
        held, self._held = self._held, []
        for identity, envelope in held:
            self._replica.handle(identity, envelope)
        return True, sum([len(envelope.requests) for _, envelope in held])

    def _tick(self, ticks: int) -> None:
        for _ in range(ticks):
            self._replica.tick()
