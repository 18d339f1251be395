"""When a worker takes its next batch of requests: a law, not a table of delays.

Much of what a turn costs does not depend on how many requests it serves (a transaction, a sync, a message to each
peer), so under load requests are taken in batches. How long to gather one follows from what is measured:

- The fixed cost of a turn is where a line through (requests, CPU of the turn) meets zero requests. Batches are so far
  apart that fixed costs take FIXED_SHARE of a core at most: a fixed cost of 0.5 ms makes 2 ms. A faster machine, or
  cheaper turns, shorten the wait by themselves. A replica without peers costs nobody else a turn, and may take more.
- Who is alone gains nothing by waiting: with a mean batch of one request there is no wait at all, with two half of it.
- Never longer than PACE_S_MAX. Clients that wait for an answer before they ask again send nothing meanwhile, so beyond
  that a longer wait gathers no larger batch.

What peers say is never held back. Pure: it is told what was taken, what it cost, and when.
"""

from __future__ import annotations

import math
from typing import Final

FIXED_SHARE: Final = 0.25
"""Of a core, for what a turn costs whatever it serves. Measured with three nodes on two cores: with less the batches
gain little, and with more their turns take the place of work."""

FIXED_SHARE_ALONE: Final = 0.75
"""The same for a shard of one replica. A shorter wait lets it work on one batch while its coordinator is busy with the
next: measured on one node with 64 clients, a fifth more puts than with a quarter of a core, and as many with 256."""

PACE_S_MAX: Final = 0.004

WINDOW_S: Final = 0.5
"""Time constant of everything that is averaged here: some hundred turns under load."""

SPREAD_MIN: Final = 1.0
"""Variance of the batches' sizes below which no line can be drawn: then the whole turn counts as fixed."""


class Pace:
    """The pace of one worker."""

    def __init__(self, now: float) -> None:
        """Times are seconds of a steady clock."""
        self._last = now
        self._weight = 0.0
        self._requests = self._cost_s = self._requests_squared = self._requests_cost = 0.0
        self.next_batch = 0.0
        """Requests that come before this wait for it."""

    def turned(self, requests: int, cost_s: float, now: float, *, alone: bool = False) -> None:
        """A turn took so many requests, more than none, and that much CPU time. alone: it cost no peers theirs."""
        fade = math.exp((self._last - now) / WINDOW_S)
        self._last = now
        self._weight = self._weight * fade + 1.0
        self._requests = self._requests * fade + requests
        self._cost_s = self._cost_s * fade + cost_s
        self._requests_squared = self._requests_squared * fade + requests * requests
        self._requests_cost = self._requests_cost * fade + requests * cost_s
        self.next_batch = now + self.wait_s(FIXED_SHARE_ALONE if alone else FIXED_SHARE)

    def wait_s(self, fixed_share: float) -> float:
        """From the last batch to the next, so that fixed costs take this share of a core."""
        mean = self._requests / self._weight
        return min(PACE_S_MAX, self.fixed_cost_s() / fixed_share) * max(0.0, 1.0 - 1.0 / mean)

    def fixed_cost_s(self) -> float:
        """CPU time of a turn that serves nobody, as the latest turns tell."""
        mean, mean_cost_s = self._requests / self._weight, self._cost_s / self._weight
        spread = self._requests_squared / self._weight - mean * mean
        if spread < SPREAD_MIN:
            return mean_cost_s
        each_s = (self._requests_cost / self._weight - mean * mean_cost_s) / spread
        return min(mean_cost_s, max(0.0, mean_cost_s - each_s * mean))
