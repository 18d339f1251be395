"""What is left of leases, written into the log by their leader now and then: the next leader goes on from there.

- **Seldom.** A lease is written down once it has lost half of its time, or five minutes, since it was granted, renewed
  or written down: who keeps his alive in time, at a third as etcd's clients do, costs no entry. So many in an election
  timeout, in one command for each table; what does not get its turn has more time after an election, not less.
- **Never less than is true.** What was written down holds until something else is. So a renewal of such a lease is
  written down too, and answered only once that is applied: no later leader can have missed it. So many are under way at
  a time; the others wait until these are applied. A leader counts, renews and writes down only after it has applied an
  entry of its own term, and with it all that earlier ones have written.
- **One at a time for each lease.** While it is not certain what came of a proposal, neither the loss nor the renewal of
  this lease is proposed once more: what is applied later than it was meant could make a lease look whole whose loss is
  still in the log. It is certain once all is applied that was in the log when it had been proposed; a renewal that was
  not written down by then was refused, and is proposed again after an election timeout.
- **Before a planned change of leaders** what lost more than a second is written down first, of as many leases as are
  looked at in one go (deadlines.LOOKS_MAX), and so it is at the orderly end of a process.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final

from proto.internal import frames_pb2 as frames
from shardworker.raft import NEVER_TICKS

if TYPE_CHECKING:
    from shardworker.machine import StateMachine
    from shardworker.machine.leases import Lease
    from shardworker.raft import LogIndex
    from shardworker.replica.deadlines import Deadlines, Key

CHECKPOINT_STEP_MS_MAX: Final = 300_000
"""An election postpones the end of a lease by less, but for its own timeout; etcd's interval of checkpoints."""

WRITTEN_MAX: Final = 1_000
"""Losses in one round, and renewals under way: about 20 KB of the log, and 10 ms of each replica."""

HAND_OVER_LOSS_MS_MIN: Final = 1_000
"""A lease that lost less is not written down before leadership is handed over."""

GRANULARITY_TICKS: Final = 1
"""Of the tick in which a lease was granted or renewed, all but a moment may have been over."""


def ticks_of(ms: int, tick_ms: int) -> int:
    """Not before so many milliseconds have passed."""
    return -(-ms // tick_ms) + GRANULARITY_TICKS


@dataclass(slots=True)
class _Proposals:
    """Of which leases something was proposed between two turns."""

    keys: list[Key] = field(default_factory=list)
    last_index: LogIndex | None = None
    """Of the log when they were in it, or refused. None: they wait for the next turn."""


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
        self._fresh = _Proposals()
        self._proposed: deque[_Proposals] = deque()
        """In their order."""
        self._losses: dict[Key, _Proposals] = {}
        """Of which it is under way to write down a loss."""
        self._renewals: dict[Key, _Proposals] = {}
        """Of which it is under way to write down that all is left."""
        self._wanted: set[Key] = set()
        """Whose renewal somebody waits for ..."""
        self._asked: dict[Key, None] = {}
        """... of these, who has to be proposed, in order ..."""
        self._again: dict[Key, int] = {}
        """... and those that came to nothing, and when they are to be proposed again, in order."""
        self._written_count = 0

    # ---- renewals ---------------------------------------------------------------------------------------------------

    def is_whole(self, key: Key, lease: Lease) -> bool:
        """Whether every later leader would give the lease all of its time: then a renewal needs no entry."""
        return lease.is_whole and key not in self._losses

    def renew(self, key: Key) -> None:
        """Write down that all is left of it."""
        if key not in self._wanted:
            self._wanted.add(key)
            if key not in self._renewals:
                self._asked[key] = None

    def forget(self, key: Key) -> None:
        """The lease has ended, or is about to."""
        self._losses.pop(key, None)
        self._renewals.pop(key, None)
        self._no_longer_wanted(key)

    def _no_longer_wanted(self, key: Key) -> None:
        self._wanted.discard(key)
        self._asked.pop(key, None)
        self._again.pop(key, None)

    def applied(self, key: Key, lease: Lease) -> bool:
        """What is left of it was written down. Whether that is the renewal that was asked for."""
        self._written_count += 1
        self._deadlines.note(key, ticks_of(lease.left_ms, self._tick_ms))
        is_renewal = lease.is_whole and key in self._wanted
        if is_renewal:
            self._no_longer_wanted(key)
        return is_renewal

    def settle(self, *, last_index: LogIndex, applied_index: LogIndex) -> None:
        """All that was taken so far is in the log up to last_index, or was refused; so much of the log is applied, and
        applied() was told of it."""
        if self._fresh.keys:
            self._fresh.last_index = last_index
            self._proposed.append(self._fresh)
            self._fresh = _Proposals()
        while self._proposed and (self._proposed[0].last_index or 0) <= applied_index:
            self._settle(self._proposed.popleft())

    def _settle(self, proposals: _Proposals) -> None:
        for key in proposals.keys:
            if self._losses.get(key) is proposals:
                del self._losses[key]
            if self._renewals.get(key) is proposals:
                del self._renewals[key]
                if key in self._wanted:
                    self._again[key] = self._deadlines.now + self._round_ticks

    # ---- what to propose --------------------------------------------------------------------------------------------

    def take(self) -> dict[int, frames.LeaseCheckpoints]:
        """What the leader is to propose now, by table."""
        now = self._deadlines.now
        tables: dict[int, frames.LeaseCheckpoints] = {}
        for key in list(takewhile(lambda key: self._again[key] <= now, self._again)):
            del self._again[key]
            self._asked[key] = None
        for key in list(islice(self._asked, max(0, WRITTEN_MAX - len(self._renewals)))):
            del self._asked[key]
            self._renewals[key] = self._fresh
            self._add(tables, key)
        if self._deadlines.has_unnoted and now >= self._next_round:
            self._next_round = now + self._round_ticks
            for key, left_ticks in self._deadlines.take_unnoted(WRITTEN_MAX):
                self._add_loss(tables, key, left_ticks)
        return tables

    def take_before_hand_over(self) -> dict[int, frames.LeaseCheckpoints]:
        """The same, of all that lost something worth while."""
        tables: dict[int, frames.LeaseCheckpoints] = {}
        for key, left_ticks in self._deadlines.take_losing(max(1, HAND_OVER_LOSS_MS_MIN // self._tick_ms)):
            self._add_loss(tables, key, left_ticks)
        return tables

    def _add_loss(self, tables: dict[int, frames.LeaseCheckpoints], key: Key, left_ticks: int) -> None:
        if key not in self._losses and key not in self._renewals and key not in self._wanted:
            self._losses[key] = self._fresh
            self._add(tables, key, left_ticks * self._tick_ms)

    def _add(self, tables: dict[int, frames.LeaseCheckpoints], key: Key, left_ms: int | None = None) -> None:
        self._fresh.keys.append(key)
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
        if self._again:
            until = min(until, next(iter(self._again.values())) - now)
        return max(1, until)

    def abandon(self) -> None:
        """Leadership is lost: what was proposed may be applied, or not."""
        self._fresh = _Proposals()
        self._proposed.clear()
        self._losses.clear()
        self._renewals.clear()
        self._wanted.clear()
        self._asked.clear()
        self._again.clear()

    def drained(self) -> bool:
        """Whether what was to be written down before the end has been, or can't be."""
        return not self._losses

    @property
    def written_count(self) -> int:
        """Leases of which was written down what is left, since the process began."""
        return self._written_count
