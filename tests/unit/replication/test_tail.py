"""What the copying of a table does next."""

from __future__ import annotations

import random

from coordinator.replication.tail import STALLED_S, WAIT_S_MAX, Does, Follow, Lag, Tail, TakeSnapshot, Wait


def tail() -> Tail:
    made = Tail(random.Random(1), 0.0)
    made.stands(5)
    return made


def test_it_follows_as_long_as_nothing_fails() -> None:
    one = tail()
    assert one.next() == Follow()
    one.heard(7, 9, 1.0)
    assert one.next() == Follow()


def test_it_waits_longer_from_failure_to_failure_and_then_does_the_same_again() -> None:
    one = tail()
    waits = []
    for _ in range(12):
        one.failed("refused")
        step = one.next()
        assert isinstance(step, Wait)
        waits.append(step.seconds)
        assert one.next() == Follow()
    assert 0.05 <= waits[0] <= 0.1
    assert waits[2] > waits[0]
    assert all(WAIT_S_MAX / 2 <= wait <= WAIT_S_MAX for wait in waits[-3:])
    one.heard(6, 6, 1.0)
    one.failed("refused")
    step = one.next()
    assert isinstance(step, Wait)
    assert step.seconds <= 0.1


def test_a_snapshot_is_tried_until_it_is_taken() -> None:
    one = tail()
    one.cannot_follow("USE_SNAPSHOT")
    assert one.next() == TakeSnapshot("USE_SNAPSHOT")
    one.failed("refused")
    assert isinstance(one.next(), Wait)
    assert one.next() == TakeSnapshot("USE_SNAPSHOT")
    one.replaced(20, 3.0)
    assert (one.next(), one.revision) == (Follow(), 20)


def test_a_snapshot_may_take_the_copy_back() -> None:
    one = tail()
    one.cannot_follow("LEADER_BEHIND")
    one.replaced(3, 1.0)
    assert one.revision == 3


def test_lag_counts_revisions_and_the_time_since_it_was_level() -> None:
    one = tail()
    assert one.lag(2.0) == Lag(0, 2.0)  # nothing was heard yet
    one.heard(9, 9, 3.0)
    assert one.lag(100.0) == Lag(0, 0.0)
    one.heard(10, 30, 101.0)
    assert one.lag(104.0) == Lag(20, 101.0)
    one.heard(30, 30, 105.0)
    assert one.lag(106.0) == Lag(0, 0.0)
    one.failed("refused")
    assert one.lag(107.0) == Lag(0, 2.0)


def test_no_progress_for_long_is_an_alarm_and_a_quiet_leader_is_not() -> None:
    one = tail()
    assert not one.is_stalled(STALLED_S - 1)
    assert one.is_stalled(STALLED_S)
    one.heard(5, 5, STALLED_S)
    assert not one.is_stalled(2 * STALLED_S - 1)
    one.cannot_follow("USE_SNAPSHOT")
    one.part_taken(2 * STALLED_S)
    assert not one.is_stalled(3 * STALLED_S - 1)


def test_it_says_what_it_is_about_and_why() -> None:
    one = tail()
    assert (one.does, one.trouble, one.backoff_s) == (Does.FOLLOWS, "", 0.0)
    one.failed("refused")
    assert (one.does, one.trouble) == (Does.BACKS_OFF, "refused")
    assert one.backoff_s > 0
    one.cannot_follow("USE_SNAPSHOT")
    one.heard(6, 6, 1.0)
    assert (one.does, one.trouble, one.backoff_s) == (Does.TAKES_SNAPSHOT, "", 0.0)


def test_a_leader_that_only_repeats_itself_is_no_progress() -> None:
    one = tail()
    one.heard(6, 9, 0.0)
    one.heard(6, 9, STALLED_S)
    assert one.is_stalled(STALLED_S)
    one.heard(7, 9, STALLED_S)
    assert not one.is_stalled(STALLED_S)
    one.heard(9, 9, STALLED_S)
    one.heard(9, 9, 2 * STALLED_S)
    assert not one.is_stalled(2 * STALLED_S)


def test_a_snapshot_that_never_gets_further_is_no_progress() -> None:
    one = tail()
    one.cannot_follow("USE_SNAPSHOT")
    now = 0.0
    while now < 10 * STALLED_S:
        while not isinstance(one.next(), TakeSnapshot):
            pass  # it waits
        for _ in range(3):
            now += 1.0
            one.part_taken(now)
        one.failed("SnapshotInterrupted")
    assert one.is_stalled(now)
    assert isinstance(one.next(), Wait)
    assert isinstance(one.next(), TakeSnapshot)
    for _ in range(4):
        one.part_taken(now)
    assert not one.is_stalled(now), "it came further than ever before"


def test_one_snapshot_after_the_other_is_trouble_and_no_progress() -> None:
    one = tail()
    waits, now = [], 0.0
    one.cannot_follow("Diverged")
    while now < 2 * STALLED_S:
        step = one.next()
        if isinstance(step, Wait):
            waits.append(step.seconds)
            now += step.seconds
        elif isinstance(step, TakeSnapshot):
            now += 1.0
            one.part_taken(now)
            one.replaced(9, now)
        else:
            one.cannot_follow("Diverged")
    assert one.is_stalled(now)
    assert (one.does, one.trouble) == (Does.BACKS_OFF, "Diverged, right after a snapshot")
    assert max(waits) > WAIT_S_MAX / 2
    one.replaced(9, now)
    one.heard(9, 9, now)
    assert (one.does, one.trouble, one.is_stalled(now)) == (Does.FOLLOWS, "", False)


def test_a_copy_that_is_replaced_now_and_then_is_well() -> None:
    one = tail()
    for revision in (10, 20):
        one.cannot_follow("USE_SNAPSHOT")
        assert one.next() == TakeSnapshot("USE_SNAPSHOT")
        one.replaced(revision, 1.0)
        one.heard(revision + 1, revision + 1, 1.0)
    assert one.trouble == ""


def test_a_snapshot_says_whether_it_loses_something() -> None:
    one = tail()
    one.cannot_follow("LEADER_BEHIND", loses=True)
    one.failed("refused")
    one.next()
    assert one.next() == TakeSnapshot("LEADER_BEHIND", loses=True)
    one.replaced(3, 1.0)
    one.heard(4, 4, 1.0)
    one.cannot_follow("USE_SNAPSHOT")
    assert one.next() == TakeSnapshot("USE_SNAPSHOT")


def test_a_snapshot_says_whether_it_replaces_but_another_one() -> None:
    one = tail()
    one.cannot_follow("LEADER_BEHIND", loses=True)
    one.replaced(3, 1.0)
    one.cannot_follow("LEADER_BEHIND", loses=True)
    one.next()
    assert one.next() == TakeSnapshot("LEADER_BEHIND", loses=True, of_fresh=True)
    one.replaced(3, 1.0)
    one.heard(4, 4, 1.0)
    one.cannot_follow("LEADER_BEHIND", loses=True)
    assert one.next() == TakeSnapshot("LEADER_BEHIND", loses=True)
