"""Watchers by what they want to hear, and what a change means to them.

Those who want the same (`Interest`) form a group, and those of a group on one stream a cohort. The groups of a key are
found in a dict (single keys) and in an interval map (spans), so a change costs what it has listeners, and an event is
encoded once for all of them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from coordinator.watch import responses
from coordinator.watch.intervals import NO_END, IntervalMap
from proto.spans import OPEN_END

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from random import Random

    from coordinator.watch.changes import Revised
    from coordinator.watch.outbox import Outbox


class Interest(NamedTuple):
    """What a watcher wants to hear."""

    key: bytes
    end: bytes
    """Empty = the key alone; OPEN_END = everything from it on; else exclusive and above key."""
    puts: bool = True
    deletes: bool = True
    prev_kv: bool = False


class State(enum.Enum):
    """Of a watcher, as hub.py draws it."""

    SYNCED = enum.auto()
    BEHIND = enum.auto()
    ENDED = enum.auto()


@dataclass(slots=True, eq=False, kw_only=True)
class Watcher:
    """One watcher of a stream."""

    watch_id: int
    interest: Interest
    outbox: Outbox
    start: int
    """As its client asked: 0 = from now on."""
    next: int
    """The lowest revision that it may still hear of. Of one that is synced, kept only where it lies in the future."""
    fragment: bool = False
    state: State = State.ENDED
    was_told: bool = False
    """Whether it heard of anything since its last progress notification was due."""


class Cohort:
    """Those of a group on one stream."""

    __slots__ = ("_ids", "next_max", "watchers")

    def __init__(self) -> None:
        self.watchers: dict[Watcher, None] = {}
        self.next_max = 0
        """None of them waits for something above this."""
        self._ids = b""

    def add(self, watcher: Watcher) -> None:
        self.watchers[watcher] = None
        self.next_max = max(self.next_max, watcher.next)
        self._ids = b""

    def remove(self, watcher: Watcher) -> None:
        del self.watchers[watcher]
        self._ids = b""

    @property
    def ids(self) -> bytes:
        """The same for cohorts that are told the same, byte by byte."""
        if not self._ids:
            self._ids = b",".join(b"%d%d" % (each.watch_id, each.fragment) for each in self.watchers)
        return self._ids


@dataclass(slots=True, eq=False)
class Group:
    """Those who want the same."""

    interest: Interest
    cohorts: dict[Outbox, Cohort] = field(default_factory=dict)


class Told(NamedTuple):
    """What one revision means to a group."""

    revision: int
    events: list[bytes]


class Audience:
    """Watchers by what they want to hear."""

    def __init__(self, random: Random) -> None:
        self._groups: dict[Interest, Group] = {}
        self._keys: dict[bytes, list[Group]] = {}
        self._spans: IntervalMap[list[Group]] = IntervalMap(random)

    def add(self, watcher: Watcher) -> None:
        group = self._groups.get(watcher.interest)
        if group is None:
            group = self._groups[watcher.interest] = Group(watcher.interest)
            self._place(group)
        cohort = group.cohorts.get(watcher.outbox)
        if cohort is None:
            cohort = group.cohorts[watcher.outbox] = Cohort()
        cohort.add(watcher)

    def _place(self, group: Group) -> None:
        key, end = group.interest.key, group.interest.end
        if not end:
            self._keys.setdefault(key, []).append(group)
            return
        span = (key, NO_END if end == OPEN_END else end)
        groups = self._spans.get(span)
        if groups is None:
            self._spans.add(span, [group])
        else:
            groups.append(group)

    def remove(self, watcher: Watcher) -> None:
        group = self._groups[watcher.interest]
        cohort = group.cohorts[watcher.outbox]
        cohort.remove(watcher)
        if not cohort.watchers:
            del group.cohorts[watcher.outbox]
        if not group.cohorts:
            del self._groups[watcher.interest]
            self._displace(group)

    def _displace(self, group: Group) -> None:
        key, end = group.interest.key, group.interest.end
        if not end:
            self._keys[key].remove(group)
            if not self._keys[key]:
                del self._keys[key]
            return
        span = (key, NO_END if end == OPEN_END else end)
        groups = self._spans.get(span)
        assert groups is not None
        groups.remove(group)
        if not groups:
            self._spans.remove(span)

    def gather(self, revised: Iterable[Revised]) -> dict[Group, list[Told]]:
        """What each group has to hear of these revisions."""
        touched: dict[Group, list[Told]] = {}
        if not self._groups:
            return touched
        keys, spans = self._keys, self._spans
        for revision, changes in revised:
            for change in changes:
                encoded: list[bytes | None] = [None, None]
                for groups in (keys.get(change.key, ()), *spans.over(change.key)):
                    for group in groups:
                        interest = group.interest
                        if not (interest.deletes if change.pair is None else interest.puts):
                            continue
                        event = encoded[interest.prev_kv]
                        if event is None:
                            event = responses.event(change, revision, prev_kv=interest.prev_kv)
                            encoded[interest.prev_kv] = event
                        told = touched.setdefault(group, [])
                        if told and told[-1].revision == revision:
                            told[-1].events.append(event)
                        else:
                            told.append(Told(revision, [event]))
        return touched

    def __iter__(self) -> Iterator[Watcher]:
        for group in self._groups.values():
            for cohort in group.cohorts.values():
                yield from cohort.watchers
