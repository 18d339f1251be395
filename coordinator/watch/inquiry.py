"""What to ask a shard about a watched table, and what to make of the answers. Pure; nothing here waits.

Two questions may be under way at a time:

    present   what follows the hub's revision; it waits for that to happen, and the answer is published
    past      what was missed by watchers who are behind; the answer is replayed to them

Both ask from a revision on, so a question that failed is asked again. They go to the nearest replica, for as long as
that keeps up: beside them the leader is asked now and then where the table stands, and while the nearest replica lags
behind that the leader is asked for everything.

A table may also stand below what was heard of it: a copy was put back to an earlier state of the leader cluster's
table, or a shard was recovered from the disk of one replica. What was told then does not hold any more, and what
follows it is not the table's. It shows in two ways. The leader says so itself, or the checksum of what was heard is not
the one that the table has at that revision; of the second only the leader is believed, since a replica that lags may
itself be in the past that was given up. Then all watches end, and the hub goes on from where the table stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from coordinator.watch.changes import Gone, Part, TakenBack
from coordinator.watch.hub import Hub

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from coordinator.watch.changes import Told
    from coordinator.watch.responses import Header


class Question(NamedTuple):
    """To a replica of the table's shard: what has changed from a revision on, or at least the beginning of it."""

    first: int
    """0: only where the table stands, as the end of an empty part."""
    prev: bool = False
    """With the pairs before."""
    waits: bool = False
    """As a follower: for something to happen, and to hear of what is compacted meanwhile."""
    of_leader: bool = False
    """Else of the nearest replica."""
    checksum: int | None = None
    """What was heard as the table's after the revision before `first`, if anything was."""
    era: int = 0
    """Of the one who asks: how often the table was taken back by then."""


class Inquiry:
    """About one table."""

    def __init__(self, header: Header, random: Random, on_auth_version: Callable[[int], None]) -> None:
        """on_auth_version: is told of the table's auth version before what happened up to it is."""
        self.hub: Hub | None = None
        """Once it is known where the table stands."""
        self.of_leader = False
        """Whether the leader is asked, because the nearest replica lags."""
        self._header = header
        self._random = random
        self._on_auth_version = on_auth_version
        self._checksum: int | None = None
        """Of the table at the hub's revision, as far as that was told."""
        self._era = 0
        self._stood = 0

    # ---- questions --------------------------------------------------------------------------------------------------

    def present(self) -> Question:
        """The next one about the present."""
        hub = self.hub
        if hub is None:
            return Question(0, of_leader=self.of_leader, era=self._era)
        return Question(
            hub.revision + 1,
            prev=hub.wants_prev,
            waits=True,
            of_leader=self.of_leader,
            checksum=self._checksum,
            era=self._era,
        )

    def past(self) -> Question | None:
        """The next one about the past; None while nobody is behind who has room."""
        first = None if self.hub is None else self.hub.wants_history()
        if first is None:
            return None
        return Question(first, prev=True, of_leader=self.of_leader, era=self._era)

    # ---- answers ----------------------------------------------------------------------------------------------------

    def take(self, question: Question, told: Told) -> bool:
        """The answer to one of them. Returns whether it was of any use: if not, the replica has nothing to tell yet."""
        if question.era != self._era:
            return True  # about a table that is no more
        if isinstance(told, TakenBack):
            if question.of_leader:
                self._go_on_from(told.revision)
            self.of_leader = True
            return True
        if isinstance(told, Part):
            self._on_auth_version(told.auth_version)
        if self.hub is None:
            assert isinstance(told, Part), "where a table stands is not compacted"
            self.hub = Hub(told.through, self._header, self._random)
            self._checksum = told.checksum
            return True
        if not question.waits:
            return self._replay(self.hub, told)
        if isinstance(told, Gone):
            self.hub.handle_gap(told.floor)
            self._checksum = None
            return True
        self._publish(self.hub, told)
        return True

    def _publish(self, hub: Hub, part: Part) -> None:
        if part.through == hub.revision:
            if part.checksum is not None:
                self._checksum = part.checksum
        elif part.prev or not hub.wants_prev:
            hub.publish(part)
            self._checksum = part.checksum
        # else somebody has come meanwhile who wants the pairs before: it is asked again with them

    def _replay(self, hub: Hub, told: Part | Gone) -> bool:
        if isinstance(told, Gone):
            hub.handle_compacted(told.floor)
            return True
        if told.through < told.first:
            return False
        hub.replay(told)
        return True

    # ---- where the table stands -------------------------------------------------------------------------------------

    @property
    def stands(self) -> int:
        """The newest revision that was heard of, published or not."""
        return self._stood if self.hub is None else max(self._stood, self.hub.revision)

    @property
    def place(self) -> tuple[int, int]:
        """To be taken before the leader is asked where the table stands, and given with its answer."""
        return self._era, 0 if self.hub is None else self.hub.revision

    def handle_standing(self, place: tuple[int, int], revision: int) -> None:
        """The leader says that the table stands there, by a linearizable read that began after place."""
        era, heard = place
        if era != self._era:
            return
        if revision < heard:
            self._go_on_from(revision)
            self.of_leader = True
        else:
            self._stood = max(self._stood, revision)

    def _go_on_from(self, revision: int) -> None:
        assert self.hub is not None
        self._era += 1
        self._checksum = None
        self._stood = revision
        self.hub.handle_taken_back(revision)
