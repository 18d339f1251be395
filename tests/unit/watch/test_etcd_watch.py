"""The service of Watch over a shard that is a list: failures of replicas, slow clients, and the ends of streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from coordinator.services import etcd_watch
from coordinator.watch import tables
from coordinator.watch.inquiry import Question
from proto import errors
from proto.etcd import rpc_pb2 as etcd
from tests.unit.watch.fakes import Bench, FakeCall
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EVERYTHING = b"\0"


def run(test: Callable[[Bench], Awaitable[None]], **options: float) -> None:
    async def within() -> None:
        async with asyncio.timeout(60), Bench(**options) as bench:
            await test(bench)

    asyncio.run(within())


def _asked(bench: Bench, count: int) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        return bench.feed.revisions_asked >= count

    return asked


async def _others_run() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def created(call: FakeCall, **options: object) -> etcd.WatchResponse:
    call.create(EVERYTHING, EVERYTHING, **options)
    response = await call.hear()
    assert response.created
    return response


def test_a_replica_that_fails_costs_and_doubles_nothing() -> None:
    async def test(bench: Bench) -> None:
        call, _ = bench.open()
        await created(call)
        heard: list[int] = []
        for number in range(30):
            if number % 3 == 0:
                bench.feed.failures.append(errors.ReadTimedOut())
            bench.feed.put(b"%d" % number)
            heard += [event.kv.mod_revision for event in (await call.hear()).events]
        assert heard == list(range(2, 32))

    run(test)


def test_watchers_are_sent_what_was_told_before_more_is_asked_for() -> None:
    async def test(bench: Bench) -> None:
        call, _ = bench.open()
        await created(call)
        await _others_run()
        asked = len(bench.feed.asked)
        bench.feed.put(b"a")
        for _ in range(100):
            await asyncio.sleep(0)
            if len(bench.feed.asked) > asked:
                break
        assert len(bench.feed.asked) > asked
        assert call.unheard == 1

    run(test)


def test_a_slow_client_hears_the_rest_from_the_history() -> None:
    async def test(bench: Bench) -> None:
        call, _ = bench.open()
        await created(call)
        call.may_read.clear()
        value = bytes(etcd_watch.OUTBOX_BYTES_MAX // 4)
        for number in range(40):
            bench.feed.put(b"%d" % number, value)
            await asyncio.sleep(0)
        assert bench.watched.budget.bytes < 3 * etcd_watch.OUTBOX_BYTES_MAX
        (watched,) = bench.watched
        assert watched.behind_count == 1
        assert watched.lag_revisions > 20
        call.may_read.set()
        heard: list[int] = []
        while len(heard) < 40:
            heard += [event.kv.mod_revision for event in (await call.hear()).events]
        assert heard == list(range(2, 42))
        bench.feed.put(b"more")
        assert (await call.hear()).events[0].kv.key == b"more"
        assert watched.behind_count == 0

    run(test)


def test_a_slow_client_is_told_what_was_compacted_meanwhile() -> None:
    async def test(bench: Bench) -> None:
        call, _ = bench.open()
        await created(call)
        call.may_read.clear()
        for number in range(40):
            bench.feed.put(b"%d" % number, bytes(etcd_watch.OUTBOX_BYTES_MAX // 4))
            await asyncio.sleep(0)
        bench.feed.floor = bench.feed.latest
        call.may_read.set()
        heard: list[int] = []
        while not (response := await call.hear()).canceled:
            heard += [event.kv.mod_revision for event in response.events]
        assert response.compact_revision == bench.feed.floor
        assert heard == list(range(2, 2 + len(heard)))

    run(test)


def test_a_watch_from_now_begins_no_earlier_than_what_the_leader_has() -> None:
    async def test(bench: Bench) -> None:
        bench.feed.put(b"a")
        bench.feed.put(b"b")
        bench.feed.applied_max = 2
        call, _ = bench.open()
        call.create(EVERYTHING, EVERYTHING)
        await wait_until_async(_asked(bench, 1), timeout_s=10, what="the leader is asked")
        await _others_run()
        assert call.unheard == 0, "it waits for the replica that it hears from"
        bench.feed.applied_max = None
        bench.feed.tell()
        assert (await call.hear()).header.revision == 3
        bench.feed.put(b"c")
        response = await call.hear()
        assert [event.kv.key for event in response.events] == [b"c"]

    run(test)


def test_a_watch_from_a_revision_asks_nobody_where_now_is() -> None:
    """So it begins at once, and while nobody leads, as in etcd."""

    async def test(bench: Bench) -> None:
        bench.feed.put(b"a")
        bench.feed.led = False
        call, _ = bench.open()
        for start in (2, 9, -1):
            call.create(EVERYTHING, EVERYTHING, start_revision=start)
        responses = [await call.hear() for _ in range(4)]
        assert [response.header.revision for response in responses if response.created] == [2, 2, 2]
        assert [event.kv.key for response in responses for event in response.events] == [b"a"]
        assert bench.feed.revisions_asked == 0

    run(test)


def test_a_watch_from_a_revision_shows_what_the_client_has_seen_before() -> None:
    """As a member of etcd has applied what it has answered."""

    async def test(bench: Bench) -> None:
        call, _ = bench.open()
        await created(call)
        bench.feed.applied_max = 1
        bench.feed.put(b"a")
        bench.feed.shown_revision = 2
        call.create(b"b", b"", start_revision=9)
        await _others_run()
        assert call.unheard == 0, "it waits for the replica that it hears from"
        bench.feed.applied_max = None
        bench.feed.tell()
        assert [(await call.hear()).header.revision for _ in range(2)] == [2, 2]
        assert bench.feed.revisions_asked == 1

    run(test)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in ("REACH_TIMEOUT_S", "LOOK_INTERVAL_S", "RETRY_MAX_S"):
        monkeypatch.setattr(tables, wait, 0.05)


@pytest.mark.usefixtures("impatient")
def test_of_the_watches_from_a_revision_one_alone_waits_for_a_replica_that_lags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of a stream begin one after the other, and there may be thousands."""

    async def test(bench: Bench) -> None:
        call, _ = bench.open()
        await created(call)
        bench.feed.shown_revision = 7  # what comes next may still be of an earlier one
        assert (await created(call, start_revision=9)).header.revision == 1
        monkeypatch.setattr(tables, "REACH_TIMEOUT_S", 1_000.0)
        assert (await created(call, start_revision=9)).header.revision == 1

    run(test)


@pytest.mark.usefixtures("impatient")
def test_a_replica_that_lags_makes_no_watch_late() -> None:
    """It answers, but has nothing to tell: it does not come on, and its shard does."""

    async def test(bench: Bench) -> None:
        call, _ = bench.open()
        await created(call)
        bench.feed.applied_max = 1
        for number in range(3):
            bench.feed.put(b"%d" % number)
        heard: list[int] = []
        while len(heard) < 3:
            heard += [event.kv.mod_revision for event in (await call.hear()).events]
        assert heard == [2, 3, 4]
        bench.feed.put(b"more")
        assert (await call.hear()).header.revision == 5
        now, _ = bench.open()
        assert (await created(now)).header.revision == 5
        bench.feed.applied_max = None
        asked = bench.feed.asked

        async def asks_again() -> bool:
            return asked[-1].waits and not asked[-1].of_leader

        bench.feed.tell()
        await wait_until_async(asks_again, timeout_s=10, what="the nearest replica is asked again")
        bench.feed.put(b"last")
        for each in (call, now):
            assert [event.kv.key for event in (await each.hear()).events] == [b"last"]

    run(test)


@pytest.mark.usefixtures("impatient")
def test_a_replica_that_has_lost_the_table_does_not_end_its_watches() -> None:
    """As one that is made anew: it is not the one to say that a table was deleted, however often it is asked."""

    async def test(bench: Bench) -> None:
        call, _ = bench.open()
        await created(call)
        bench.feed.lacks_table = True
        bench.feed.put(b"a")
        assert [event.kv.key for event in (await call.hear()).events] == [b"a"]
        looks = bench.feed.asked.count(Question(0))
        await wait_until_async(
            lambda: bench.feed.asked.count(Question(0)) > looks + 2, timeout_s=10, what="it is looked at"
        )
        bench.feed.put(b"b")
        assert [event.kv.key for event in (await call.hear()).events] == [b"b"]
        bench.feed.lacks_table = False
        await wait_until_async(
            lambda: bench.feed.asked[-1].waits and not bench.feed.asked[-1].of_leader,
            timeout_s=10,
            what="it is asked again",
        )

    run(test)


@pytest.mark.usefixtures("impatient")
def test_a_watch_begins_while_the_nearest_replica_lacks_the_table() -> None:
    async def test(bench: Bench) -> None:
        bench.feed.lacks_table = True
        call, _ = bench.open()
        await created(call)
        bench.feed.put(b"a")
        assert [event.kv.key for event in (await call.hear()).events] == [b"a"]

    run(test)


@pytest.mark.usefixtures("impatient")
def test_a_table_that_is_taken_back_ends_its_watches() -> None:
    async def test(bench: Bench) -> None:
        for number in range(9):
            bench.feed.put(b"%d" % number)
        call, _ = bench.open()
        await created(call)
        del bench.feed.log[4:]
        ended = await call.hear()
        assert (ended.canceled, ended.compact_revision) == (True, 5)
        await created(call, start_revision=5)
        assert [event.kv.key for event in (await call.hear()).events] == [b"3"]
        bench.feed.put(b"new")
        assert [event.kv.key for event in (await call.hear()).events] == [b"new"]

    run(test)


def test_what_follows_a_table_that_was_taken_back_is_asked_for_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(bench: Bench) -> None:
        for number in range(9):
            bench.feed.put(b"%d" % number)
        call, _ = bench.open()
        await created(call)
        del bench.feed.log[4:]
        call.say(etcd.WatchRequest(progress_request=etcd.WatchProgressRequest()).SerializeToString())
        assert (await call.hear()).canceled
        await created(call)
        bench.feed.put(b"new")
        assert [event.kv.key for event in (await call.hear()).events] == [b"new"]

    monkeypatch.setattr(tables, "LOOK_INTERVAL_S", 60.0)
    run(test)


@pytest.mark.usefixtures("impatient")
def test_the_lag_counts_what_no_client_has_read_and_what_no_replica_has_told() -> None:
    async def test(bench: Bench) -> None:
        call, _ = bench.open()
        await created(call)
        (watched,) = bench.watched
        assert watched.lag_revisions == 0
        bench.feed.shown_revision = 7
        assert watched.lag_revisions == 6, "somebody wrote through this coordinator"
        bench.feed.shown_revision = 0
        call.may_read.clear()
        for number in range(5):
            bench.feed.put(b"%d" % number)
            await _others_run()
        assert watched.behind_count == 0
        assert watched.lag_revisions == 4, "all but the one that is being sent"
        call.may_read.set()
        for _ in range(5):
            await call.hear()
        assert watched.lag_revisions == 0

    run(test)


def test_without_a_leader_the_past_can_be_watched_and_now_has_to_wait() -> None:
    async def test(bench: Bench) -> None:
        bench.feed.put(b"a")
        bench.feed.led = False
        past, _ = bench.open()
        await created(past, start_revision=1)
        assert [event.kv.key for event in (await past.hear()).events] == [b"a"]
        past.say(etcd.WatchRequest(progress_request=etcd.WatchProgressRequest()).SerializeToString())
        assert (await past.hear()).header.revision == 2
        now, _ = bench.open()
        now.create(EVERYTHING, EVERYTHING)
        asked = bench.feed.revisions_asked
        await wait_until_async(_asked(bench, asked + 2), timeout_s=10, what="the leader is asked again")
        assert now.unheard == 0
        bench.feed.led = True
        assert (await now.hear()).created

    run(test)


def test_a_stream_that_insists_on_a_leader_ends_without_one() -> None:
    async def test(bench: Bench) -> None:
        insists, ends = bench.open(hasleader="true")
        stays, _ = bench.open()
        await created(insists)
        await created(stays)
        bench.feed.led = False
        with pytest.raises(errors.NoLeader):
            await ends
        bench.feed.led = True
        bench.feed.put(b"a")
        assert (await stays.hear()).events

    run(test, leader_patience_s=1.0)


def test_an_id_that_a_client_has_chosen_is_given_to_no_other_watch() -> None:
    async def test(bench: Bench) -> None:
        call, _ = bench.open()
        ids = [(await created(call, watch_id=chosen)).watch_id for chosen in (1, 0, 0)]
        assert ids == [1, 0, 2]

    run(test)


def test_progress_is_notified_while_nothing_else_tells() -> None:
    async def test(bench: Bench) -> None:
        call, _ = bench.open()
        await created(call, progress_notify=True)
        response = await call.hear()
        assert (response.watch_id, response.header.revision, len(response.events)) == (0, 1, 0)
        bench.feed.put(b"a")
        assert (await call.hear()).events
        assert (await call.hear()).header.revision == 2

    run(test, progress_interval_s=0.05)


def test_events_are_sent_within_the_turn_of_the_loop_that_brings_them() -> None:
    async def test(bench: Bench) -> None:
        call, _ = bench.open()
        await created(call)
        await _others_run()
        bench.feed.put(b"a")
        await asyncio.sleep(0)
        assert call.unheard == 1

    run(test)


def test_a_stream_whose_client_stops_reading_sends_the_rest_in_order() -> None:
    async def test(bench: Bench) -> None:
        call, _ = bench.open()
        await created(call)
        call.may_read.clear()
        for key in (b"a", b"b", b"c"):
            bench.feed.put(key)
            await _others_run()
        call.may_read.set()
        heard = [event.kv.key for _ in range(3) for event in (await call.hear()).events]
        assert heard == [b"a", b"b", b"c"]

    run(test)


def test_pairs_before_are_asked_for_once_a_watcher_wants_them() -> None:
    async def test(bench: Bench) -> None:
        plain, _ = bench.open()
        await created(plain)
        assert (bench.feed.asked[-1].first, bench.feed.asked[-1].prev) == (2, False)
        with_prev, _ = bench.open()
        await created(with_prev, prev_kv=True)
        bench.feed.put(b"a")
        assert (await with_prev.hear()).events
        asked = [(question.first, question.prev) for question in bench.feed.asked[-2:]]
        assert asked == [(2, True), (3, True)], "what was asked without them is asked again"

    run(test)


def test_a_half_closed_stream_goes_on_and_a_bad_message_ends_it() -> None:
    async def test(bench: Bench) -> None:
        call, _ = bench.open()
        await created(call)
        call.say(None)
        bench.feed.put(b"a")
        assert (await call.hear()).events
        bad, ends = bench.open()
        bad.say(b"\xff")
        with pytest.raises(errors.MalformedRequest):
            await ends

    run(test)


@pytest.mark.parametrize("start", [0, 1, 9])
def test_a_table_that_is_deleted_ends_its_watchers(start: int) -> None:
    """And their stream, when it asks for another one."""

    async def test(bench: Bench) -> None:
        call, ends = bench.open()
        await created(call)
        bench.feed.deleted = True
        bench.feed.failures.append(errors.TableNotFound())
        bench.feed.tell()
        response = await call.hear()
        assert response.canceled
        assert response.cancel_reason == "etcdserver: table was deleted"
        call.create(EVERYTHING, start_revision=start)
        with pytest.raises(errors.TableNotFound):
            await asyncio.wait_for(ends, 10)

    run(test)


def test_a_bug_in_what_feeds_a_table_ends_its_streams() -> None:
    async def test(bench: Bench) -> None:
        call, ends = bench.open()
        await created(call)
        bench.feed.failures.append(ZeroDivisionError())
        bench.feed.put(b"a")
        with pytest.raises(errors.InvariantBroken):
            await ends

    run(test)
