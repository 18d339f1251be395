"""How upkeep gives way to clients: pure.

Upkeep is work that no client waits for at this moment: sweeping history, giving free pages back, sending a copy of the
state. It is done in short steps. While nobody else wants the replica, one step follows the other. While clients do, a
step is followed by a rest, as long as leaves upkeep its share of the time, whatever the machine is worth just then: a
step that takes longer since others are at work is followed by a longer rest. So it always goes on.

Whether clients want the replica is known from turns: requests are served, or commands applied. The latter is all that a
follower sees of them, and it shares a host with leaders of other shards. Turns with neither lie between those with
some, so for LATELY_S afterwards it counts as wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LATELY_S: Final = 0.1
"""Under load, turns for clients are a few milliseconds apart."""

REST_S_MAX: Final = 0.5
"""However long a step took."""


class Demand:
    """Whether clients want the replica now."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: seconds, only forward. Any thread may call it, and `is_there`."""
        self.clock: Final = clock
        self._noticed_s = float("-inf")

    def notice(self) -> None:
        """A turn is for clients."""
        self._noticed_s = self.clock()

    def is_there(self) -> bool:
        """Whether one was, lately."""
        return self.clock() - self._noticed_s < LATELY_S


class Share:
    """What one kind of upkeep takes."""

    def __init__(self, demand: Demand, share_max: float) -> None:
        """share_max: of the time, while clients want the replica."""
        self._demand = demand
        self._rest_per_s = 1 / share_max - 1
        self._rest_until_s = float("-inf")

    def now_s(self) -> float:
        """For `stepped`."""
        return self._demand.clock()

    def rest_s(self, took_s: float) -> float:
        """How long to rest after a step that took so long; 0 while nobody wants the replica."""
        return self._rest_s(took_s) if self._demand.is_there() else 0.0

    def stepped(self, began_s: float) -> None:
        """A step has ended that began then."""
        ended_s = self._demand.clock()
        self._rest_until_s = ended_s + self._rest_s(ended_s - began_s)

    def may_step(self) -> bool:
        """Whether it is time for a step: the rest is over, or disturbs nobody any more."""
        return self._demand.clock() >= self._rest_until_s or not self._demand.is_there()

    def _rest_s(self, took_s: float) -> float:
        return min(REST_S_MAX, took_s * self._rest_per_s)
