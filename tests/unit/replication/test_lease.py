"""Which node replicates."""

from __future__ import annotations

from coordinator.replication.lease import EXPIRES_S, HELD_S, RENEW_S, Lease


def test_a_row_that_nobody_holds_is_taken_at_once() -> None:
    for revision, is_free in ((0, True), (0, False), (7, True)):
        lease = Lease()
        lease.see(revision, is_free=is_free, now=0.0)
        assert lease.may_write(0.0)


def test_a_row_that_goes_on_changing_is_left_alone() -> None:
    lease = Lease()
    for second in range(20):
        lease.see(second + 2, is_free=False, now=float(second))
        assert not lease.may_write(float(second))


def test_a_row_that_does_not_change_is_taken_within_five_seconds() -> None:
    lease = Lease()
    lease.see(2, is_free=False, now=10.0)
    lease.see(2, is_free=False, now=10.0 + EXPIRES_S - 0.1)
    assert not lease.may_write(10.0 + EXPIRES_S - 0.1)
    assert lease.may_write(10.0 + EXPIRES_S)
    assert EXPIRES_S + RENEW_S < 5


def test_the_holder_gives_up_before_anybody_takes_it() -> None:
    holder, other = Lease(), Lease()
    holder.see(0, is_free=True, now=0.0)
    holder.written(2, 0.0)
    other.see(2, is_free=False, now=0.0)
    assert holder.is_held(HELD_S - 0.1)
    assert holder.may_write(HELD_S - 0.1)
    assert not holder.is_held(HELD_S)
    assert not holder.may_write(HELD_S)
    assert not other.may_write(HELD_S)
    assert RENEW_S * 2 < HELD_S < EXPIRES_S


def test_who_has_lost_it_holds_it_no_longer() -> None:
    lease = Lease()
    lease.written(2, 0.0)
    lease.lost()
    assert not lease.is_held(0.1)
