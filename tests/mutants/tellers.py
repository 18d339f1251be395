"""Known bugs of who tells watchers what has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordinator.watch import hub, inquiry, responses
from coordinator.watch.changes import Gone, Part
from coordinator.watch.inquiry import Inquiry
from proto.internal import frames_pb2 as frames
from shardworker.replica.feed import Feed
from shardworker.replica.recent_changes import RecentChanges

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from coordinator.watch.audience import Watcher
    from coordinator.watch.changes import Told


class ForgetsWaiters(Feed):
    """Tells who waited at a leader that is one no longer that nothing was missed."""

    def abandon(self, why: str) -> None:
        for table_id, followed in self._followed.items():
            table = self._machine.tables.get(table_id)
            for follower in followed.waiting:
                told = frames.TableChanges(first=follower.first, through=follower.first, prev=True)
                if table is not None:
                    self._answer(follower, table, told)
            followed.waiting.clear()


class KeepsThroughInstall(Feed):
    """Takes what it has kept to go on where a snapshot of the leader's begins."""

    def installed(self) -> None:
        for table_id, followed in self._followed.items():
            table = self._machine.tables.get(table_id)
            if table is not None:
                followed.recent.since = table.revision - len(followed.recent.kept)


class BeginsEarly(RecentChanges):
    """Tells of a revision that who asks has heard of."""

    def tell(self, first: int, prev_above: int, *, prev: bool | None = None) -> frames.TableChanges:
        told = super().tell(max(first - 1, self.since + 1), prev_above, prev=prev)
        told.first = first
        return told


def pack_backwards(told: Iterable[Any], bytes_max: int) -> Iterator[list[Any]]:
    """The newest first, as who reads a log backwards may tell it."""
    for pack in _pack(told, bytes_max):
        yield from ([each] for each in reversed(pack))


def pack_pieces(told: Iterable[Any], bytes_max: int) -> Iterator[list[Any]]:
    """A response for each event."""
    for each in told:
        for event in each.events:
            yield [each._replace(events=[event])]


_pack = hub._pack


class ResumesLate(hub.Hub):
    """Takes the revision that a watcher asks from for the last that it has heard of."""

    def add(self, watcher: Watcher) -> None:
        if watcher.next <= self.revision:
            watcher.next += 1
        super().add(watcher)


class TellsAhead(hub.Hub):
    """Tells how far the table has come, not its watcher (etcd before 3.5.8)."""

    def is_current(self, watcher: Watcher) -> bool:
        return True


class HearsAll(hub.Hub):
    """Knows no filters."""

    def add(self, watcher: Watcher) -> None:
        watcher.interest = watcher.interest._replace(puts=True, deletes=True)
        super().add(watcher)


class HidesGaps(Inquiry):
    """Goes on behind what was compacted, as if nothing had been in it."""

    def take(self, question: inquiry.Question, told: Told) -> bool:
        if isinstance(told, Gone) and question.waits:
            told = Part(question.first, told.floor - 1, [])
        return super().take(question, told)


class SkipsToThePast(Inquiry):
    """Takes what was read of the past for told to everybody."""

    def take(self, question: inquiry.Question, told: Told) -> bool:
        taken = super().take(question, told)
        if self.hub is not None and isinstance(told, Part) and question.prev and not question.waits:
            self.hub.revision = max(self.hub.revision, told.through)
        return taken


class AsksLate(Inquiry):
    """Asks behind the revision that comes next, whenever it was told nothing for a while."""

    def take(self, question: inquiry.Question, told: Told) -> bool:
        if self.hub is not None and isinstance(told, Part) and question.waits and told.through < told.first:
            self.hub.revision += 1
            return True
        return super().take(question, told)


def event_with_prev(change: Any, revision: int, *, prev_kv: bool) -> bytes:
    """What the first watcher of a key wants is what all get."""
    return _event(change, revision, prev_kv=True)


_event = responses.event
