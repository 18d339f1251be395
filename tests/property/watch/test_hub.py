"""The hub under random programs, against a log that is scanned.

What must hold, however writes, late deliveries, slow clients, parts of history and compactions fall together: each
watcher hears of everything that it wants from its start on, once and in order, a revision never in two responses; or
it is told of the compaction that took away what it still needed. Progress tells no more than was sent before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.api.headers import EtcdHeaders
from coordinator.watch import hub, responses
from coordinator.watch.audience import Interest, State, Watcher
from coordinator.watch.changes import Change, Part, Revised
from coordinator.watch.hub import Hub
from coordinator.watch.outbox import Budget, Outbox
from proto.etcd import kv_pb2
from proto.etcd import rpc_pb2 as etcd
from proto.spans import OPEN_END

KEYS = [b"a", b"ab", b"b", b"c", b"\xff"]
OUTBOX_BYTES_MAX = 150
"""A handful of events, so that streams are often full."""

interests = st.builds(
    Interest,
    st.sampled_from(KEYS),
    st.sampled_from([b"", b"", OPEN_END, b"b", b"c", b"d"]),
    puts=st.sampled_from([True, True, False]),
    deletes=st.sampled_from([True, True, False]),
    prev_kv=st.booleans(),
).filter(lambda interest: interest.end in (b"", OPEN_END) or interest.end > interest.key)


def stored(pair: kv_pb2.KeyValue) -> bytes:
    encoded = pair.SerializeToString()
    return b"\x12" + bytes([len(encoded)]) + encoded


def holds(interest: Interest, key: bytes) -> bool:
    if not interest.end:
        return key == interest.key
    return interest.key <= key and (interest.end == OPEN_END or key < interest.end)


@dataclass(eq=False)
class Stream:
    """A client that notes what it reads."""

    outbox: Outbox
    watchers: list[Watched] = field(default_factory=list)
    heard: list[etcd.WatchResponse] = field(default_factory=list)


@dataclass(eq=False)
class Watched:
    watcher: Watcher
    first: int
    """The first revision that it must hear of."""


class World:
    """A table's log, of which the hub knows a beginning and clients have heard less."""

    def __init__(self, seed: int) -> None:
        self.changes: dict[int, list[Change]] = {}
        self.events: dict[int, list[kv_pb2.Event]] = {}
        self.live: dict[bytes, kv_pb2.KeyValue] = {}
        self.revision = 1
        self.floor = -1
        headers = EtcdHeaders(cluster_id=7, member_id=8)
        self.hub = Hub(1, lambda revision: headers.encode(revision=revision, term=3), Random(seed))
        self.budget = Budget(2 * OUTBOX_BYTES_MAX)
        self.streams = [
            Stream(
                Outbox(self.budget, bytes_max=OUTBOX_BYTES_MAX, on_message=lambda: None, on_room=lambda: None)
            )
            for _ in range(3)
        ]

    def write(self, ops: list[tuple[bytes, bool]]) -> None:
        """A transaction; in it a key may be deleted and put again."""
        revision = self.revision + 1
        changes: list[Change] = []
        events: list[kv_pb2.Event] = []
        for key, puts in ops:
            prev = self.live.pop(key, None)
            if not puts and prev is None:
                continue
            event = kv_pb2.Event(prev_kv=prev)
            if puts:
                created = revision if prev is None else prev.create_revision
                version = 1 if prev is None else prev.version + 1
                pair = kv_pb2.KeyValue(
                    key=key, mod_revision=revision, create_revision=created, version=version, value=b"v"
                )
                self.live[key] = pair
                event.kv.CopyFrom(pair)
            else:
                event.type = kv_pb2.Event.DELETE
                event.kv.key, event.kv.mod_revision = key, revision
            events.append(event)
            changes.append(
                Change(key, stored(event.kv) if puts else None, None if prev is None else stored(prev))
            )
        if changes:
            self.revision, self.changes[revision], self.events[revision] = revision, changes, events

    def part(self, first: int, through: int, *, prev: bool = True) -> Part:
        numbers = range(max(first, 2), through + 1)  # the first revision is the table's creation
        revised = [Revised(revision, self.changes[revision]) for revision in numbers]
        if not prev:
            revised = [
                Revised(revision, [change._replace(prev=None) for change in changes])
                for revision, changes in revised
            ]
        return Part(first, through, revised, prev)

    def publish(self, count: int) -> None:
        through = min(self.hub.revision + count, self.revision)
        if self.hub.revision + 1 < self.floor:
            self.hub.handle_gap(self.floor)
        elif through > self.hub.revision:
            self.hub.publish(self.part(self.hub.revision + 1, through, prev=self.hub.wants_prev))

    def replay(self, count: int, beyond: bool) -> None:
        """A part of the history; the replica that gives it may know more than was published."""
        first = self.hub.wants_history()
        if first is None:
            return
        if first < self.floor:
            self.hub.handle_compacted(self.floor)
            return
        known = self.revision if beyond else self.hub.revision
        self.hub.replay(self.part(first, min(first + count - 1, known)))

    def watch(self, stream: int, interest: Interest, start: int) -> None:
        to = self.streams[stream]
        if to.outbox.is_full:  # such a stream takes no requests
            return
        first = start or self.hub.revision + 1
        watcher = Watcher(
            watch_id=len(to.watchers), interest=interest, outbox=to.outbox, start=start, next=first
        )
        to.watchers.append(Watched(watcher, first))
        to.outbox.put((responses.created(b"", watcher.watch_id),))
        self.hub.add(watcher)

    def cancel(self, stream: int, which: int) -> None:
        watchers = self.streams[stream].watchers
        if which < len(watchers):
            self.hub.cancel(watchers[which].watcher)

    def ask_progress(self, stream: int) -> None:
        to = self.streams[stream]
        if not to.outbox.is_full:
            self.hub.tell_progress([watched.watcher for watched in to.watchers], to.outbox)

    def notify(self, stream: int, which: int) -> None:
        watchers = self.streams[stream].watchers
        if which < len(watchers):
            self.hub.notify(watchers[which].watcher)

    def compact(self, back: int) -> None:
        self.floor = max(self.floor, self.revision - back)

    def read(self, stream: int, count: int) -> None:
        for _ in range(count):
            for message in self.streams[stream].outbox.pop_batch(1):
                self.streams[stream].heard.append(etcd.WatchResponse.FromString(message))

    def wanted(self, watched: Watched, through: int) -> list[kv_pb2.Event]:
        interest = watched.watcher.interest
        wanted: list[kv_pb2.Event] = []
        for revision in range(watched.first, through + 1):
            for event in self.events.get(revision, ()):
                if not holds(interest, event.kv.key):
                    continue
                if not (interest.deletes if event.type == kv_pb2.Event.DELETE else interest.puts):
                    continue
                shown = kv_pb2.Event()
                shown.CopyFrom(event)
                if not interest.prev_kv:
                    shown.ClearField("prev_kv")
                wanted.append(shown)
        return wanted

    def check(self, stream: Stream, watched: Watched) -> list[kv_pb2.Event]:
        own = [each for each in stream.heard if each.watch_id == watched.watcher.watch_id]
        events = [event for response in own for event in response.events]
        assert events == self.wanted(watched, self.revision)[: len(events)]
        ends = [response.events[-1].kv.mod_revision for response in own if response.events]
        begins = [response.events[0].kv.mod_revision for response in own if response.events]
        assert all(end < begin for end, begin in zip(ends, begins[1:], strict=False))
        assert all(
            response.header.revision >= response.events[-1].kv.mod_revision
            for response in own
            if response.events
        )
        for response in own:
            if response.canceled:
                assert response is own[-1]
                assert response.header.revision == 0
                assert response.compact_revision == self.floor or response.compact_revision < self.floor
        return events

    def check_progress(self, stream: Stream) -> None:
        """Nothing at or below a progress response's revision comes after it, to a watcher that was there."""
        there: set[int] = set()
        for number, response in enumerate(stream.heard):
            if response.created:
                there.add(response.watch_id)
            if response.created or response.events or response.canceled:
                continue
            told = there if response.watch_id < 0 else {response.watch_id}
            for later in stream.heard[number + 1 :]:
                if later.watch_id in told:
                    assert all(event.kv.mod_revision > response.header.revision for event in later.events)

    def settle(self) -> None:
        """Once clients read and the history is told to its end, everybody has heard all, or knows why not."""
        rounds = 0
        while self.hub.revision < self.revision or self.hub.behind_count:
            rounds += 1
            assert rounds < 1000, "somebody stays behind for ever"
            self.publish(4)
            for number in range(len(self.streams)):
                self.read(number, 1000)
            self.replay(3, beyond=True)
        for number, stream in enumerate(self.streams):
            self.read(number, 1000)
            self.check_progress(stream)
            for watched in stream.watchers:
                events = self.check(stream, watched)
                watcher = watched.watcher
                if watcher.state is State.ENDED:
                    continue
                assert events == self.wanted(watched, self.revision)
                assert self.hub.is_current(watcher) is (self.revision >= watcher.start)
        assert self.budget.bytes == 0


def step(
    name: str, **arguments: st.SearchStrategy[object]
) -> st.SearchStrategy[tuple[str, dict[str, object]]]:
    return st.tuples(st.just(name), st.fixed_dictionaries(arguments))


streams = st.integers(0, 2)
write = step("write", ops=st.lists(st.tuples(st.sampled_from(KEYS), st.booleans()), min_size=1, max_size=4))
watch = step("watch", stream=streams, interest=interests, start=st.one_of(st.just(0), st.integers(1, 40)))
publish = step("publish", count=st.integers(1, 4))
read = step("read", stream=streams, count=st.integers(1, 3))
steps = st.one_of(
    write,
    write,
    publish,
    publish,
    watch,
    read,
    step("replay", count=st.integers(1, 3), beyond=st.booleans()),
    step("cancel", stream=streams, which=st.integers(0, 5)),
    step("ask_progress", stream=streams),
    step("notify", stream=streams, which=st.integers(0, 5)),
    step("compact", back=st.integers(0, 9)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, min_size=40, max_size=120), st.integers(0, 99))
def test_watchers_hear_everything_once_and_in_order(
    program: list[tuple[str, dict[str, object]]], seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "RESPONSE_BYTES_SHORT", 60)
        patch.setattr(hub, "ALIKE_MIN", 1 + seed % 3)
        world = World(seed)
        for name, arguments in program:
            getattr(world, name)(**arguments)
        world.settle()


def test_nobody_of_a_stream_is_told_of_progress_while_one_is_behind() -> None:
    world = World(1)
    stream = world.streams[0]
    world.write([(b"a", True)])
    world.publish(1)
    for start in (0, 1):
        world.watch(0, Interest(b"a", b""), start)
    world.ask_progress(0)
    world.read(0, 10)
    assert [response.created for response in stream.heard] == [True, True]
    world.replay(2, beyond=False)
    world.ask_progress(0)
    world.read(0, 10)
    told = [(response.watch_id, len(response.events)) for response in stream.heard[2:]]
    assert told == [(1, 1), (responses.NO_WATCHER, 0)]


def test_an_event_stands_for_a_notification_of_progress() -> None:
    world = World(1)
    stream = world.streams[0]
    world.watch(0, Interest(b"a", b""), 0)
    world.write([(b"a", True)])
    world.publish(1)
    for _ in range(2):
        world.notify(0, 0)
    world.read(0, 10)
    told = [(response.created, len(response.events), response.header.revision) for response in stream.heard]
    assert told[1:] == [(False, 1, 2), (False, 0, 2)]


def test_streams_that_are_alike_are_given_the_same_object() -> None:
    world = World(1)
    for stream in range(3):
        for _ in range(hub.ALIKE_MIN):
            world.watch(stream, Interest(b"a", b""), 0)
    world.watch(2, Interest(b"a", b""), 0)
    world.cancel(2, 0)
    for stream in range(3):
        world.read(stream, hub.ALIKE_MIN + 1)
    world.write([(b"a", True)])
    world.publish(1)
    one, alike, other = (stream.outbox.pop_batch(1) for stream in world.streams)
    assert one is alike
    assert len(one) == hub.ALIKE_MIN
    assert other[0] not in one[:1]


def test_who_reads_nothing_holds_little_once_all_together_hold_much() -> None:
    """And is told the rest all the same, once it reads."""
    world = World(1)
    world.budget.bytes_max = 10 * hub.RESPONSE_BYTES_SHORT
    streams = world.streams = [
        Stream(
            Outbox(
                world.budget, bytes_max=hub.RESPONSE_BYTES_MAX, on_message=lambda: None, on_room=lambda: None
            ),
        )
        for _ in range(50)
    ]
    for number in range(len(streams)):
        world.watch(number, Interest(b"a", b""), 0)
        world.read(number, 1)
    value = bytes(hub.RESPONSE_BYTES_SHORT // 4)
    for revision in range(2, 30):
        pair = kv_pb2.KeyValue(key=b"a", mod_revision=revision, value=value)
        encoded = etcd.RangeResponse(kvs=[pair]).SerializeToString()
        world.changes[revision] = [Change(b"a", encoded, None)]
        world.events[revision] = [kv_pb2.Event(kv=pair)]
        world.revision = revision
    world.publish(30)
    world.replay(30, beyond=False)
    one_more = 2 * hub.RESPONSE_BYTES_SHORT
    assert world.budget.bytes < world.budget.bytes_max + hub.RESPONSE_BYTES_MAX + len(streams) * one_more
    world.settle()
