"""Writes that a leader may have proposed: when they are sent again, and what is said of them in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coordinator.shards.router import REPEAT_S_MAX, SWEEP_INTERVAL_S
from coordinator.shards.shard_call import LEADER
from proto import errors
from tests.unit.coordinator.router_bench import Bench, body_of, is_open

if TYPE_CHECKING:
    from collections.abc import Callable


def disconnected(bench: Bench) -> None:
    bench.disconnect(1)
    bench.say(2, term=2, leader=2)


def another_leader(bench: Bench) -> None:
    bench.say(2, term=2, leader=2)


def leadership_lost(bench: Bench) -> None:
    bench.refuse(1, bench.numbers(1)[0], errors.LeaderLost(), term=2, leader=2)


@pytest.mark.parametrize("doubt", [disconnected, another_leader, leadership_lost])
@pytest.mark.parametrize("refusal", [errors.NoSpace, errors.QueueFull])
def test_a_refusal_does_not_deny_what_an_earlier_leader_may_have_proposed(
    doubt: Callable[[Bench], None], refusal: type[errors.BoathouseError]
) -> None:
    bench = Bench()
    write = bench.write()
    bench.poll()
    doubt(bench)
    bench.refuse(2, bench.numbers(2)[0], refusal("node 2"), term=2, leader=2)
    # The same id may find room, or its answer, in what time is left.
    assert is_open(write)
    bench.pass_time(SWEEP_INTERVAL_S)
    bench.reply(2, bench.numbers(2)[1], b"done")
    assert body_of(write) == b"done"


@pytest.mark.parametrize("refusal", [errors.NoSpace, errors.QueueFull])
def test_a_write_in_doubt_that_finds_no_room_in_time_is_of_unknown_fate(
    refusal: type[errors.BoathouseError],
) -> None:
    bench = Bench()
    write = bench.write(timeout_s=1.0)
    bench.poll()
    another_leader(bench)
    while is_open(write):
        bench.refuse(2, bench.numbers(2)[-1], refusal(), term=2, leader=2)
        bench.pass_time(SWEEP_INTERVAL_S)
    assert isinstance(write.error, errors.TimedOut)
    assert 9 <= len(bench.sent(2)) <= 11


_AT_THE_DOOR = [errors.InvalidAuthToken, errors.UserEmpty, errors.CorruptAlarm, errors.MethodNotServed]


@pytest.mark.parametrize("refusal", _AT_THE_DOOR)
def test_a_write_in_doubt_that_is_refused_for_good_is_of_unknown_fate(
    refusal: type[errors.BoathouseError],
) -> None:
    """The user's token was dropped since, for example: who logs in again and repeats the write under another id would
    have it twice."""
    bench = Bench()
    write = bench.write()
    bench.poll()
    disconnected(bench)
    bench.refuse(2, bench.numbers(2)[0], refusal(), term=2, leader=2)
    assert isinstance(write.error, errors.LeaderLost)


@pytest.mark.parametrize("refusal", [*_AT_THE_DOOR, errors.QuotaExceeded, errors.EmptyKey])
def test_what_the_log_says_of_a_write_in_doubt_is_certain(refusal: type[errors.BoathouseError]) -> None:
    bench = Bench()
    write = bench.write()
    bench.poll()
    disconnected(bench)
    bench.refuse(2, bench.numbers(2)[0], refusal(), term=2, leader=2, applied=True)
    assert type(write.error) is refusal


def test_a_write_in_doubt_that_meets_itself_as_another_users_is_of_unknown_fate() -> None:
    """Authentication was turned off since: the log knows the id with a user, and the replica nobody."""
    bench = Bench()
    write = bench.write()
    bench.poll()
    disconnected(bench)
    bench.refuse(2, bench.numbers(2)[0], errors.RequestIdReused(), term=2, leader=2, applied=True)
    assert isinstance(write.error, errors.LeaderLost)


def test_a_refusal_after_a_refusal_is_certain() -> None:
    bench = Bench()
    write = bench.write()
    bench.refuse(1, bench.numbers(1)[0], errors.NotLeader(), term=2, leader=2)
    bench.refuse(2, bench.numbers(2)[0], errors.NoSpace("node 2"), term=2, leader=2)
    assert isinstance(write.error, errors.NoSpace)


def test_a_write_is_not_repeated_once_its_id_may_be_forgotten() -> None:
    bench = Bench()
    doubtful = bench.write(timeout_s=3 * REPEAT_S_MAX)
    bench.poll()
    bench.disconnect(1)
    waiting = bench.write(timeout_s=3 * REPEAT_S_MAX)
    bench.pass_time(REPEAT_S_MAX - 1)
    assert is_open(doubtful)
    bench.pass_time(1 + 2 * SWEEP_INTERVAL_S)
    assert isinstance(doubtful.error, errors.TimedOut)
    bench.say(2, term=2, leader=2)
    assert bench.sent(2) == [waiting], "this one was never sent, and is certain"


def test_a_write_that_is_on_its_way_for_long_is_not_sent_again_when_its_link_breaks() -> None:
    bench = Bench()
    write = bench.write(timeout_s=3 * REPEAT_S_MAX)
    bench.poll()
    bench.pass_time(2 * REPEAT_S_MAX)
    assert is_open(write)
    bench.disconnect(1)
    assert isinstance(write.error, errors.TimedOut)


def test_a_process_that_was_stopped_sends_no_write_again_by_the_time_before() -> None:
    """What it hears first when it goes on is who leads by now."""
    bench = Bench()
    write, read = bench.write(timeout_s=3 * REPEAT_S_MAX), bench.read(LEADER, timeout_s=3 * REPEAT_S_MAX)
    bench.poll()
    bench.now += 2 * REPEAT_S_MAX
    bench.say(2, term=2, leader=2)
    assert bench.sent(2) == [read]
    assert isinstance(write.error, errors.TimedOut)
