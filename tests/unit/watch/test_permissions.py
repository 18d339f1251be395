"""What a watch may tell, and that it ends when it may not any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proto import errors
from proto.spans import EVERYTHING, NOTHING, SpanSet
from tests.unit.watch.test_etcd_watch import run
from tests.waiting import wait_until_async

if TYPE_CHECKING:
    from proto.etcd import rpc_pb2 as etcd
    from tests.unit.watch.fakes import Bench, FakeCall

ON, LATER, OFF = 5, 7, 8
"""Auth versions: odd while authentication is enabled."""

SHOWN = {"token": "t"}

DENIED = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"


def reason(response: etcd.WatchResponse) -> str:
    assert response.canceled
    assert not response.events
    return response.cancel_reason


async def watching(bench: Bench, auth_version: int) -> FakeCall:
    """A client that may read everything, by now, and watches one key."""
    bench.feed.auth_version = auth_version
    bench.authenticator.readable = EVERYTHING
    call, _ = bench.open(**SHOWN)
    call.create(b"a")
    assert not (await call.hear()).canceled
    return call


async def told(call: FakeCall) -> list[bytes]:
    """The keys of the events that it hears of next."""
    return [event.kv.key for event in (await call.hear()).events]


@pytest.mark.parametrize("end", [b"\0", b"b", b"a\1"])
def test_ghsa_xg4h_6gfc_h4m8(end: bytes) -> None:
    """Read permission on one key must not let one watch from it to the end, or any further than the key."""

    async def test(bench: Bench) -> None:
        bench.feed.auth_version = ON
        bench.authenticator.readable = SpanSet([(b"a", b"a\0")])
        call, _ = bench.open(**SHOWN)
        call.create(b"a", end)
        response = await call.hear()
        assert (response.created, response.watch_id, reason(response)) == (True, -1, DENIED)
        call.create(b"a")
        assert not (await call.hear()).canceled
        bench.feed.put(b"b")
        bench.feed.put(b"a")
        assert await told(call) == [b"a"]

    run(test)


def test_nobody_is_asked_while_authentication_is_off() -> None:
    async def test(bench: Bench) -> None:
        for version in (0, OFF):
            bench.feed.auth_version = version
            call, _ = bench.open(**SHOWN)
            call.create(b"a", b"\0")
            assert not (await call.hear()).canceled
        assert bench.authenticator.asked == []

    run(test)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.UserEmpty(), "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"),
        (
            errors.InvalidAuthToken(),
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
        ),
        (
            errors.AuthOldRevision(),
            "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old",
        ),
        (errors.UserNotFound(), DENIED),
    ],
)
def test_a_refusal_is_told_as_etcd_words_it(error: errors.AuthError, said: str) -> None:
    async def test(bench: Bench) -> None:
        bench.feed.auth_version = ON
        bench.authenticator.failures.append(error)
        call, _ = bench.open()
        call.create(b"a")
        assert reason(await call.hear()) == said

    run(test)


def test_permission_is_looked_at_before_the_range_is() -> None:
    """Who may read everything, as root, is told what is wrong with it."""

    async def test(bench: Bench) -> None:
        bench.feed.auth_version = ON
        for readable, said in (
            (SpanSet([(b"a", b"z")]), DENIED),
            (EVERYTHING, "mvcc: watcher range is empty"),
        ):
            bench.authenticator.readable = readable
            call, _ = bench.open(**SHOWN)
            call.create(b"b", b"a")
            assert reason(await call.hear()) == said
            call.create(b"a", start_revision=-1)
            assert "compacted" in reason(await call.hear())

    run(test)


def test_what_happens_after_a_permission_was_taken_is_not_told() -> None:
    async def test(bench: Bench) -> None:
        bench.feed.auth_version = ON
        bench.authenticator.readable = EVERYTHING
        call, _ = bench.open(**SHOWN)
        for key, end in ((b"a", b""), (b"b", b"d")):
            call.create(key, end)
            assert not (await call.hear()).canceled
        bench.feed.put(b"a")
        assert await told(call) == [b"a"]
        bench.authenticator.readable = SpanSet([(b"b", b"d")])
        bench.feed.auth_version = LATER
        bench.feed.put(b"a")
        bench.feed.put(b"c")
        ended = await call.hear()
        assert (ended.watch_id, reason(ended)) == (0, DENIED)
        assert await told(call) == [b"c"]

    run(test)


def test_the_past_is_told_by_what_one_may_read_now() -> None:
    async def test(bench: Bench) -> None:
        for number in range(3):
            bench.feed.put(b"%d" % number)
        bench.feed.auth_version = ON
        bench.authenticator.readable = EVERYTHING
        call, _ = bench.open(**SHOWN)
        call.create(b"\0", b"\0")
        assert not (await call.hear()).canceled
        bench.feed.failures.append(errors.ReadTimedOut())  # so that the past is not read at once
        call.create(b"\0", b"\0", start_revision=1)
        assert not (await call.hear()).canceled
        bench.authenticator.readable = NOTHING
        bench.feed.auth_version = LATER
        for _ in range(2):
            assert reason(await call.hear()) == DENIED
        assert call.unheard == 0

    run(test)


def test_authentication_that_begins_ends_who_has_shown_nothing() -> None:
    async def test(bench: Bench) -> None:
        bench.feed.auth_version = ON - 1
        call, _ = bench.open()
        call.create(b"a")
        assert not (await call.hear()).canceled
        bench.authenticator.failures.append(errors.UserEmpty())
        bench.feed.auth_version = ON
        bench.feed.put(b"a")
        assert "user name is empty" in reason(await call.hear())
        assert call.unheard == 0

    run(test)


def test_nothing_is_told_while_it_is_not_known_who_may_hear_it() -> None:
    async def test(bench: Bench) -> None:
        call = await watching(bench, ON)
        bench.authenticator.failures += [errors.NoLeader(), errors.ReadTimedOut()]
        bench.feed.auth_version = LATER
        bench.feed.put(b"a")
        assert await told(call) == [b"a"]
        assert bench.authenticator.failures == []
        # By the name that he was found to have: a token may have ended since.
        assert [who.user for who in bench.authenticator.asked] == ["", "u", "u", "u"]

    run(test)


def test_another_watch_takes_what_was_shown_to_hold_still() -> None:
    """Else the stream of a user who was deleted would watch with the permissions of the next one of his name."""

    async def test(bench: Bench) -> None:
        call = await watching(bench, ON)
        bench.authenticator.failures.append(errors.InvalidAuthToken())
        call.create(b"a")
        assert "invalid auth token" in reason(await call.hear())
        bench.feed.put(b"a")
        assert await told(call) == [b"a"]
        assert [who.token for who in bench.authenticator.asked] == [b"t", b"t"]

    run(test)


def test_streams_of_one_user_share_a_question_and_wait_for_nobody_elses() -> None:
    async def test(bench: Bench) -> None:
        bench.feed.auth_version = ON - 1
        alike = [bench.open(token="t")[0] for _ in range(20)]
        stuck, _ = bench.open(token="stuck")
        for call in (*alike, stuck):
            call.create(b"a")
            assert not (await call.hear()).canceled
        bench.authenticator.readable = EVERYTHING
        bench.authenticator.stuck.add(b"stuck")
        bench.feed.auth_version = ON
        bench.feed.put(b"a")
        for call in alike:
            assert await told(call) == [b"a"]
        assert sorted(who.token for who in bench.authenticator.asked) == [b"stuck", b"t"]
        assert stuck.unheard == 0
        bench.authenticator.stuck.clear()
        bench.feed.auth_version = LATER
        bench.feed.put(b"a")
        assert [len((await call.hear()).events) for call in alike] == [1] * 20
        heard = 0
        while heard < 2:
            heard += len((await stuck.hear()).events)
        bench.authenticator.stuck.add(b"stuck")
        bench.feed.auth_version = OFF
        bench.feed.put(b"a")
        for call in (*alike, stuck):
            assert (await call.hear()).events, "everybody may hear everything"

    run(test)


@pytest.mark.parametrize("later", [LATER, OFF])
def test_a_stream_whose_last_watcher_has_gone_is_not_held_back_for_ever(later: int) -> None:
    """While its user was asked about in vain, its client cancelled; then users or permissions changed again."""

    async def test(bench: Bench) -> None:
        bench.feed.auth_version = ON - 1
        call, _ = bench.open(token="stuck")
        call.create(b"a")
        assert not (await call.hear()).canceled
        bench.authenticator.stuck.add(b"stuck")
        bench.feed.auth_version = ON
        bench.feed.put(b"a")
        await wait_until_async(lambda: bool(bench.authenticator.asked), timeout_s=10, what="the question")
        call.cancel(0)
        assert (await call.hear()).canceled
        bench.authenticator.stuck.clear()
        bench.authenticator.readable = EVERYTHING
        bench.feed.auth_version = later
        bench.feed.put(b"a")
        call.create(b"a")
        assert (await call.hear()).created
        bench.feed.put(b"a")
        assert await told(call) == [b"a"]

    run(test)


def test_a_watch_begins_though_the_table_was_put_back_to_earlier_users() -> None:
    """A shard that was recovered from one replica may have lost changes of users that this coordinator has heard of."""

    async def test(bench: Bench) -> None:
        call = await watching(bench, LATER)
        bench.feed.auth_version = bench.authenticator.leader_knows = ON
        call.create(b"a")
        assert (await call.hear()).created

    run(test)


def test_who_lags_from_before_there_were_users_lets_nobody_hear_more() -> None:
    """While it is not known yet who may hear what, a replica tells that authentication is off, as it once was."""

    async def test(bench: Bench) -> None:
        call = await watching(bench, ON - 1)
        bench.authenticator.stuck.add(b"t")
        bench.feed.auth_version = ON
        bench.feed.put(b"a")
        await wait_until_async(lambda: bool(bench.authenticator.asked), timeout_s=10, what="the question")
        bench.feed.auth_version = ON - 1
        bench.feed.put(b"a")
        await wait_until_async(
            lambda: len(bench.authenticator.asked) == 2, timeout_s=10, what="another question"
        )
        assert call.unheard == 0

    run(test)


@pytest.mark.parametrize("heard", [LATER + 2, OFF])
def test_a_permission_that_is_taken_after_that_ends_a_watch(heard: int) -> None:
    """Though the auth version is no higher than one that was heard of, or that one had authentication disabled."""

    async def test(bench: Bench) -> None:
        call = await watching(bench, heard)
        bench.feed.auth_version = bench.authenticator.leader_knows = ON
        bench.feed.put(b"a")
        assert await told(call) == [b"a"]
        bench.feed.auth_version = bench.authenticator.leader_knows = LATER
        bench.authenticator.readable = NOTHING
        bench.feed.put(b"a")
        assert reason(await call.hear()) == DENIED
        assert call.unheard == 0

    run(test)


def test_a_replica_that_lags_is_no_reason_to_ask_again_and_again() -> None:
    async def test(bench: Bench) -> None:
        call = await watching(bench, LATER)
        bench.authenticator.leader_knows = LATER
        for version in (ON, LATER, ON, LATER, ON):
            bench.feed.auth_version = version
            bench.feed.put(b"a")
            assert (await call.hear()).events
        assert len(bench.authenticator.asked) == 2

    run(test)
