"""Who hears of what: the changes of one table, fanned out to its watchers. Pure; nothing here waits.

    add -> BEHIND --replay--> SYNCED        behind: its next revision has been published already, so the history must
              ^                  |          tell it. synced: all it should know is in its outbox, up to `Hub.revision`
              +-- outbox full ---+
    cancel, handle_compacted, handle_taken_back, end -> ENDED

Two kinds of news come in. publish() brings what has just happened, once for the whole table, and goes to all who are
synced. replay() brings a part of the history for those who are behind: they began in the past, or their client reads
too slowly and the outbox was full when an event came. Each watcher's `next` says what it must hear next, so it hears
everything from there on once and in order, whatever overlaps: a change below `next` is left out, and a part that
begins above it is not for this watcher.

Whoever feeds the hub reads the history from wants_history() on, as long as that says so. It names the watchers in
turn, so one that asks for a long past holds up nobody; a part serves everyone whose place it covers.

Who wants what is in audience.py. A response is encoded once for all of a group, not once for a watcher, and cohorts
with the same watch ids, as of clients that are alike, are given all of theirs as one object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coordinator.api.call import Alike
from coordinator.watch import responses
from coordinator.watch.audience import Audience, State

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from random import Random

    from coordinator.watch.audience import Cohort, Group, Told, Watcher
    from coordinator.watch.changes import Part
    from coordinator.watch.outbox import Outbox
    from coordinator.watch.responses import Header

RESPONSE_REVISIONS_MAX: Final = 1000
"""Of one response, as in etcd."""
RESPONSE_BYTES_MAX: Final = 1 << 20
"""At which a response is closed: what makes it longer is only that a revision is never split."""
RESPONSE_BYTES_SHORT: Final = 64 << 10
"""The same while all outboxes together hold as much as they may: each still takes a response when it is empty, and of
those whose clients read nothing there may be many."""
ALIKE_MIN: Final = 4
"""Watchers of a cohort that is told as one whatever else waits for its stream: what fewer are told had better leave
together with that."""


class _Pack:
    """What one response says to a group, which is encoded once for all whose watch ids are the same."""

    __slots__ = ("_alike", "_encoded", "_header", "_told", "first", "last")

    def __init__(self, told: Sequence[Told], header: bytes) -> None:
        self._told = told
        self._header = header
        self._encoded: dict[tuple[int, bool], list[bytes]] = {}
        self._alike: dict[bytes, Alike] = {}
        self.first = told[0].revision
        self.last = told[-1].revision

    def encoded_for(self, watcher: Watcher) -> list[bytes]:
        """What the watcher has to hear of it; more than one message if it takes fragments."""
        if watcher.next > self.first:
            return self._encode(watcher, [each for each in self._told if each.revision >= watcher.next])
        alike = (watcher.watch_id, watcher.fragment)
        messages = self._encoded.get(alike)
        if messages is None:
            messages = self._encoded[alike] = self._encode(watcher, self._told)
        return messages

    def encoded_for_all(self, cohort: Cohort) -> Alike:
        """What all watchers of a cohort have to hear of it, if none of them waits for something above `first`."""
        alike = self._alike.get(cohort.ids)
        if alike is None:
            alike = self._alike[cohort.ids] = Alike(
                message for watcher in cohort.watchers for message in self._encode(watcher, self._told)
            )
        return alike

    def _encode(self, watcher: Watcher, told: Sequence[Told]) -> list[bytes]:
        events = told[0].events if len(told) == 1 else [event for each in told for event in each.events]
        return responses.events(self._header, watcher.watch_id, events, fragment=watcher.fragment)


class Hub:
    """All watchers of one table."""

    def __init__(self, revision: int, header: Header, random: Random) -> None:
        """revision: everything up to it is history, what follows will be published."""
        self.revision = revision
        self._header = header
        self._synced = Audience(random)
        self._late = Audience(random)
        self._behind: dict[Watcher, None] = {}
        self._watchers_count = 0
        self._prev_count = 0

    @property
    def watchers_count(self) -> int:
        return self._watchers_count

    @property
    def wants_prev(self) -> bool:
        """Whether any watcher wants the pairs before."""
        return self._prev_count > 0

    @property
    def behind_count(self) -> int:
        """Watchers that still have to hear of something that was published."""
        return len(self._behind)

    @property
    def told_through(self) -> int:
        """Everything up to this has been given to the outboxes of all who want it."""
        return min((watcher.next - 1 for watcher in self._behind), default=self.revision)

    # ---- watchers come and go -------------------------------------------------------------------------------------

    def add(self, watcher: Watcher) -> None:
        """From watcher.next on it hears of everything that it wants to."""
        self._watchers_count += 1
        self._prev_count += watcher.interest.prev_kv
        if watcher.next > self.revision:
            watcher.state = State.SYNCED
            self._synced.add(watcher)
        else:
            self._enter_behind(watcher, watcher.next)

    def cancel(self, watcher: Watcher) -> None:
        """It hears of nothing more. No harm if it has ended already."""
        if watcher.state is State.SYNCED:
            self._synced.remove(watcher)
        elif watcher.state is State.BEHIND:
            self._late.remove(watcher)
            del self._behind[watcher]
        else:
            return
        watcher.state = State.ENDED
        self._watchers_count -= 1
        self._prev_count -= watcher.interest.prev_kv

    def end(self, reason: str) -> None:
        """The table is no more: all watchers hear why, and end."""
        for watcher in [*self._synced, *self._late]:
            self.cancel(watcher)
            end = responses.canceled(self._header(self.revision), watcher.watch_id, reason=reason)
            watcher.outbox.put((end,))

    def _enter_behind(self, watcher: Watcher, next_revision: int) -> None:
        watcher.next = next_revision
        watcher.state = State.BEHIND
        self._late.add(watcher)
        self._behind[watcher] = None

    def _fall_behind(self, watcher: Watcher, next_revision: int) -> None:
        self._synced.remove(watcher)
        self._enter_behind(watcher, next_revision)

    def _catch_up(self, watcher: Watcher) -> None:
        self._late.remove(watcher)
        del self._behind[watcher]
        watcher.state = State.SYNCED
        self._synced.add(watcher)

    # ---- news -----------------------------------------------------------------------------------------------------

    def publish(self, part: Part) -> None:
        """What has happened since: part.first is the revision after the hub's. With the pairs before if any watcher
        wants them."""
        assert part.prev or not self.wants_prev
        assert part.first == self.revision + 1, f"{part.first} does not follow {self.revision}"
        for group, told in self._synced.gather(part.revised).items():
            for watcher, missed in self._deliver(group, told, current=None):
                self._fall_behind(watcher, missed)
        self.revision = part.through

    def replay(self, part: Part) -> None:
        """A part of the history, with the pairs before, for whoever is behind and waits for some of it."""
        assert part.prev
        current = max(self.revision, part.through)
        missing: set[Watcher] = set()
        for group, told in self._late.gather(part.revised).items():
            for watcher, missed in self._deliver(group, told, current=current, first=part.first):
                watcher.next = missed
                missing.add(watcher)
        for watcher in list(self._behind):
            if watcher not in missing and part.first <= watcher.next:
                watcher.next = max(watcher.next, part.through + 1)
                if watcher.next > self.revision:
                    self._catch_up(watcher)

    def wants_history(self) -> int | None:
        """The revision from which somebody who is behind, and has room, must be told; None if nobody is."""
        for watcher in self._behind:
            if not watcher.outbox.is_full:
                del self._behind[watcher]
                self._behind[watcher] = None  # to the end of the queue
                return watcher.next
        return None

    def handle_compacted(self, floor: int) -> None:
        """The history below this revision is gone: who still needs it ends, as in etcd with a header that says 0."""
        for watcher in list(self._behind):
            if watcher.next < floor:
                self.cancel(watcher)
                end = responses.canceled(self._header(0), watcher.watch_id, compact_revision=floor)
                watcher.outbox.put((end,))

    def handle_gap(self, floor: int) -> None:
        """What followed the hub's revision was compacted before it could be published."""
        assert floor > self.revision + 1
        for watcher in list(self._synced):
            if watcher.next < floor:
                self._fall_behind(watcher, max(watcher.next, self.revision + 1))
        self.revision = floor - 1
        self.handle_compacted(floor)

    def handle_taken_back(self, revision: int) -> None:
        """The table stands at this revision and has not come from what was told: who was told anything, or would go on
        from there, ends as if everything below it had been compacted, since only a look at the table helps. Who waits
        for what lies ahead goes on waiting."""
        for watcher in [*self._synced, *self._late]:
            if watcher.next <= self.revision + 1:
                self.cancel(watcher)
                end = responses.canceled(self._header(0), watcher.watch_id, compact_revision=revision)
                watcher.outbox.put((end,))
        self.revision = revision

    def _deliver(
        self, group: Group, told: Sequence[Told], *, current: int | None, first: int = 0
    ) -> list[tuple[Watcher, int]]:
        """Gives who could not take all of it, and from which revision on.

        current: the revision in the header, else the last one of each response. first: who waits for something before
        it is left out."""
        behind: list[tuple[Watcher, int]] = []
        long_packs = self._packed(told, RESPONSE_BYTES_MAX, current)
        short_packs = long_packs if len(told) == 1 else self._packed(told, RESPONSE_BYTES_SHORT, current)
        alone = long_packs[0] if current is None and len(long_packs) == 1 else None
        for outbox, cohort in group.cohorts.items():
            if alone is not None and _told_as_one(outbox, cohort, alone):
                continue
            for watcher in cohort.watchers:
                if watcher.next < first:
                    continue
                packs = short_packs if outbox.is_short else long_packs
                for pack in packs:
                    if watcher.next > pack.last:
                        continue
                    if outbox.is_full:
                        behind.append((watcher, max(watcher.next, pack.first)))
                        break
                    outbox.put(pack.encoded_for(watcher))
                    watcher.was_told = True
        return behind

    def _packed(self, told: Sequence[Told], bytes_max: int, current: int | None) -> list[_Pack]:
        return [_Pack(pack, self._header(current or pack[-1].revision)) for pack in _pack(told, bytes_max)]

    # ---- progress -------------------------------------------------------------------------------------------------

    def is_current(self, watcher: Watcher) -> bool:
        """Whether everything up to `revision` that it wants is in its outbox, and that revision means it at all."""
        return watcher.state is State.SYNCED and self.revision >= max(watcher.start, watcher.next - 1)

    def notify(self, watcher: Watcher) -> None:
        """A progress notification is due: it gets one if it is current and nothing else told it where it stands."""
        if not watcher.was_told and self.is_current(watcher) and not watcher.outbox.is_full:
            watcher.outbox.put((responses.progress(self._header(self.revision), watcher.watch_id),))
        watcher.was_told = False

    def tell_progress(self, watchers: Collection[Watcher], outbox: Outbox) -> None:
        """All watchers of a stream are told where they stand, if all are current; else nobody is, as in etcd."""
        if watchers and all(map(self.is_current, watchers)):
            outbox.put((responses.progress(self._header(self.revision), responses.NO_WATCHER),))


def _told_as_one(outbox: Outbox, cohort: Cohort, pack: _Pack) -> bool:
    """Tell a whole cohort at once, unless some of it have to be told apart."""
    if cohort.next_max > pack.first or not (len(cohort.watchers) >= ALIKE_MIN or outbox.is_empty):
        return False
    alike = pack.encoded_for_all(cohort)
    if not outbox.has_room(alike.size_bytes):
        return False
    outbox.put_alike(alike)
    for watcher in cohort.watchers:
        watcher.was_told = True
    return True


def _pack(told: Iterable[Told], bytes_max: int) -> Iterator[list[Told]]:
    """Revisions put together into responses of a bounded size."""
    pack: list[Told] = []
    size = 0
    for each in told:
        pack.append(each)
        size += sum(map(len, each.events))
        if size >= bytes_max or len(pack) >= RESPONSE_REVISIONS_MAX:
            yield pack
            pack, size = [], 0
    if pack:
        yield pack
