"""What is left of leases, written into the log by their leader now and then: the next leader goes on from there.

- **Seldom.** A lease is written down once it has lost half of its time, or five minutes, since it was granted, renewed
  or written down: who keeps his alive in time, at a third as etcd's clients do, costs no entry. So many in an election
  timeout, in one command for each table; what does not get its turn has more time after an election, not less.
- **Never more than is true.** What was written down holds until something else is. So a renewal of such a lease is
  written down too, and answered only once that is applied: no later leader can have missed it. A leader counts, renews
  and writes down only after it has applied an entry of its own term, and with it all that earlier ones have written.
- **Before a planned change of leaders** what lost more than a second is written down first, as far as one batch goes,
  and so it is at the orderly end of a process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proto.internal import frames_pb2 as frames
from shardworker.replica.part import NEVER_TICKS

if TYPE_CHECKING:
    from shardworker.machine import StateMachine
    from shardworker.machine.leases import Lease
    from shardworker.replica.deadlines import Deadlines, Key

STEP_MS_MAX: Final = 300_000
"""An election postpones the end of a lease by less, but for its own timeout; etcd's interval of checkpoints."""

WRITTEN_MAX: Final = 1_000
"""In one round: about 20 KB of the log, and 10 ms of each replica."""

HAND_OVER_LOSS_MS_MIN: Final = 1_000
"""A lease that lost less is not written down before leadership is handed over."""

GRANULARITY_TICKS: Final = 1
"""Of the tick in which a lease was granted or renewed, all but a moment may have been over."""


def ticks_of(ms: int, tick_ms: int) -> int:
    """Not before so many milliseconds have passed."""
    return -(-ms // tick_ms) + GRANULARITY_TICKS


class LeaseCheckpoints:
    """What one leader writes down. `deadlines` says what has lost how much."""

    def __init__(
        self, machine: StateMachine, deadlines: Deadlines, *, tick_ms: int, round_ticks: int
    ) -> None:
        self._machine = machine
        self._deadlines = deadlines
        self._tick_ms = tick_ms
        self._round_ticks = round_ticks
        self._next_round = 0
        self._proposed: set[Key] = set()
        """Of which it was proposed to write down a loss, and nothing has come of that yet."""
        self._renewals: dict[Key, int] = {}
        """When it was proposed last to write down that all is left."""
        self._handing_over = False
        self._written_count = 0

    # ---- renewals ---------------------------------------------------------------------------------------------------

    def is_whole(self, key: Key, lease: Lease) -> bool:
        """Whether every later leader would give the lease all of its time: then a renewal needs no entry."""
        return lease.is_whole and key not in self._proposed

    def renew(self, key: Key) -> None:
        """Write down that all is left of it."""
        self._renewals.setdefault(key, self._deadlines.now - self._round_ticks)

    def forget(self, key: Key) -> None:
        """The lease has ended, or is about to."""
        self._proposed.discard(key)
        self._renewals.pop(key, None)

    def applied(self, key: Key, lease: Lease) -> bool:
        """What is left of it was written down. Whether that is the renewal that was asked for."""
        self._written_count += 1
        self._proposed.discard(key)
        self._deadlines.note(key, ticks_of(lease.left_ms, self._tick_ms))
        return lease.is_whole and self._renewals.pop(key, None) is not None

    # ---- what to propose --------------------------------------------------------------------------------------------

    def take(self) -> dict[int, frames.LeaseCheckpoints]:
        """What the leader is to propose now, by table."""
        now = self._deadlines.now
        tables: dict[int, frames.LeaseCheckpoints] = {}
        for key, since in self._renewals.items():
            if now - since >= self._round_ticks:
                self._renewals[key] = now
                self._add(tables, key)
        if self._deadlines.has_unnoted and now >= self._next_round:
            self._next_round = now + self._round_ticks
            for key, left_ticks in self._deadlines.take_unnoted(WRITTEN_MAX):
                self._add_loss(tables, key, left_ticks)
        return tables

    def take_before_hand_over(self) -> dict[int, frames.LeaseCheckpoints]:
        """The same, of all that lost something worth while."""
        self._handing_over = True
        tables: dict[int, frames.LeaseCheckpoints] = {}
        for key, left_ticks in self._deadlines.take_losing(HAND_OVER_LOSS_MS_MIN // self._tick_ms):
            self._add_loss(tables, key, left_ticks)
        return tables

    def _add_loss(self, tables: dict[int, frames.LeaseCheckpoints], key: Key, left_ticks: int) -> None:
        # One at a time for each lease: else its renewal could be written down between two of them.
        if key not in self._proposed and key not in self._renewals:
            self._proposed.add(key)
            self._add(tables, key, left_ticks * self._tick_ms)

    def _add(self, tables: dict[int, frames.LeaseCheckpoints], key: Key, left_ms: int | None = None) -> None:
        table_id, lease_id = key
        lease = self._machine.leases.get(table_id, lease_id)
        if lease is not None:
            whole_ms = 1000 * lease.ttl_s
            tables.setdefault(table_id, frames.LeaseCheckpoints()).leases.add(
                id=lease_id,
                granted_at=lease.granted_at,
                left_ms=whole_ms if left_ms is None else min(left_ms, whole_ms),
            )

    # ---- time, and the end ------------------------------------------------------------------------------------------

    def ticks_until_action(self) -> int:
        """Ticks that may pass before take() has something."""
        now = self._deadlines.now
        until = NEVER_TICKS
        if self._deadlines.has_unnoted:
            until = self._next_round - now
        if self._renewals:
            until = min(until, min(self._renewals.values()) + self._round_ticks - now)
        return max(1, until)

    def abandon(self) -> None:
        """Leadership is lost: what was proposed may be applied, or not."""
        self._proposed.clear()
        self._renewals.clear()
        self._handing_over = False

    def drained(self) -> bool:
        """Whether what was to be written down before the end has been."""
        return not (self._handing_over and self._proposed)

    @property
    def written_count(self) -> int:
        """Leases of which was written down what is left, since the process began."""
        return self._written_count
