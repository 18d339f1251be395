"""Which node replicates: whoever has written the lease row last, as long as he goes on writing it. Pure.

The row is changed by comparing and swapping, so of several that want it one gets it. Nobody compares clocks: a node
that has seen the row unchanged for EXPIRES_S of its own time takes it. The holder writes it every RENEW_S, and stops on
its own when it has not managed to for HELD_S, which is less. Should a node that was paused hold on for a moment too
long, two that replicate do no harm: a copy takes each change once and in order. They only waste work.
"""

from __future__ import annotations

from typing import Final

RENEW_S: Final = 1.0
LOOK_S: Final = 0.5
"""Of who does not hold it. A holder that dies is noticed after a look, EXPIRES_S and another look at the latest, which
leaves a second of five for what the looks themselves take, an election among it."""
HELD_S: Final = 2.5
EXPIRES_S: Final = 3.0


class Lease:
    """One node's view of the row."""

    def __init__(self) -> None:
        self._held_until = 0.0
        self._row_revision = -1
        self._unchanged_since = 0.0
        self._is_free = False

    def see(self, row_revision: int, *, is_free: bool, now: float) -> None:
        """The row was read: when it was last changed (0 = there is none), and whether its holder has let go of it."""
        if row_revision != self._row_revision:
            self._row_revision, self._unchanged_since = row_revision, now
        self._is_free = is_free or row_revision == 0

    def may_write(self, now: float) -> bool:
        """Whether to try: it is ours, or nobody's."""
        return self.is_held(now) or self._is_free or now - self._unchanged_since >= EXPIRES_S

    @property
    def row_revision(self) -> int:
        """What the row must be unchanged since, to be swapped."""
        return self._row_revision

    def written(self, row_revision: int, now: float) -> None:
        """We have swapped it; now: from before that was tried."""
        self._row_revision, self._unchanged_since = row_revision, now
        self._is_free = False
        self._held_until = now + HELD_S

    def lost(self) -> None:
        """Somebody else has it, or we have let go of it."""
        self._held_until = 0.0

    def is_held(self, now: float) -> bool:
        """Whether this node replicates."""
        return now < self._held_until

    def pause_s(self, now: float) -> float:
        """Until the next look."""
        return RENEW_S if self.is_held(now) else LOOK_S
