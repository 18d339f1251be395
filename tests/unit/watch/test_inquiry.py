"""What is asked about a watched table, and what becomes of the answers."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from coordinator.api.headers import EtcdHeaders
from coordinator.watch.audience import Interest, State, Watcher
from coordinator.watch.changes import Change, Gone, Part, Revised, TakenBack
from coordinator.watch.inquiry import Inquiry, Question
from coordinator.watch.outbox import Budget, Outbox
from proto.etcd import rpc_pb2 as etcd
from proto.spans import OPEN_END

if TYPE_CHECKING:
    from coordinator.watch.hub import Hub

HEADERS = EtcdHeaders(cluster_id=1, member_id=2)


class Begun:
    """An inquiry about a table at revision 10, and watchers of everything."""

    def __init__(self) -> None:
        self.versions: list[int] = []
        self.inquiry = Inquiry(
            lambda revision: HEADERS.encode(revision=revision, term=3), Random(1), self.versions.append
        )
        assert self.inquiry.present() == Question(0)
        self.inquiry.take(self.inquiry.present(), Part(11, 10, [], checksum=100))

    @property
    def hub(self) -> Hub:
        assert self.inquiry.hub is not None
        return self.inquiry.hub

    def watch(self, first: int, *, prev_kv: bool = False) -> Watcher:
        box = Outbox(Budget(1 << 20), bytes_max=1 << 20, on_message=lambda: None, on_room=lambda: None)
        wish = Interest(b"\0", OPEN_END, prev_kv=prev_kv)
        watcher = Watcher(watch_id=1, interest=wish, outbox=box, start=first, next=first)
        self.hub.add(watcher)
        return watcher


def put(revision: int) -> Revised:
    return Revised(revision, [Change(b"k", b"\x12\x00", None)])


def heard(watcher: Watcher) -> list[etcd.WatchResponse]:
    return list(map(etcd.WatchResponse.FromString, watcher.outbox.pop_batch(1 << 30)))


def test_the_next_question_begins_where_the_last_answer_ended() -> None:
    begun = Begun()
    watcher = begun.watch(11)
    question = begun.inquiry.present()
    assert question == Question(11, waits=True, checksum=100)
    assert begun.inquiry.take(question, Part(11, 12, [put(11), put(12)], False, 7, checksum=120))
    assert begun.versions[-1] == 7
    assert len(heard(watcher)[0].events) == 2
    question = begun.inquiry.present()
    assert question == Question(13, waits=True, checksum=120)
    begun.inquiry.take(question, Part(13, 12, [], False))
    assert begun.inquiry.present().checksum == 120, "nothing has happened"
    begun.inquiry.take(question, Gone(20))
    assert begun.inquiry.present() == Question(20, waits=True), "nobody knows the checksum after a gap"


def test_what_came_without_pairs_before_is_asked_again_once_somebody_wants_them() -> None:
    begun = Begun()
    question = begun.inquiry.present()
    watcher = begun.watch(11, prev_kv=True)
    assert begun.inquiry.take(question, Part(11, 11, [put(11)], prev=False))
    assert heard(watcher) == []
    assert begun.inquiry.present() == Question(11, prev=True, waits=True, checksum=100)


def test_a_table_that_was_taken_back_ends_who_has_heard_of_it() -> None:
    """Only the leader is believed: a replica that lags may be in the past that was given up."""
    begun = Begun()
    from_now, behind, ahead = begun.watch(11), begun.watch(5), begun.watch(50)
    begun.inquiry.take(begun.inquiry.present(), TakenBack(12))
    assert heard(from_now) == []
    past = begun.inquiry.past()
    assert past is not None
    question = begun.inquiry.present()
    assert question == Question(11, waits=True, of_leader=True, checksum=100)
    begun.inquiry.take(question, TakenBack(12))
    for watcher in (from_now, behind):
        (end,) = heard(watcher)
        assert (end.canceled, end.compact_revision) == (True, 12)
    assert heard(ahead) == []
    assert ahead.state is State.SYNCED
    assert begun.inquiry.present() == Question(13, waits=True, of_leader=True, era=1)
    anew = begun.watch(12)
    assert begun.inquiry.take(past, Part(5, 10, [put(5)]))
    assert begun.inquiry.take(question, Part(11, 15, [put(11), put(15)]))
    assert (heard(anew), begun.hub.revision) == ([], 12), "what was told of the past that was given up"
    again = begun.inquiry.past()
    assert again is not None
    begun.inquiry.take(again, Part(12, 12, [put(12)]))
    assert [event.kv.key for response in heard(anew) for event in response.events] == [b""]


def test_a_leader_that_stands_below_what_was_heard_has_been_taken_back() -> None:
    begun = Begun()
    watcher = begun.watch(11)
    place = begun.inquiry.place
    begun.inquiry.take(begun.inquiry.present(), Part(11, 14, [put(14)], checksum=1))
    begun.inquiry.handle_standing(place, 12)
    assert not heard(watcher)[0].canceled, "the leader was asked before the others were heard of"
    begun.inquiry.handle_standing(begun.inquiry.place, 20)
    assert (begun.inquiry.stands, begun.hub.revision) == (20, 14)
    begun.inquiry.handle_standing(place := begun.inquiry.place, 6)
    (end,) = heard(watcher)
    assert (end.canceled, end.compact_revision, end.header.revision) == (True, 6, 0)
    assert (begun.inquiry.stands, begun.hub.revision) == (6, 6)
    assert begun.inquiry.present() == Question(7, waits=True, of_leader=True, era=1)
    later = begun.watch(7)
    begun.inquiry.handle_standing(place, 5)
    assert heard(later) == [], "that was asked about the past that was given up"
