"""Random programs of writes and watches on two systems: each watcher hears the same on both, and all that it should."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proto.etcd import kv_pb2
from proto.etcd import rpc_pb2 as etcd
from tests.conformance.keyspace import EVERYTHING, ORIGIN, Keyspace
from tests.conformance.lengths import scaled, seeds
from tests.conformance.programs import Programmer
from tests.conformance.test_differential import is_same
from tests.conformance.versions import FORGETS_DELETES_AT_COMPACTION, FORGETS_PROGRESS
from tests.conformance.watching import WatchStream
from tests.history.watches import Watched
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.message import Message

    Name = tuple[int, int]
    """A stream, and the id of a watcher on it."""

STEPS: Final = 40
STREAMS: Final = 2
HEAR_TIMEOUT_S: Final = 10.0
ALL: Final = (0, 0)
"""The watcher that hears of everything, from the beginning."""


def revision_of(event: kv_pb2.Event) -> int:
    return event.kv.mod_revision


class Side:
    """One system: a keyspace, and what its watchers were told."""

    def __init__(self, keyspace: Keyspace) -> None:
        self.keyspace = keyspace
        keyspace.begin()
        self._streams = [WatchStream(keyspace) for _ in range(STREAMS)]
        self.news: defaultdict[Name, list[str]] = defaultdict(list)
        """All events of a revision are one piece, since they come in one response; which revisions share a response
        depends on when they are sent."""
        self.truth: list[kv_pb2.Event] = []
        """What ALL heard."""

    def say(self, stream: int, request: etcd.WatchRequest) -> None:
        self._streams[stream].say(self.keyspace.absolute(request))

    def listen(self) -> None:
        """Take down what has come."""
        for number, stream in enumerate(self._streams):
            for response in stream.pending():
                self.keyspace.make_relative(response)
                name = (number, response.watch_id)
                if not response.events:
                    self.news[name].append(text_format.MessageToString(response, as_one_line=True))
                for _, events in itertools.groupby(response.events, key=revision_of):
                    # A watcher may be told of less than there is, but never of what is not there yet.
                    assert response.header.revision >= response.events[-1].kv.mod_revision
                    self.news[name].append(
                        "; ".join(text_format.MessageToString(event, as_one_line=True) for event in events)
                    )
                if name == ALL:
                    self.truth += response.events

    def close(self) -> None:
        for stream in self._streams:
            stream.close()


class Program:
    """Draws requests for both sides, and knows what each watcher has to hear of them."""

    def __init__(self, rng: random.Random, sides: tuple[Side, Side]) -> None:
        self._rng = rng
        self._sides = sides
        self._programmer = Programmer(rng)
        self._compacted = ORIGIN
        self._known = 0
        """So many events of the truth are expected of everybody already."""
        self._active: dict[Name, Watched] = {}
        self._expected: Counter[Name] = Counter()
        """News."""
        self._done: list[str] = []
        self._mute: set[int] = set()
        """Streams that etcd tells nothing of progress, since it cancelled a watcher there: it waits for that one for
        ever."""
        self._create(
            0,
            etcd.WatchCreateRequest(
                key=EVERYTHING,
                range_end=EVERYTHING,
                prev_kv=True,
                start_revision=0 if FORGETS_DELETES_AT_COMPACTION.is_met else ORIGIN,
            ),
        )
        self._settle()

    @property
    def _first_heard(self) -> int:
        """The deletion of everything that was before is the oldest that can be watched."""
        return ORIGIN + 1 if FORGETS_DELETES_AT_COMPACTION.is_met else ORIGIN

    def step(self) -> None:
        draw = self._rng.randrange(100)
        if draw < 22:
            self._create(self._rng.randrange(STREAMS), self._watch())
        elif draw < 30:
            self._cancel()
        elif draw < 38 and not FORGETS_PROGRESS.is_met:
            self._ask_progress()
        else:
            self._request()
        self._settle()

    def _note(self, request: Message, stream: int | None = None) -> None:
        where = "" if stream is None else f"stream {stream}: "
        text = text_format.MessageToString(request, as_one_line=True)
        self._done.append(f"{where}{type(request).__name__} {text}")

    def _request(self) -> None:
        request = self._programmer.request()
        self._note(request)
        wanted, given_ = [side.keyspace.call(request) for side in self._sides]
        assert is_same(request, wanted, given_), "\n".join(self._done)
        if wanted.message is None:
            return
        self._programmer.revision = max(self._programmer.revision, wanted.message.header.revision)
        if isinstance(request, etcd.CompactionRequest):
            self._compacted = request.revision

    def _watch(self) -> etcd.WatchCreateRequest:
        one_in = self._programmer.one_in
        key, end = self._programmer.span()
        create = etcd.WatchCreateRequest(key=key, range_end=end, prev_kv=one_in(2), fragment=one_in(4))
        if one_in(2):
            start = self._programmer.revision + self._rng.choice((-12, -8, -5, -3, -2, -1, 0, 1, 2, 3))
            create.start_revision = start + (
                start == self._compacted and FORGETS_DELETES_AT_COMPACTION.is_met
            )
        if one_in(3):
            filters = self._rng.choices((0, 1, 7), k=self._rng.choice((1, 1, 2)))
            create.filters.extend(filters)  # type: ignore[arg-type]
        if one_in(8):
            create.watch_id = self._rng.choice((1, 2, 42, -7))
        return create

    def _create(self, stream: int, create: etcd.WatchCreateRequest) -> None:
        self._say(stream, etcd.WatchRequest(create_request=create))
        name, answer = wait_until(
            lambda: self._answer(stream),
            timeout_s=HEAR_TIMEOUT_S,
            what="an answer to who wants to watch",
            interval_s=0.001,
        )
        self._expected[name] += 1
        if "canceled: true" in answer:
            return
        if 0 < create.start_revision < self._compacted:
            self._mute.add(stream)
            self._expected[name] += 1  # it is told what it has missed, and no more
            return
        watched = self._active[name] = Watched(
            create.key or EVERYTHING,
            create.range_end,
            first=create.start_revision or self._programmer.revision + 1,
            puts=0 not in create.filters,
            deletes=1 not in create.filters,
        )
        # What came with the answer is expected of everybody later on.
        self._expect(name, watched, self._sides[0].truth[: self._known])

    def _answer(self, stream: int) -> tuple[Name, str] | None:
        """The one piece of news that nobody expects."""
        first = self._sides[0]
        first.listen()
        for name, news in first.news.items():
            if name[0] == stream and len(news) > self._expected[name]:
                return name, news[self._expected[name]]
        return None

    def _expect(self, name: Name, watched: Watched, events: Sequence[kv_pb2.Event]) -> None:
        wanted = {revision_of(event) for event in events if watched.wants(event)}
        self._expected[name] += sum(revision >= watched.first for revision in wanted)

    def _cancel(self) -> None:
        names = [name for name in self._active if name != ALL]
        name = (self._rng.randrange(STREAMS), 404)
        if names and not self._programmer.one_in(6):
            name = self._rng.choice(names)
            self._expected[name] += 1
            del self._active[name]
        self._say(name[0], etcd.WatchRequest(cancel_request=etcd.WatchCancelRequest(watch_id=name[1])))

    def _ask_progress(self) -> None:
        """Everybody has heard everything, so the answer is the present revision. Not asked where somebody waits for the
        future: etcd has no answer then, from 3.5.22 on."""
        stream = self._rng.randrange(STREAMS)
        here = [watched for name, watched in self._active.items() if name[0] == stream]
        if (
            stream not in self._mute
            and here
            and all(watched.first <= self._programmer.revision + 1 for watched in here)
        ):
            self._expected[stream, -1] += 1
            self._say(stream, etcd.WatchRequest(progress_request=etcd.WatchProgressRequest()))

    def _say(self, stream: int, request: etcd.WatchRequest) -> None:
        self._note(request, stream)
        for side in self._sides:
            side.say(stream, request)

    def _settle(self) -> None:
        """Every watcher has heard of what happened, and nothing else."""
        for who, side in zip(("the reference", "the other"), self._sides, strict=True):
            wait_until(
                lambda side=side: self._is_told(side),  # type: ignore[misc]
                timeout_s=HEAR_TIMEOUT_S,
                what=f"all news at {who} after\n" + "\n".join(self._done),
                interval_s=0.001,
            )
        reference, subject = self._sides
        for name in sorted(reference.news.keys() | subject.news.keys()):
            for wanted, given_ in zip_longest(reference.news[name], subject.news[name]):
                if wanted != given_:
                    program = "\n".join(self._done)
                    pytest.fail(
                        f"after\n{program}\nwatcher {name} should hear\n  {wanted}\nand hears\n  {given_}"
                    )

    def _is_told(self, side: Side) -> bool:
        side.listen()
        if side is self._sides[0]:
            if self._programmer.revision >= self._first_heard and not self._has_truth(side):
                return False
            for name, watched in self._active.items():
                self._expect(name, watched, side.truth[self._known :])
            self._known = len(side.truth)
        return all(len(side.news[name]) >= count for name, count in self._expected.items())

    def _has_truth(self, side: Side) -> bool:
        return bool(side.truth) and side.truth[-1].kv.mod_revision >= self._programmer.revision


def check_same(reference: Keyspace, subject: Keyspace, rng: random.Random, steps: int) -> None:
    sides = (Side(reference), Side(subject))
    try:
        program = Program(rng, sides)
        for _ in range(steps):
            program.step()
    finally:
        for side in sides:
            side.close()


@pytest.fixture(scope="module")
def reference(etcd_endpoint: str) -> Iterator[Keyspace]:
    with Keyspace(etcd_endpoint) as keyspace:
        yield keyspace


@pytest.fixture(scope="module")
def second_etcd(other_etcd_endpoint: str) -> Iterator[Keyspace]:
    with Keyspace(other_etcd_endpoint) as keyspace:
        yield keyspace


@pytest.fixture(scope="module")
def boathouse(boathouse_endpoint: str) -> Iterator[Keyspace]:
    with Keyspace(boathouse_endpoint) as keyspace:
        yield keyspace


@pytest.mark.parametrize("seed", range(1))
def test_watchers_of_etcd_hear_what_those_of_another_etcd_do(
    reference: Keyspace, second_etcd: Keyspace, seed: int
) -> None:
    """The test's own test: what differs here is not etcd's to define."""
    check_same(reference, second_etcd, random.Random(seed), STEPS)


@pytest.mark.parametrize("seed", seeds(4))
def test_watchers_of_boathouse_hear_what_those_of_etcd_do(
    reference: Keyspace, boathouse: Keyspace, seed: int
) -> None:
    check_same(reference, boathouse, random.Random(seed), STEPS)


@settings(
    max_examples=scaled(10),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rng=st.randoms(use_true_random=False))
def test_hypothesis_finds_no_program_whose_watchers_tell_boathouse_from_etcd(
    reference: Keyspace, boathouse: Keyspace, rng: random.Random
) -> None:
    check_same(reference, boathouse, rng, 10)
