"""What the copying of one table does next, from what came of the steps before: pure.

    follow --changes--> follow               the copy comes nearer, or stays level with the leader cluster's table
    follow --gone, ahead, diverged--> snapshot --taken--> follow
    any    --failed--> wait --> the same again

Everything starts from where the copy stands, which its shard says. So a step that was lost, or done twice, or done by
another node meanwhile, needs no memory here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Protocol

WAIT_S_MIN: Final = 0.1
WAIT_S_MAX: Final = 5.0
"""After failures, doubled from one to the next, and less by up to half, so that tables do not come all at once."""

STALLED_S: Final = 30.0
"""Neither further nor level with the leader cluster's table for so long is an alarm. A quiet leader cluster says so
much oftener."""


class Rng(Protocol):
    """What is left to chance."""

    def random(self) -> float:
        """In [0, 1)."""


@dataclass(frozen=True, slots=True)
class Follow:
    """Ask for everything from where the copy ends."""


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Replace what the copy holds."""

    why: str
    loses: bool = False
    """Something that the leader cluster has not."""
    of_fresh: bool = False
    """What is replaced is what the last snapshot brought, and no more: nothing has followed."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so long."""

    seconds: float


Step = Follow | TakeSnapshot | Wait


class Does(enum.StrEnum):
    """What a copy is about."""

    FOLLOWS = "follows"
    TAKES_SNAPSHOT = "takes a snapshot"
    BACKS_OFF = "backs off"


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a copy is behind."""

    entries: int
    """Revisions that the leader cluster has and the copy has not, as last heard."""
    seconds: float
    """Since when it is not known to be level."""


@dataclass(frozen=True, slots=True)
class Since:
    """How it went with a copy, whoever has copied it."""

    level_at: float
    """When it was last known to be level."""
    progress_at: float
    """When it last was that, or came further."""


class Tail:
    """One table's copy. Times are on any one clock that does not go back."""

    def __init__(self, rng: Rng, now: float, since: Since | None = None) -> None:
        """since: as known of whoever has copied it before; nothing is made good by being begun anew."""
        self._rng = rng
        self.revision = 0
        """Where the copy ends, as last heard."""
        self._newest = 0
        self._level_at = now if since is None else since.level_at
        self._progress_at = now if since is None else since.progress_at
        self._failures = 0
        self._wait_s = 0.0
        self._snapshot_why = ""
        self._snapshot_loses = False
        self._parts = 0
        """Of the snapshot that is being taken."""
        self._parts_furthest = 0
        """Of all that were tried since the copy was last replaced."""
        self._is_unproven = False
        """The copy was replaced, and nothing has followed yet."""
        self._is_in_vain = False
        """It could not be followed from the last time that it was replaced."""
        self.backoff_s = 0.0
        """What is waited after the last failure; 0 = all is well."""
        self.trouble = ""
        """Why the last step came to nothing; "" once one has come to something."""

    def next(self) -> Step:
        """What to do now."""
        if self._wait_s:
            wait, self._wait_s = Wait(self._wait_s), 0.0
            return wait
        if self._snapshot_why:
            self._parts = 0
            return TakeSnapshot(self._snapshot_why, self._snapshot_loses, self._is_unproven)
        return Follow()

    # ---- what came of it --------------------------------------------------------------------------------------------

    def stands(self, revision: int) -> None:
        """The copy's own shard says that it ends here."""
        self.revision = revision

    def heard(self, through: int, newest: int, now: float) -> None:
        """The copy has everything up to `through`; the leader cluster's table stands at `newest`, or did just now."""
        self._succeeded()
        self._is_unproven = self._is_in_vain = False
        if through > self.revision or through >= newest:
            self._progress_at = now
        self.revision = max(self.revision, through)
        self._newest = max(newest, self.revision)
        if self.revision >= newest:
            self._level_at = now

    def cannot_follow(self, why: str, *, loses: bool = False, newest: int = 0) -> None:
        """The copy can't go on from where it is: only a snapshot helps. loses: it holds what the leader cluster does
        not. newest: where the leader cluster's table stands, if that was said.

        If the last snapshot has not helped, it is no progress to take one after the other, and none is taken at
        once."""
        self._snapshot_why, self._snapshot_loses = why, loses
        self._newest = max(self._newest, newest)
        if self._is_unproven:
            self._is_in_vain = True
            self.failed(f"{why}, right after a snapshot")

    def part_taken(self, now: float) -> None:
        """A snapshot is coming along, if it comes further than those before that broke off."""
        self._parts += 1
        if self._parts > self._parts_furthest:
            self._parts_furthest = self._parts
            self._progress(now)

    def replaced(self, revision: int, now: float) -> None:
        """The copy is what the snapshot was, of this revision."""
        self._snapshot_why = ""
        self._parts_furthest = 0
        self._is_unproven = True
        if not self._is_in_vain:
            self._succeeded()
        self._progress(now)
        self.revision = revision
        self._newest = max(self._newest, revision)

    def _progress(self, now: float) -> None:
        if not self._is_in_vain:
            self._progress_at = now

    def failed(self, why: str) -> None:
        """The step came to nothing; it is tried again after a while."""
        self._failures += 1
        longest_s = min(WAIT_S_MAX, WAIT_S_MIN * 2 ** min(self._failures - 1, 10))
        self._wait_s = self.backoff_s = longest_s * (0.5 + self._rng.random() / 2)
        self.trouble = why

    def _succeeded(self) -> None:
        self._failures = 0
        self.backoff_s = 0.0
        self.trouble = ""

    # ---- how it goes ------------------------------------------------------------------------------------------------

    @property
    def does(self) -> Does:
        """What the copy is about."""
        if self._failures:
            return Does.BACKS_OFF
        return Does.TAKES_SNAPSHOT if self._snapshot_why else Does.FOLLOWS

    @property
    def is_level(self) -> bool:
        """Whether the copy has all that the leader cluster was known to have, and nothing has failed since."""
        return not self._failures and not self._snapshot_why and 0 < self._newest <= self.revision

    def lag(self, now: float) -> Lag:
        """How far the copy is behind."""
        return Lag(max(0, self._newest - self.revision), 0.0 if self.is_level else now - self._level_at)

    def stuck_s(self, now: float) -> float:
        """For how long it has neither come further nor been level."""
        return now - self._progress_at

    def is_stalled(self, now: float) -> bool:
        """Whether somebody should have a look."""
        return self.stuck_s(now) >= STALLED_S
