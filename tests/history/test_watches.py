"""Each checker of watches finds what it is there for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto.etcd import kv_pb2
from proto.etcd import rpc_pb2 as etcd
from tests.history.watches import Broken, Watched, check, check_resumed, truth_of

if TYPE_CHECKING:
    from collections.abc import Callable


def history() -> list[list[kv_pb2.Event]]:
    """Revisions 2 to 5: a is put, a and b are put, a is deleted, b is put."""
    a2 = kv_pb2.KeyValue(key=b"a", create_revision=2, mod_revision=2, version=1)
    a3 = kv_pb2.KeyValue(key=b"a", create_revision=2, mod_revision=3, version=2)
    b3 = kv_pb2.KeyValue(key=b"b", create_revision=3, mod_revision=3, version=1)
    b5 = kv_pb2.KeyValue(key=b"b", create_revision=3, mod_revision=5, version=2)
    gone = kv_pb2.KeyValue(key=b"a", mod_revision=4)
    return [
        [kv_pb2.Event(kv=a2)],
        [kv_pb2.Event(kv=a3, prev_kv=a2), kv_pb2.Event(kv=b3)],
        [kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=gone, prev_kv=a3)],
        [kv_pb2.Event(kv=b5, prev_kv=b3)],
    ]


def truth() -> dict[int, list[kv_pb2.Event]]:
    return truth_of(event for events in history() for event in events)


def response(*events: kv_pb2.Event, revision: int = 0) -> etcd.WatchResponse:
    return etcd.WatchResponse(header=etcd.ResponseHeader(revision=revision), events=events)


def told() -> Watched:
    responses = [response(*events) for events in history()]
    responses.insert(2, response(revision=3))
    return Watched(b"\0", b"\0", prev_kv=True, responses=responses)


def test_the_truth_is_fine() -> None:
    check(told(), truth())
    only_a = Watched(b"a", first=3, deletes=False, responses=[response(*history()[1][:1])])
    only_a.responses[0].events[0].ClearField("prev_kv")
    check(only_a, truth())
    check_resumed(told(), Watched(b"\0", b"\0", 4, responses=told().responses[3:]))


def drop(watched: Watched) -> None:
    del watched.responses[3]


def drop_last(watched: Watched) -> None:
    del watched.responses[-1]


def double(watched: Watched) -> None:
    watched.responses.append(watched.responses[-1])


def swap(watched: Watched) -> None:
    watched.responses[3:] = reversed(watched.responses[3:])


def split(watched: Watched) -> None:
    first, second = watched.responses[1].events
    watched.responses[1:2] = [response(first), response(second)]


def promise(watched: Watched) -> None:
    watched.responses[2].header.revision = 4


def forget_prev(watched: Watched) -> None:
    watched.responses[-1].events[0].ClearField("prev_kv")


def begin_late(watched: Watched) -> None:
    watched.first = 3


@pytest.mark.parametrize(
    ("harm", "guarantee"),
    [
        (drop, "reliable"),
        (drop_last, "reliable"),
        (double, "unique"),
        (swap, "ordered"),
        (split, "atomic"),
        (promise, "bookmarkable"),
        (forget_prev, "prev_kv"),
        (begin_late, "filters"),
    ],
)
def test_what_is_wrong_is_named(harm: Callable[[Watched], None], guarantee: str) -> None:
    watched = told()
    harm(watched)
    with pytest.raises(Broken, match=guarantee):
        check(watched, truth())


def test_who_resumes_hears_the_same() -> None:
    with pytest.raises(Broken, match="resumable"):
        check_resumed(told(), Watched(b"\0", b"\0", 4, responses=told().responses[4:]))


def test_a_truth_that_contradicts_itself_is_none() -> None:
    events = [event for events in history() for event in events]
    del events[3]
    with pytest.raises(Broken):
        truth_of(events)
